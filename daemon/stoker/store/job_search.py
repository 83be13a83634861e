"""The jobs that match a filter, in the order of their ids, in portions: a long search takes several calls.

Owns which index serves which part of a filter. Ended jobs are found in `jobs_found`, which has all that a filter asks
for, except the text of commands. Of the others, few are found by the indexes of their states; where many match, their
rows are read. Invariant: a portion takes some tens of milliseconds, however many jobs there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.job.model import FINAL, Job, State
from stoker.core.requests import JobFilter
from stoker.store import jobs
from stoker.store.database import json_array
from stoker.store.jobs import NOT_PURGED

ENDED = "finished_at IS NOT NULL AND state = ? AND queue = ?"
NEXT_QUEUE = "SELECT min(queue) FROM jobs WHERE finished_at IS NOT NULL AND state = ? AND queue > ?"
OPEN_IDS = {  # SQLite uses a partial index only if the query has its condition word for word
    State.QUEUED: "SELECT id FROM jobs WHERE state = 'queued'",
    State.WAITING: "SELECT id FROM jobs WHERE state IN ('waiting', 'held') AND state = 'waiting'",
    State.HELD: "SELECT id FROM jobs WHERE state IN ('waiting', 'held') AND state = 'held'",
    State.RUNNING: "SELECT job_id FROM attempts WHERE ended_at IS NULL",
}
FIRST_OPEN = f"SELECT min(id) FROM ({' UNION ALL '.join(OPEN_IDS.values())})"
EDGES = "SELECT coalesce((SELECT min(id) FROM jobs), 1), coalesce((SELECT max(id) FROM jobs), 0)"
ONE = f"SELECT {jobs.COLUMNS} FROM jobs WHERE id = ? AND {NOT_PURGED}"
FEW = 5_000  # jobs that have not ended: their rows are looked at one by one
ENTRIES, ROWS = 100_000, 20_000  # how many ids a portion spans, by what is read for each
LAST_CHARACTER = "\U0010ffff"  # no character comes after it in the order of SQLite
PAGE_BYTES = 1024 * 1024  # of jobs, as stored


class Scan(Struct, frozen=True):
    """Some jobs and their size in bytes; the search goes on behind the id `next`, if it is not None."""

    jobs: list[Job]
    next: int | None
    size: int


class Range(Struct, frozen=True):
    """The ids from `low` to `high`, both included, in the order of the list."""

    low: int
    high: int
    newest_first: bool

    @property
    def order(self) -> str:
        return "DESC" if self.newest_first else "ASC"

    def cut(self, span: int) -> Range:
        """Its first `span` ids."""
        if self.newest_first:
            return replace(self, low=max(self.low, self.high - span + 1))
        return replace(self, high=min(self.high, self.low + span - 1))

    def up_to(self, ident: int) -> Range:
        """The ids that do not come behind `ident`."""
        return replace(self, low=ident) if self.newest_first else replace(self, high=ident)

    @property
    def cursor(self) -> int:
        """Where the search goes on behind it."""
        return self.low if self.newest_first else self.high


def scan(
    connection: sqlite3.Connection,
    wanted: JobFilter,
    steps: Collection[str] | None = None,
    owner_uid: int | None = None,
) -> Scan:
    """The jobs that match a filter in the next portion. `steps`: those that it names; `owner_uid`: those of a user."""
    ended = [state for state in State if state in FINAL and (not wanted.states or state in wanted.states)]
    living = [state for state in State if state not in FINAL and (not wanted.states or state in wanted.states)]
    whole = _whole(connection, wanted, only_open=not ended)
    if whole.low > whole.high:
        return Scan([], None, 0)
    search = _Search(connection, wanted, steps, owner_uid)
    few = _few(connection, living)
    portion = whole
    if wanted.workflow is None and (few is None or wanted.search is not None or owner_uid is not None):
        portion = whole.cut(ROWS)
    elif wanted.workflow is None and search.conditions:
        portion = whole.cut(ENTRIES)
    ids = search.ids(portion, ended, living, few)
    if len(ids) == wanted.limit:
        return _read(connection, ids, ids[-1])
    return _read(connection, ids, None if portion == whole else portion.cursor)


def _whole(connection: sqlite3.Connection, wanted: JobFilter, *, only_open: bool) -> Range:
    """All ids that the list may still have."""
    first, last = connection.execute(EDGES).fetchone()
    if only_open:
        (first_open,) = connection.execute(FIRST_OPEN).fetchone()
        first = last + 1 if first_open is None else first_open
    if wanted.after is not None:
        return Range(max(first, wanted.after + 1), last, newest_first=False)
    return Range(first, last if wanted.before is None else min(last, wanted.before - 1), newest_first=True)


def _few(connection: sqlite3.Connection, living: Sequence[State]) -> list[int] | None:
    """The ids of the jobs in these states, if there are few of them."""
    ids: list[int] = []
    for state in living:
        ids += [row[0] for row in connection.execute(f"{OPEN_IDS[state]} LIMIT ?", (FEW + 1 - len(ids),))]
        if len(ids) > FEW:
            return None
    return ids


def _read(connection: sqlite3.Connection, ids: Sequence[int], following: int | None) -> Scan:
    """The rows of these jobs, without those that are being purged; as many as fit."""
    found: list[Job] = []
    size = 0
    for ident in ids:
        for row in connection.execute(ONE, (ident,)):
            found.append(jobs.from_row(row))
            size += sum(len(text) for text in row if isinstance(text, str))
        if size > PAGE_BYTES:
            return Scan(found, ident, size)
    return Scan(found, following, size)


class _Search:
    """A filter as conditions of SQL."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        wanted: JobFilter,
        steps: Collection[str] | None,
        owner_uid: int | None,
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self.conditions = [*_conditions(wanted)]
        if steps is not None:
            self.conditions.append(("step IN (SELECT value FROM json_each(?))", (json_array(steps),)))
        if owner_uid is not None:
            self.conditions.append(("owner_uid = ?", (owner_uid,)))
        self._where = "".join(f" AND {condition}" for condition, _ in self.conditions)
        self._values = [value for _, values in self.conditions for value in values]

    def ids(self, among: Range, ended: Sequence[State], living: Sequence[State], few: list[int] | None) -> list[int]:
        """The first matching jobs of the range, at most as many as the list may have."""
        if self._wanted.workflow is not None:
            return self._of_workflow(among, [*ended, *living])
        if self._reads_all(ended):
            return self._in_rows(among, [*ended, *living])
        found: list[int] = []
        for state, queue in self._pairs(ended):
            found = self._first(found, self._select("jobs INDEXED BY jobs_found", ENDED, (state.value, queue), among))
            if len(found) == self._wanted.limit:
                among = among.up_to(found[-1])
        if living:
            found = self._first(found, self._open(among, living, few))
        return found

    def _first(self, found: list[int], more: list[int]) -> list[int]:
        newest_first = self._wanted.after is None
        return sorted(found + more, reverse=newest_first)[: self._wanted.limit]

    def _select(self, source: str, which: str, values: Sequence[Any], among: Range) -> list[int]:
        where = f"{which} AND id BETWEEN ? AND ?{self._where}"
        sql = f"SELECT id FROM {source} WHERE {where} ORDER BY id {among.order} LIMIT ?"
        parameters = (*values, among.low, among.high, *self._values, self._wanted.limit)
        return [row[0] for row in self._connection.execute(sql, parameters)]

    def _pairs(self, ended: Sequence[State]) -> Iterator[tuple[State, str]]:
        """Each state with each queue that has jobs in it."""
        for state in ended:
            if self._wanted.queue is not None:
                yield state, self._wanted.queue
                continue
            queue = ""
            while queue is not None:
                (queue,) = self._connection.execute(NEXT_QUEUE, (state.value, queue)).fetchone()
                if queue is not None:
                    yield state, queue

    def _reads_all(self, ended: Sequence[State]) -> bool:
        """Whether texts of most rows are looked at: the order of the table is twice as quick as that of the index."""
        return self._wanted.search is not None and self._wanted.queue is None and State.SUCCEEDED in ended

    def _open(self, among: Range, living: Sequence[State], few: list[int] | None) -> list[int]:
        """Jobs that have not ended: of a few that are listed, or in the rows of the range."""
        if few is None:
            return self._in_rows(among, living)
        listed = [ident for ident in few if among.low <= ident <= among.high]
        which, values = self._in_states(living)
        which, listed_json = f"id IN (SELECT value FROM json_each(?)) AND {which}", json_array(listed)
        return self._select("jobs", which, (listed_json, *values), among) if listed else []

    def _in_rows(self, among: Range, states: Sequence[State]) -> list[int]:
        return self._select("jobs NOT INDEXED", *self._in_states(states), among)

    def _of_workflow(self, among: Range, states: Sequence[State]) -> list[int]:
        which, values = self._in_states(states)
        source, which = "jobs INDEXED BY jobs_workflow", f"workflow_id = ? AND {which}"
        return self._select(source, which, (self._wanted.workflow, *values), among)

    def _in_states(self, states: Sequence[State]) -> tuple[str, list[str]]:
        """The condition on states and queue, with its parameters."""
        which, values = f"state IN ({', '.join('?' * len(states))})", [state.value for state in states]
        return (
            (which, values) if self._wanted.queue is None else (f"{which} AND queue = ?", [*values, self._wanted.queue])
        )


