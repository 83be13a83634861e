"""A job as a row of the screen: the few values of it that are kept, its cells, and how rows are ordered.

Owns the columns of jobs. A whole view of a job takes ten times the memory of its row, and thousands are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.cli import jobs
from stoker.cli.kit import outcome, render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stoker.core.views import JobView

LIVE = ("running", "held", "waiting", "queued")
FINAL = outcome.FINAL
# As `stoker ls` orders them: what runs, what a person must look at, what waits, what ended.
RANKS = {state: rank for rank, state in enumerate((*LIVE, *FINAL))}
LONGEST_TITLE = 500  # characters: a wide terminal shows less


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Column(NamedTuple):
    """`gives_way`: columns leave a narrow terminal in the order of these numbers; 0 stays. `width` 0 takes the rest."""

    name: str
    width: int
    numeric: bool = False
    gives_way: int = 0


JOB_COLUMNS = (
    Column("ID", 7, numeric=True),
    Column("STATE", 10),
    Column("WHY", 14, gives_way=5),
    Column("QUEUE", 11, gives_way=6),
    Column("PRIO", 5, numeric=True, gives_way=1),
    Column("TRY", 5, numeric=True, gives_way=2),
    Column("AGE", 7, numeric=True, gives_way=3),
    Column("RAN", 7, numeric=True, gives_way=7),
    Column("SAYS", 16, gives_way=4),
    Column("JOB", 0),
)


class JobRow(NamedTuple):
    """The values of a job that the table shows, sorts by and filters."""

    id: int
    state: str
    remark: str  # "stopping" or "frozen", which is shown in the place of the state
    why: str
    queue: str
    priority: int
    tries: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    says: str
    title: str
    name: str
    labels: Mapping[str, str]
    has_run: bool

    @property
    def shown_state(self) -> str:
        return self.remark or self.state

    @property
    def text(self) -> str:
        """The words that a filter searches."""
        labels = " ".join(f"{name}={value}" for name, value in self.labels.items())
        return f"{self.id} {self.shown_state} {self.queue} {self.title} {labels}".lower()

    def ran_ms(self, now_ms: int) -> int | None:
        if self.started_at is None or (self.state != "running" and self.finished_at is None):
            return None
        if self.state == "skipped":  # a person may have skipped it long after it ran
            return None
        return max(0, (now_ms if self.state == "running" else self.finished_at or now_ms) - self.started_at)


def row_of(job: JobView) -> JobRow:
    return JobRow(
        id=job["id"],
        state=job["state"],
        remark="stopping" if job.get("stopping") else "frozen" if job.get("frozen") else "",
        why=outcome.result(job) or outcome.awaited(job) or "-",
        queue=job["queue"],
        priority=job["priority"],
        tries=jobs.tries(job),
        created_at=job["created_at"],
        started_at=job["started_at"],
        finished_at=job["finished_at"],
        says=outcome.reports(job),
        title=render.cut(jobs.title(job), LONGEST_TITLE),
        name=job["name"] or "",
        labels=job["labels"],
        has_run=job["attempts"] > 0,
    )


def cells(row: JobRow, now_ms: int) -> tuple[str, ...]:
    """In the order of JOB_COLUMNS, as text that a terminal may get."""
    texts = (
        str(row.id),
        row.shown_state,
        row.why,
        row.queue,
        str(row.priority),
        row.tries,
        render.span(now_ms - row.created_at),
        render.span(row.ran_ms(now_ms)),
        row.says,
        row.title,
    )
    return tuple(map(render.visible, texts))


def _usual(row: JobRow) -> tuple[int, int, int]:
    """The order of `stoker ls`: what waits as it will start, all others newest first."""
    waits = row.state in ("waiting", "queued")
    return (RANKS[row.state], -row.priority if waits else 0, row.id if waits else -row.id)


# Column -> the key of a sort by it. Equal rows stay in the usual order.
SORT_KEYS: dict[str, Callable[[JobRow, int], Any]] = {
    "ID": lambda row, _: row.id,
    "STATE": lambda row, _: RANKS[row.state],
    "WHY": lambda row, _: row.why,
    "QUEUE": lambda row, _: row.queue,
    "PRIO": lambda row, _: row.priority,
    "TRY": lambda row, _: int(row.tries.partition("/")[0]),
    "AGE": lambda row, now_ms: now_ms - row.created_at,
    "RAN": lambda row, now_ms: row.ran_ms(now_ms) or 0,
    "SAYS": lambda row, _: row.says,
    "JOB": lambda row, _: row.title,
}
MOST_FIRST = frozenset({"ID", "PRIO", "TRY", "AGE", "RAN", "SAYS"})  # what people look for in these stands at their end


class Order(NamedTuple):
    """By which column the rows are sorted; None is the usual order."""

    column: str | None = None
    reverse: bool = False

    def after_choice(self, column: str) -> Order:
        """The order once that column is chosen: chosen again it turns round, and then it is the usual one again."""
        first = column in MOST_FIRST
        if column != self.column:
            return Order(column, first)
        return Order(column, not first) if self.reverse == first else Order()

    def sort(self, rows: Iterable[JobRow], now_ms: int) -> list[JobRow]:
        ordered = sorted(rows, key=_usual)
        if self.column is not None:
            value = SORT_KEYS[self.column]
            ordered.sort(key=lambda row: value(row, now_ms), reverse=self.reverse)
        return ordered
