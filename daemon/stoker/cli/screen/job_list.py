"""The jobs that a query selects, kept current by the changes of the daemon. Pure: it says what to ask for next.

Owns the rows, and what of them is out of date. Live jobs are read once, page by page, and then follow the stream of
changes; ended jobs are read as far as a person scrolls. So the daemon is never asked for the same page every second.

Invariant: an answer never undoes a change that was announced while it was on its way.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stoker.cli.screen.rows import FINAL, LIVE, JobRow, row_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from stoker.cli.screen.query import Query
    from stoker.cli.screen.rows import Order
    from stoker.core.views import JobView
    from stoker.core.wire_types import ChangeShape

PAGE = 500
NEWEST = 100  # ended jobs that are read again after an end
MOST_LIVE = 10_000
MOST_ENDED = 5_000
MOST_LOOKUPS = 25  # jobs that are read alone between two ticks
MOST_STRANGERS = 200  # jobs that came back to life: more of them, and everything is read again

Kind = Literal["running", "live", "newest", "older", "one"]


class ListRequest(NamedTuple):
    """One call of the daemon. `seen`: the newest job that was announced before it."""

    kind: Kind
    method: str
    params: dict[str, Any]
    seen: int = 0


class JobList:
    def __init__(self, query: Query, known: Iterable[JobRow] = ()) -> None:
        """`known`: rows of an earlier list, which are shown until the daemon has said what became of them."""
        self.query = query
        self.rows: dict[int, JobRow] = {row.id: row for row in known if query.selects(row)}
        self._unconfirmed = set(self.rows)
        self.loaded = False  # the first answers are there
        self._running_is_old = "running" in query.states
        self._live_is_behind = bool(query.live_states)
        self._live_cursor = 0
        self._newest_is_old = False
        self._older_cursor: int | None = None
        self._wants_older = bool(query.final_states)
        self._lookups: set[int] = set()
        self._lookups_left = MOST_LOOKUPS
        self._asked: ListRequest | None = None
        self._meanwhile: dict[int, str] = {}  # job -> its newest state, announced since the request was sent
        self._seen = 0

    # --- what to ask for ------------------------------------------------------------------------------------

    @property
    def live_left_off(self) -> bool:
        return self._live_is_behind and self.loaded and self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self.rows) >= MOST_LIVE

    def tick(self) -> None:
        """A second has passed: what running jobs report may have changed."""
        self._running_is_old |= any(row.state == "running" for row in self.rows.values())
        self._lookups_left = MOST_LOOKUPS

    def want_older(self) -> None:
        """The end of the list is on the screen."""
        ended = sum(row.state in FINAL for row in self.rows.values())
        self._wants_older |= self._older_cursor is not None and ended < MOST_ENDED

    def next_request(self, on_screen: Collection[int]) -> ListRequest | None:
        """The next call to make; None while one is on its way, or if everything is current."""
        if self._asked is not None:
            return None
        self._asked = self._chosen(on_screen)
        self._meanwhile.clear()
        if self._asked is None and not self.loaded:
            self.loaded = True
            for job in self._unconfirmed:
                self._forget(job)
        return self._asked

    def _chosen(self, on_screen: Collection[int]) -> ListRequest | None:
        """A part that is asked for is no longer old: a change that is announced meanwhile makes it old again."""
        live, final = self.query.live_states, self.query.final_states
        if self._running_is_old:
            self._running_is_old = False
            return self._page("running", ["running"], limit=PAGE)
        if self._live_is_behind and not self._is_full:
            self._live_is_behind = False
            return self._page("live", live, limit=PAGE, after=self._live_cursor)
        if self._newest_is_old:
            self._newest_is_old = False
            return self._page("newest", final, limit=NEWEST)
        if self._wants_older:
            self._wants_older = False
            before = {} if self._older_cursor is None else {"before": self._older_cursor}
            return self._page("older", final, limit=PAGE, **before)
        if self._lookups and self._lookups_left:
            self._lookups_left -= 1
            job = next((job for job in on_screen if job in self._lookups), None) or next(iter(self._lookups))
            self._lookups.discard(job)
            return ListRequest("one", "job.get", {"id": job}, self._seen)
        return None

    def _page(self, kind: Kind, states: Collection[str], **params: int) -> ListRequest:
        return ListRequest(kind, "job.list", {**self.query.fields, "states": list(states), **params}, self._seen)

    # --- answers --------------------------------------------------------------------------------------------

    def add(self, request: ListRequest, answer: Any) -> None:
        """Take over an answer; None says that the job is not there any more."""
        self._asked = None
        if request.kind == "one":
            self._take([] if answer is None else [answer])
            return
        jobs, following = answer["jobs"], answer["next"]
        self._take(jobs)
        if request.kind == "live":
            self._live_is_behind |= following is not None
            behind_last = max((job["id"] for job in jobs), default=0)
            self._live_cursor = max(self._live_cursor, behind_last, following or request.seen)
        elif request.kind == "older":
            self._older_cursor = following

    def _take(self, jobs: Iterable[JobView]) -> None:
        for job in jobs:
            row = row_of(job)
            self._unconfirmed.discard(row.id)
            state = self._meanwhile.get(row.id)
            if state is not None:
                row = row._replace(state=state, remark="")
                self._lookups.add(row.id)
            if self.query.selects(row):
                self.rows[row.id] = row
            else:
                self._forget(row.id)

    def _forget(self, job: int) -> None:
        self.rows.pop(job, None)
        self._lookups.discard(job)

    # --- changes --------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[ChangeShape]) -> bool:
        """Take over announced changes. False if so much is unknown that everything should be read again."""
        for change in changes:
            if change["job"] is not None and change["to"] is not None:
                self._apply(change["job"], change["from"], change["to"], change["at"])
        return len(self._lookups - self.rows.keys()) <= MOST_STRANGERS

    def _apply(self, job: int, before: str | None, state: str, at_ms: int) -> None:
        self._seen = max(self._seen, job)
        self._meanwhile[job] = state
        row = self.rows.get(job)
        if state not in self.query.states:
            self._forget(job)
        elif row is not None:
            self.rows[job] = _moved(row, state, at_ms)
        elif state in FINAL:
            self._newest_is_old = True
        elif before is None:
            self._live_is_behind = True
        if state == "running":
            self._running_is_old |= state in self.query.states
        elif job in self.rows or (before is not None and state in self.query.live_states):
            self._lookups.add(job)

    # --- what is shown --------------------------------------------------------------------------------------

    def shown(self, order: Order, now_ms: int) -> list[JobRow]:
        return order.sort(filter(self.query.has_words, self.rows.values()), now_ms)

    def counts(self) -> Counter[str]:
        return Counter(row.state for row in self.rows.values())


def _moved(row: JobRow, state: str, at_ms: int) -> JobRow:
    """The row in its new state, until the daemon has answered for the rest."""
    if state == row.state:
        return row
    started = at_ms if state == "running" else row.started_at
    finished = at_ms if state in FINAL else None
    why = "-" if state in LIVE else row.why
    return row._replace(state=state, remark="", why=why, started_at=started, finished_at=finished)