def _conditions(wanted: JobFilter) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The conditions except those on states, queue and workflow, each with its parameters."""
    if wanted.name is not None:
        yield "name = ?", (wanted.name,)
    if wanted.name_prefix is not None:
        yield "name >= ? AND name < ?", (wanted.name_prefix, wanted.name_prefix + LAST_CHARACTER)
    for column, least, most in (
        ("created_at", wanted.created_since, wanted.created_until),
        ("finished_at", wanted.ended_since, wanted.ended_until),
    ):
        if least is not None:
            yield f"{column} >= ?", (least,)
        if most is not None:
            yield f"{column} <= ?", (most,)
    if wanted.reasons:
        yield f"reason IN ({', '.join('?' * len(wanted.reasons))})", tuple(reason.value for reason in wanted.reasons)
    if wanted.exit_code is not None:
        yield "exit_code = ?", (wanted.exit_code,)
    if wanted.label is not None:
        yield "instr(labels, ?) > 0", (label_text(wanted.label),)
    if wanted.search is not None:
        plain, in_json = (_pattern(text) for text in (wanted.search, _json_text(wanted.search)[1:-1]))
        found = "(name LIKE ? ESCAPE '\\' OR command LIKE ? ESCAPE '\\' OR args LIKE ? ESCAPE '\\')"
        yield found, (plain, plain, in_json)


def _json_text(text: str) -> str:
    return msgspec.json.encode(text).decode()


def label_text(label: str) -> str:
    """`"k":"v"`, as it stands in the labels of a job or workflow: within a string no quote stands alone."""
    key, _, value = label.partition("=")
    return f"{_json_text(key)}:{_json_text(value)}"


def _pattern(text: str) -> str:
    """The pattern of LIKE for a text that stands anywhere."""
    plain = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{plain}%"
