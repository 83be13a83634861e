"""A table of any length: only the lines that are on the screen are ever made.

Owns the cursor, the marked rows, and the fit of the columns to the width. Rows are named by keys, and the cursor stays
with its key while rows come, go and change places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from stoker.cli.kit.render import STATE_COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stoker.cli.screen.rows import Column

RowT = TypeVar("RowT")
GAP = 1
LEAST_REST = 22  # cells of the column that takes the rest, before others leave
MARK = "▌"
COLOURS = {"31": "red", "32": "green", "33": "yellow", "36": "cyan"}  # of render.STATE_COLOURS
STATE_STYLES = {state: Style(color=COLOURS.get(code), dim=code == "2" or None) for state, code in STATE_COLOURS.items()}
CLICKS_TO_OPEN = 2


class ColumnPlace(NamedTuple):
    """Where a column stands in a line."""

    column: int
    start: int
    width: int


def fit(columns: Sequence[Column], width: int) -> list[ColumnPlace]:
    """The columns that have room, each at its place; the last one takes what is left."""
    shown = list(range(len(columns)))
    leaving = sorted((i for i in shown if columns[i].gives_way), key=lambda index: columns[index].gives_way)
    while sum((columns[index].width or LEAST_REST) + GAP for index in shown) > width and leaving:
        shown.remove(leaving.pop(0))
    places, start = [], 1  # the first cell is for the mark
    for index in shown:
        room = columns[index].width or max(1, width - start)
        places.append(ColumnPlace(index, start, room))
        start += room + GAP
    return places


def fitted(text: str, width: int, *, right: bool) -> str:
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + "…" if width else ""
    return " " * (width - length) + text if right else text + " " * (width - length)


class Grid(ScrollView, Generic[RowT], can_focus=True, inherit_bindings=False):
    """`show` takes the rows in their order, by their keys; `cells` gives the texts of a row."""

    DEFAULT_CSS = """
    Grid { height: 1fr; overflow-x: hidden; background: $surface; }
    Grid > .grid--header { text-style: bold; background: $panel; color: $foreground; }
    Grid > .grid--cursor { background: $primary; color: $text; text-style: bold; }
    Grid > .grid--marked { background: $warning-muted; color: $text-warning; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"grid--header", "grid--cursor", "grid--marked"}
    BINDINGS: ClassVar = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "move(-1000000000)", "First row", show=False),
        Binding("end,G", "move(1000000000)", "Last row", show=False),
        Binding("enter", "open", "Details", key_display="⏎"),
    ]

    class RowOpened(Message):
        """Enter, or a double click."""

        def __init__(self, key: int | str) -> None:
            super().__init__()
            self.key = key

    class HeaderChosen(Message):
        def __init__(self, column: str) -> None:
            super().__init__()
            self.column = column

    class Moved(Message):
        """The cursor or the window moved: `left` rows are behind the last one that is on the screen."""

        def __init__(self, left: int) -> None:
            super().__init__()
            self.left = left

    def __init__(self, columns: Sequence[Column], cells: Callable[[RowT], Sequence[str]], ident: str) -> None:
        super().__init__(id=ident)
        self.columns = columns
        self._cells = cells
        self._state_column = next((i for i, column in enumerate(columns) if column.name == "STATE"), -1)
        self.rows: Mapping[int | str, RowT] = {}
        self.keys: list[int | str] = []
        self.marked: set[int | str] = set()
        self.sorted_by: tuple[str, bool] | None = None
        self._at = 0
        self._places: list[ColumnPlace] = []

    # --- rows -----------------------------------------------------------------------------------------------

    def show(self, rows: Mapping[int | str, RowT]) -> None:
        """Show these rows. The cursor stays with its row, or at its place if that is gone."""
        current, keys = self.key, list(rows)
        self.rows, self.keys = rows, keys
        if current is not None and current in rows:
            self._at = self._at if self._at < len(keys) and keys[self._at] == current else keys.index(current)
        else:
            self._at = max(0, min(self._at, len(keys) - 1))
        self.marked.intersection_update(rows)
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        self._keep_cursor_in_sight()
        self.refresh()

    @property
    def key(self) -> int | str | None:
        return self.keys[self._at] if self._at < len(self.keys) else None

    @property
    def on_screen(self) -> Sequence[int | str]:
        top = self.scroll_offset.y
        return self.keys[top : top + max(0, self.size.height - 1)]

    def toggle_mark(self) -> None:
        if self.key is not None:
            self.marked ^= {self.key}
            self.action_move(1)

    # --- lines ----------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        if y == 0:
            style = base + self.get_component_rich_style("grid--header", partial=True)
            return self._header(style).adjust_cell_length(width, style)
        index = self.scroll_offset.y + y - 1
        if index >= len(self.keys):
            return Strip.blank(width, base)
        key = self.keys[index]
        style = base
        if key in self.marked:
            style += self.get_component_rich_style("grid--marked", partial=True)
        at_cursor = index == self._at
        if at_cursor:
            style += self.get_component_rich_style("grid--cursor", partial=True)
        return self._row(key, style, at_cursor=at_cursor).adjust_cell_length(width, style)

    def _header(self, style: Style) -> Strip:
        segments = [Segment(" ", style)]
        for place in self._places:
            column = self.columns[place.column]
            name = column.name
            if self.sorted_by is not None and self.sorted_by[0] == name:
                name += "▼" if self.sorted_by[1] else "▲"
            segments.append(Segment(fitted(name, place.width, right=column.numeric) + " " * GAP, style))
        return Strip(segments)

    def _row(self, key: int | str, style: Style, *, at_cursor: bool) -> Strip:
        texts = self._cells(self.rows[key])
        segments = [Segment(MARK if key in self.marked else " ", style)]
        for place in self._places:
            text = texts[place.column]
            shown = style
            if place.column == self._state_column and not at_cursor:
                shown += STATE_STYLES.get(text, Style.null())
            numeric = self.columns[place.column].numeric
            segments += [Segment(fitted(text, place.width, right=numeric), shown), Segment(" " * GAP, style)]
        return Strip(segments)

    # --- keys and mouse -------------------------------------------------------------------------------------

    def action_move(self, rows: int) -> None:
        self._at = max(0, min(self._at + rows, len(self.keys) - 1))
        self._keep_cursor_in_sight()
        self.refresh()
        self._tell_moved()

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self.size.height - 2))

    def action_open(self) -> None:
        if self.key is not None:
            self.post_message(self.RowOpened(self.key))

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            place = next((p for p in self._places if p.start <= event.x < p.start + p.width + GAP), None)
            if place is not None:
                self.post_message(self.HeaderChosen(self.columns[place.column].name))
            return
        index = self.scroll_offset.y + event.y - 1
        if index < len(self.keys):
            self._at = index
            self.action_move(0)
            if event.chain >= CLICKS_TO_OPEN:
                self.action_open()

    def on_resize(self, event: events.Resize) -> None:
        self._places = fit(self.columns, event.size.width)
        self.virtual_size = Size(event.size.width, len(self.keys) + 1)
        self._keep_cursor_in_sight()
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._tell_moved()

    def _keep_cursor_in_sight(self) -> None:
        rows = max(1, self.size.height - 1)
        top = self.scroll_offset.y
        wanted = min(max(top, self._at - rows + 1), self._at)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, force=True)

    def _tell_moved(self) -> None:
        left = len(self.keys) - self.scroll_offset.y - self.size.height + 1
        self.post_message(self.Moved(max(0, left)))
