"""The windows that lie over a screen: a question with a reason, a choice, the list of keys, a terminal too small.

Owns the smallest size of a terminal that the screen uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_REASON = 1_000  # characters, as the daemon has it
MOUSE = "Mouse: click a row, twice for details; click a header to sort; the wheel scrolls; the footer's keys work, too."
LEAST_COLUMNS, LEAST_LINES = 60, 14

WINDOW = """
{name} {{ align: center middle; }}
{name} > #window {{
    width: auto; min-width: 40; max-width: 90%; height: auto; max-height: 90%;
    border: round $primary; padding: 0 1; background: $surface;
}}
"""


class Confirm(ModalScreen[str | None]):
    """Asks before something is done; gives the reason that was typed, perhaps empty, or None for no."""

    DEFAULT_CSS = (
        WINDOW.format(name="Confirm")
        + """
    Confirm Input { width: 56; margin: 1 0; }
    Confirm Horizontal { width: auto; height: auto; }
    Confirm Button { margin: 0 2 0 0; min-width: 12; }
    """
    )
    BINDINGS: ClassVar = [Binding("escape", "dismiss(None)", "No")]

    def __init__(self, question: str, facts: str, yes: str) -> None:
        super().__init__()
        self._question = question
        self._facts = facts
        self._yes = yes

    def compose(self) -> ComposeResult:
        with Vertical(id="window"):
            yield Static(Text(self._question, style="bold"), id="question")
            yield Static(Text(self._facts), id="facts")
            yield Input(placeholder="why, for the history (may stay empty)", max_length=MAX_REASON, id="reason")
            with Horizontal():
                yield Button(self._yes, id="yes", variant="warning", compact=True)
                yield Button("No", id="no", compact=True)
            yield Static(Text("Enter: yes   Escape: no", style="dim"))

    def on_input_submitted(self) -> None:
        self.dismiss(self.query_one(Input).value)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(self.query_one(Input).value if event.button.id == "yes" else None)


class Choice(ModalScreen[str | None]):
    """One of some words, or None."""

    DEFAULT_CSS = (
        WINDOW.format(name="Choice")
        + """
    Choice OptionList { width: 40; height: auto; max-height: 16; border: none; }
    """
    )
    BINDINGS: ClassVar = [Binding("escape", "dismiss(None)", "Back")]

    def __init__(self, title: str, choices: Mapping[str, str], current: str | None) -> None:
        super().__init__()
        self._title = title
        self._choices = choices
        self._current = current

    def compose(self) -> ComposeResult:
        with Vertical(id="window"):
            yield Static(Text(self._title, style="bold"))
            yield OptionList(*(Option(Text(text), id=choice) for choice, text in self._choices.items()))

    def on_mount(self) -> None:
        options = self.query_one(OptionList)
        options.highlighted = next((at for at, choice in enumerate(self._choices) if choice == self._current), 0)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)


class Help(ModalScreen[None]):
    """All keys of the screen below."""

    DEFAULT_CSS = (
        WINDOW.format(name="Help")
        + """
    Help > #window { width: 72; }
    """
    )
    BINDINGS: ClassVar = [Binding("escape,question_mark,q", "dismiss(None)", "Back")]

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        table = Table.grid(padding=(0, 2))
        for key, meaning in self._keys:
            table.add_row(Text(key, style="bold"), Text(meaning))
        with VerticalScroll(id="window"):
            yield Static(Text("Keys", style="bold underline"))
            yield Static(table)
            yield Static(Text(MOUSE, style="dim"))


class TooSmall(ModalScreen[None]):
    """Covers everything while the terminal has no room for it."""

    DEFAULT_CSS = "TooSmall { align: center middle; background: $surface; }"

    def compose(self) -> ComposeResult:
        yield Static(id="too-small")

    def on_resize(self) -> None:
        size = self.app.size
        words = f"The terminal is too small: {size.width}x{size.height}. It needs {LEAST_COLUMNS}x{LEAST_LINES}."
        self.query_one("#too-small", Static).update(Text(words, justify="center"))


def is_too_small(columns: int, lines: int) -> bool:
    return columns < LEAST_COLUMNS or lines < LEAST_LINES
