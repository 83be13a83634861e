"""Everything about one job: why it is in its state, its facts, attempts, limits and history.

Owns which of it is shown, and when it is read again: after each change of the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from stoker.cli import history, jobs
from stoker.cli.kit import render
from stoker.cli.screen.actions import words
from stoker.cli.screen.grid import STATE_STYLES
from stoker.cli.screen.log_screen import LogScreen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.cli.screen.session import Session
    from stoker.core.errors import StokerError
    from stoker.core.views import Explanation, JobDetails, JobHistory
    from stoker.rpc.client import Client

NEWEST_CHANGES = 50


class JobScreen(Screen[None]):
    """One job. The same keys act on it as in the table."""

    DEFAULT_CSS = """
    JobScreen VerticalScroll { height: 1fr; padding: 0 1; background: $surface; }
    JobScreen #title {
        height: 1; text-wrap: nowrap; text-overflow: ellipsis; background: $panel; text-style: bold; padding: 0 1;
    }
    """
    BINDINGS: ClassVar = [
        Binding("l", "log", "Log"),
        Binding("c", "act('job.cancel')", "Cancel"),
        Binding("r", "act('job.retry')", "Retry"),
        Binding("h", "act('job.hold')", "Hold"),
        Binding("u", "act('job.release')", "Release"),
        Binding("x", "act('job.skip')", "Skip"),
        Binding("escape,q", "dismiss", "Back", key_display="esc"),
    ]
    app: Session

    def __init__(self, job: int) -> None:
        super().__init__()
        self.job = job
        self.is_old = False  # the job was changed since it was read
        self._job_name = ""

    def compose(self) -> ComposeResult:
        yield Static(Text(f"job {self.job}"), id="title")
        with VerticalScroll():
            yield Static("loading", id="body", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self.load()

    def load(self) -> None:
        self.is_old = False
        self.app.ask(self._read, self._show, self._fail)

    def _read(self, client: Client) -> tuple[JobDetails, Explanation, JobHistory]:
        return client.get(self.job), client.why(self.job), client.history(self.job)

    def _show(self, answers: tuple[JobDetails, Explanation, JobHistory]) -> None:
        if not self.is_attached:
            return
        job, why, past = answers
        self._job_name = render.visible(jobs.title(job))
        title = Text(f"job {self.job} ").append(job["state"], style=STATE_STYLES.get(job["state"], ""))
        title.append(f"  {self._job_name}")
        self.query_one("#title", Static).update(title)
        changes = past["changes"][-NEWEST_CHANGES:]
        older = len(past["changes"]) - len(changes)
        self.query_one("#body", Static).update(
            Group(
                _heading("why"),
                _text(why["message"]),
                *([_text(f"next: {why['hint']}")] if why["hint"] else []),
                _heading("job"),
                _pairs(jobs.facts(job)),
                _heading("attempts"),
                _attempts(job),
                _heading(f"history{f' (the newest {NEWEST_CHANGES} changes)' if older > 0 else ''}"),
                _table(history.CHANGE_HEADERS[1:], [history.change_row(change)[1:] for change in changes]),
            )
        )

    def _fail(self, error: StokerError) -> None:
        if self.is_attached:
            self.query_one("#body", Static).update(_text(words(error)))

    def action_log(self) -> None:
        self.app.push_screen(LogScreen(self.job, self._job_name))

    def action_act(self, action: str) -> None:
        self.app.confirm(action, [self.job], [self._job_name])


def _heading(title: str) -> Text:
    return Text(f"\n{title}", style="bold underline")


def _text(text: str) -> Text:
    return Text(render.visible(text, keep="\n"))


def _pairs(pairs: Sequence[tuple[str, object]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for key, value in pairs:
        if value is not None:
            table.add_row(key, _text(str(value)))
    return table


def _attempts(job: JobDetails) -> RenderableType:
    if not job["attempts_list"]:
        return Text("none yet")
    return _table(*history.attempt_table(job["attempts_list"]))


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> RenderableType:
    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(_text(str(cell)) for cell in row))
    return table
