"""The log of a job as it grows: follow, pause, search, and the end of the attempt.

Owns what is loaded: the last lines at first, then all that follows. `log_lines.py` makes the text harmless.
"""

from __future__ import annotations

from binascii import a2b_base64
from typing import TYPE_CHECKING, Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.geometry import Size
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

from stoker.cli.kit import render
from stoker.cli.screen.actions import words
from stoker.cli.screen.background import StreamFollower
from stoker.cli.screen.log_lines import LoadedLines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.cli.screen.session import Session
    from stoker.core.errors import StokerError
    from stoker.rpc.client import Client

TAIL_LINES = 2_000
FOUND = Style(reverse=True)


class LogScroll(ScrollView, can_focus=True):
    """The lines; only those on the screen are made."""

    DEFAULT_CSS = "LogScroll { height: 1fr; background: $surface; }"

    def __init__(self) -> None:
        super().__init__()
        self.lines = LoadedLines()
        self.follows = True
        self.sought = ""

    def grown(self) -> None:
        self.virtual_size = Size(max(self.virtual_size.width, self._widest()), len(self.lines))
        if self.follows:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        self.refresh()

    def on_resize(self) -> None:
        self.grown()

    def _widest(self) -> int:
        """The width of the last lines: so far the view can be moved to the right."""
        count = len(self.lines)
        return max((len(self.lines.plain(index)) for index in range(max(0, count - 100), count)), default=0)

    def render_line(self, y: int) -> Strip:
        scroll_x, scroll_y = self.scroll_offset
        width, base = self.size.width, self.rich_style
        if scroll_y + y >= len(self.lines):
            return Strip.blank(width, base)
        text = Text.from_ansi(self.lines[scroll_y + y], no_wrap=True, end="")
        text.expand_tabs(8)
        if self.sought:
            text.highlight_words([self.sought], FOUND, case_sensitive=False)
        strip = Strip(text.render(self.app.console)).apply_style(base)
        return strip.crop_extend(scroll_x, scroll_x + width, base)

    def find(self, step: int) -> bool:
        """Go to the next line (`step` 1) or an earlier one (-1) with the sought text, from the top line on."""
        count, sought = len(self.lines), self.sought.lower()
        for distance in range(1, count + 1):
            index = (self.scroll_offset.y + step * distance) % count
            if sought in self.lines.plain(index).lower():
                self.follows = False
                self.scroll_to(y=index, animate=False, force=True)
                return True
        return False


class LogScreen(Screen[None]):
    DEFAULT_CSS = """
    LogScreen #log-title {
        height: 1; text-wrap: nowrap; text-overflow: ellipsis; background: $panel; text-style: bold;
    }
    LogScreen #log-search { height: 1; border: none; }
    """
    BINDINGS: ClassVar = [
        Binding("f,space", "follow", "Follow/pause", key_display="f"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("n", "find(1)", "Next"),
        Binding("N", "find(-1)", "Previous"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("home,g", "first", "First line", show=False),
        Binding("end,G", "last", "Last line", show=False),
        Binding("escape,q", "back", "Back", key_display="esc"),
    ]
    app: Session

    def __init__(self, job: int, title: str) -> None:
        super().__init__()
        self._job = job
        self._job_title = title
        self._attempt = 0
        self._offset: int | None = None  # the end of what is loaded
        self._state = "loading"
        self._follower: StreamFollower | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="log-title")
        yield LogScroll()
        yield Input(placeholder="search this log", id="log-search", compact=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self._follower = self.app.follower(self._read, self._take, lost=self._lost, ended=self._ended)
        self._follower.start()
        self._close_search()
        self._show_title()

    def on_unmount(self) -> None:
        if self._follower is not None:
            self._follower.stop()

    def _read(self, client: Client) -> Iterator[Any]:
        """The log from where it was broken off, with the same attempt; at first its last lines."""
        where = {"tail_lines": TAIL_LINES} if self._offset is None else {"offset": self._offset}
        attempt = {"attempt": self._attempt} if self._attempt else {}
        return client.follow("job.logs", {"id": self._job, "follow": True, **attempt, **where})

    # --- what arrives ---------------------------------------------------------------------------------------

    def _take(self, piece: dict[str, Any]) -> None:
        view = self.query_one(LogScroll)
        self._attempt, self._state = piece["attempt"], "live"
        if "hole" in piece:
            view.lines.hole(render.size(piece["hole"]))
            self._offset = piece["offset"] + piece["hole"]
        else:
            data = a2b_base64(piece["data"])
            view.lines.feed(data)
            self._offset = piece["offset"] + len(data)
        view.grown()
        self._show_title()

    def _lost(self, error: StokerError) -> None:
        self._state = f"the daemon is away, trying again: {words(error)}"
        self._show_title()

    def _ended(self, error: StokerError | None) -> None:
        self._state = "complete" if error is None else words(error)
        self._show_title()

    def _show_title(self) -> None:
        view = self.query_one(LogScroll)
        follows = "following" if view.follows else "paused"
        attempt = f", attempt {self._attempt}" if self._attempt else ""
        state = f"{self._state}, {follows}" if self._state == "live" else self._state
        lines = f"{len(view.lines)} lines" + (", earlier ones are left out" if view.lines.dropped else "")
        text = f" log of job {self._job}{attempt}: {state} ({lines})  {render.visible(self._job_title)}"
        self.query_one("#log-title", Static).update(Text(text), layout=False)

    # --- keys -----------------------------------------------------------------------------------------------

    def action_follow(self) -> None:
        view = self.query_one(LogScroll)
        view.follows = not view.follows
        view.grown()
        self._show_title()

    def action_scroll(self, lines: int) -> None:
        self._move_to(self.query_one(LogScroll).scroll_offset.y + lines)

    def action_first(self) -> None:
        self._move_to(0)

    def action_last(self) -> None:
        self.query_one(LogScroll).follows = False
        self.action_follow()

    def _move_to(self, line: int) -> None:
        view = self.query_one(LogScroll)
        view.follows = False
        view.scroll_to(y=line, animate=False, force=True)
        self._show_title()

    def on_mouse_scroll_up(self) -> None:
        self.query_one(LogScroll).follows = False
        self._show_title()

    def action_search(self) -> None:
        field = self.query_one("#log-search", Input)
        field.display = True
        self.set_focus(field)  # at once: keys may follow fast

    def on_input_submitted(self, event: Input.Submitted) -> None:
        view = self.query_one(LogScroll)
        view.sought = event.value
        self._close_search()
        view.refresh()
        if view.sought:
            self.action_find(-1)

    def action_find(self, step: int) -> None:
        view = self.query_one(LogScroll)
        if not view.sought:
            self.action_search()
        elif not view.find(step):
            self.notify(f"not in the loaded lines: {render.visible(view.sought)}", severity="warning", markup=False)
        self._show_title()

    def _close_search(self) -> None:
        self.query_one("#log-search").display = False
        self.set_focus(self.query_one(LogScroll))

    def action_back(self) -> None:
        if self.query_one("#log-search").display:
            self._close_search()
        else:
            self.dismiss()
