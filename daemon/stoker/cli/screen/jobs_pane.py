"""The table of jobs, with its filter, its order, the selected rows and the keys that act on them.

Owns what is asked of the daemon next (job_list.py decides), and when the rows are shown again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, Static

from stoker.cli.kit import render
from stoker.cli.screen.details import JobScreen
from stoker.cli.screen.dialogs import Choice
from stoker.cli.screen.grid import Grid
from stoker.cli.screen.job_list import JobList, ListRequest
from stoker.cli.screen.log_screen import LogScreen
from stoker.cli.screen.query import CHOICES, Query
from stoker.cli.screen.rows import JOB_COLUMNS, Order, cells, now_ms
from stoker.core.errors import JobNotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from stoker.cli.screen.rows import JobRow
    from stoker.cli.screen.session import Session
    from stoker.core.errors import StokerError
    from stoker.core.wire_types import ChangeShape
    from stoker.rpc.client import Client


class JobsPane(Vertical):
    """The jobs that a query selects."""

    DEFAULT_CSS = """
    JobsPane #caption { height: 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; padding: 0 1; }
    JobsPane #filter { height: 1; border: none; }
    """
    BINDINGS: ClassVar = [
        Binding("l", "log", "Log"),
        Binding("space", "mark", "Select", key_display="␣"),
        Binding("c", "act('job.cancel')", "Cancel"),
        Binding("r", "act('job.retry')", "Retry"),
        Binding("h", "act('job.hold')", "Hold", show=False),
        Binding("u", "act('job.release')", "Release", show=False),
        Binding("x", "act('job.skip')", "Skip", show=False),
        Binding("asterisk", "mark_all", "Select all that are shown", show=False),
        Binding("f", "choose_states", "State"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "choose_order", "Sort"),
        Binding("escape", "clear", "Clear selection and filter", show=False),
    ]
    app: Session

    def __init__(self) -> None:
        super().__init__(id="jobs")
        self.grid: Grid[JobRow] = Grid(JOB_COLUMNS, lambda row: cells(row, now_ms()), "job-grid")
        self.jobs = JobList(Query())
        self.order = Order()
        self._is_old = True  # something was changed since the rows were shown

    def compose(self) -> ComposeResult:
        yield Static(id="caption", markup=False)
        yield self.grid
        yield Input(placeholder="words, queue:NAME, name:TEXT, label:K=V", id="filter", compact=True)

    def on_mount(self) -> None:
        self.query_one("#filter").display = False

    # --- what the daemon says -------------------------------------------------------------------------------

    def reload(self, query: Query | None = None) -> None:
        """Read everything again; the rows that are shown stay until the answer is there."""
        self.jobs = JobList(query or self.jobs.query, self.jobs.rows.values())
        self._is_old = True
        self.ask_next()

    def tick(self) -> None:
        self.jobs.tick()
        self.ask_next()
        self.grid.refresh()  # ages and times

    def changed(self, changes: Sequence[ChangeShape]) -> None:
        if not self.jobs.apply(changes):
            self.reload()
        self._is_old = True

    def ask_next(self) -> None:
        request = self.jobs.next_request([int(key) for key in self.grid.on_screen])
        if request is None:
            return
        jobs = self.jobs
        self.app.ask(
            lambda client: _answer(client, request),
            lambda answer: self._take(jobs, request, answer),
            lambda error: self._refused(jobs, error),
        )

    def _refused(self, jobs: JobList, error: StokerError) -> None:
        """A filter may name a queue that does not exist. If the daemon is away, everything is read again later."""
        self.app.away_with(error)
        if not error.transient:
            jobs.loaded = True
            self._is_old = True

    def _take(self, jobs: JobList, request: ListRequest, answer: Any) -> None:
        if jobs is self.jobs:  # and not an older query's
            jobs.add(request, answer)
            self._is_old = True
            self.ask_next()

    # --- what is shown --------------------------------------------------------------------------------------

    def show(self) -> None:
        """Show the rows as they are now, if there are news."""
        if self._is_old:
            self._is_old = False
            self.grid.show({row.id: row for row in self.jobs.shown(self.order, now_ms())})
            self._show_caption()
            if len(self.grid.keys) < self.grid.size.height:
                self._want_older()

    def _show_caption(self) -> None:
        query, shown, all_rows = self.jobs.query, len(self.grid.keys), len(self.jobs.rows)
        parts = [f"{query.choice} jobs: {shown}" + (f" of {all_rows}" if shown < all_rows else "")]
        if not self.jobs.loaded:
            parts[0] += ", loading"
        if self.jobs.live_left_off:
            parts.append("not all are loaded: filter by queue:NAME or label:K=V")
        if query.text:
            parts.append(f"filter {query.text}")
        if self.order.column is not None:
            parts.append(f"by {self.order.column} {'▼' if self.order.reverse else '▲'}")
        if self.grid.marked:
            parts.append(f"{len(self.grid.marked)} selected")
        self.query_one("#caption", Static).update(Text(render.visible("  ·  ".join(parts))), layout=False)

    @on(Grid.Moved)
    def _moved(self, event: Grid.Moved) -> None:
        if event.left <= self.grid.size.height:
            self._want_older()

    def _want_older(self) -> None:
        self.jobs.want_older()
        self.ask_next()

    # --- keys -----------------------------------------------------------------------------------------------

    @on(Grid.RowOpened)
    def _opened(self, event: Grid.RowOpened) -> None:
        self.app.push_screen(JobScreen(int(event.key)))

    def action_log(self) -> None:
        if self.grid.key is not None:
            row = self.grid.rows[self.grid.key]
            self.app.push_screen(LogScreen(row.id, row.title))

    def action_mark(self) -> None:
        self.grid.toggle_mark()
        self._show_caption()

    def action_mark_all(self) -> None:
        self.grid.marked.update(self.grid.keys)
        self.grid.refresh()
        self._show_caption()

    def action_act(self, action: str) -> None:
        """Act on the selected jobs, or on the one at the cursor."""
        current = [] if self.grid.key is None else [self.grid.key]
        ids = [int(key) for key in ([key for key in self.grid.keys if key in self.grid.marked] or current)]
        if ids:
            self.app.confirm(action, ids, [self.grid.rows[job].title for job in ids], self._unmark)

    def _unmark(self) -> None:
        self.grid.marked.clear()
        self._is_old = True

    def action_choose_states(self) -> None:
        choices = {choice: f"{choice:<8} {chosen.words}" for choice, chosen in CHOICES.items()}
        self.app.push_screen(Choice("Which jobs?", choices, self.jobs.query.choice), self._choose_states)

    def _choose_states(self, choice: str | None) -> None:
        if choice is not None:
            self.ask_for(self.jobs.query._replace(choice=choice))

    def action_choose_order(self) -> None:
        columns = {"": "usual order"} | {column.name: column.name for column in JOB_COLUMNS}
        self.app.push_screen(Choice("Sort by (again: turn round)", columns, self.order.column), self._choose_order)

    def _choose_order(self, column: str | None) -> None:
        if column is not None:
            self._sort(self.order.after_choice(column) if column else Order())

    @on(Grid.HeaderChosen)
    def _header_chosen(self, event: Grid.HeaderChosen) -> None:
        self._sort(self.order.after_choice(event.column))

    def _sort(self, order: Order) -> None:
        self.order = order
        self.grid.sorted_by = None if order.column is None else (order.column, order.reverse)
        self._is_old = True
        self.show()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.value = self.jobs.query.text
        field.display = True
        self.screen.set_focus(field)  # at once: keys may follow fast

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        """Words act as they are typed; what the daemon is asked for waits for Enter."""
        try:
            query = self.jobs.query.with_text(event.value)
        except UsageError:
            return
        if query.asks_the_same(self.jobs.query):
            self.ask_for(query)

    @on(Input.Submitted, "#filter")
    def _submitted(self, event: Input.Submitted) -> None:
        try:
            query = self.jobs.query.with_text(event.value)
        except UsageError as error:
            self.app.notify(render.visible(error.message), severity="error", markup=False)
            return
        self._close_filter()
        self.ask_for(query)

    def action_clear(self) -> None:
        """One thing at a time: the field, the selection, the filter, the choice of states."""
        query = self.jobs.query
        if self.query_one("#filter").display:
            self._close_filter()
        elif self.grid.marked:
            self._unmark()
        elif query.text:
            self.ask_for(query.with_text(""))
        else:
            self.ask_for(Query())
        self.show()

    def _close_filter(self) -> None:
        self.query_one("#filter").display = False
        self.screen.set_focus(self.grid)

    def ask_for(self, query: Query) -> None:
        if query.asks_the_same(self.jobs.query):
            self.jobs.query = query
            self._is_old = True
        else:
            self.reload(query)
        self.show()


def _answer(client: Client, request: ListRequest) -> Any:
    """The daemon's answer; None for a job that was removed meanwhile."""
    try:
        return client.call(request.method, request.params, again=True)
    except JobNotFound:
        return None
