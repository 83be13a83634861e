"""The removal of ended jobs and workflows: the queries that find them, the deletes of a portion, and later sweeps.

`purge` is part of the commit of a turn. It adds jobs to the list `purging_jobs`, which hides them from every query, and
checkpoints to `checkpoint_purges`. Ids are never used twice, so nothing can refer to these any more, and sweeps remove
their rows later, in pieces. A job without a row stays in the list `purged_jobs` until its log directory is removed. Old
changes are given up in that commit and deleted later, too (`old_changes`).
Invariant: everything that is still to be removed is in one of the lists.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from stoker.core.retention import EndedItem, NamedWork, StillNeeded
from stoker.core.workflow.checkpoint import chain_of
from stoker.store import changes, conditions, given_ids, secret_rows
from stoker.store.database import json_array
from stoker.store.jobs import NOT_PURGED
from stoker.store.queues import SET_META

MAX_TIME = 2**63 - 1

# The two kinds of ended rows; `{which}` is the condition of a PurgeGroup.
JOBS = f"jobs WHERE finished_at IS NOT NULL AND workflow_id IS NULL AND {NOT_PURGED} AND {{which}}"
WORKFLOWS = "workflows WHERE finished_at IS NOT NULL AND {which}"
NEWEST_KEPT = "SELECT finished_at FROM {group} ORDER BY finished_at DESC LIMIT 1 OFFSET ?"
ENDED = """
SELECT id, finished_at, state, {pages} FROM {group} AND finished_at < ? AND (finished_at, id) > (?, ?)
    AND (? = '[]' OR state IN (SELECT value FROM json_each(?))) ORDER BY finished_at, id LIMIT ?
"""
STEPS = "SELECT workflow_id, id FROM jobs WHERE workflow_id IN (SELECT value FROM json_each(?))"
WITH_NEEDS = """
SELECT id, policy FROM jobs
WHERE finished_at IS NULL AND (instr(policy, '"needs":') OR instr(policy, '"wait_for":')) AND id > ? ORDER BY id LIMIT ?
"""
JOBS_ENDED_AT = f"""
SELECT id, finished_at FROM jobs
WHERE id IN (SELECT value FROM json_each(?)) AND finished_at IS NOT NULL AND {NOT_PURGED}
    AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id AND attempts.ended_at IS NULL)
"""
WORKFLOWS_ENDED_AT = """
SELECT id, finished_at FROM workflows WHERE id IN (SELECT value FROM json_each(?)) AND finished_at IS NOT NULL
"""

MARK_KEYS = """
UPDATE idempotency SET purged_at = ?1, (purged_state, purged_workflow) = (
    SELECT coalesce(workflows.state, jobs.state), workflows.id FROM jobs
    LEFT JOIN workflows ON workflows.id = jobs.workflow_id WHERE jobs.id = idempotency.job_id
) WHERE job_id IN (SELECT value FROM json_each(?2))
"""
LIST_JOBS = "INSERT INTO purging_jobs (id) SELECT value FROM json_each(?)"
LIST_CHECKPOINTS = """
INSERT INTO checkpoint_purges (chain, seq)
SELECT chain, max(seq) FROM checkpoints WHERE chain IN (SELECT value FROM json_each(?)) GROUP BY chain
ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq
"""
DELETE_WORKFLOWS = "DELETE FROM workflows WHERE id IN (SELECT value FROM json_each(?))"

LISTED_JOBS = "SELECT id FROM purging_jobs LIMIT ?"
DELETE_ATTEMPTS = """
DELETE FROM attempts WHERE (job_id, ordinal) IN (
    SELECT job_id, ordinal FROM attempts WHERE job_id IN (SELECT value FROM json_each(?)) LIMIT ?
)
"""
DELETE_NEEDS = """
DELETE FROM needs WHERE (job_id, needed) IN (
    SELECT job_id, needed FROM needs WHERE job_id IN (SELECT value FROM json_each(?)) LIMIT ?
)
"""
DELETE_CONDITIONS = """
DELETE FROM conditions WHERE (job_id, number) IN (
    SELECT job_id, number FROM conditions WHERE job_id IN (SELECT value FROM json_each(?)) LIMIT ?
)
"""
DELETE_JOB_EVENTS = """
DELETE FROM job_events WHERE (job_id, event_id) IN (
    SELECT job_id, event_id FROM job_events WHERE job_id IN (SELECT value FROM json_each(?)) LIMIT ?
)
"""
LIST_LOGS = """
INSERT INTO purged_jobs (id) SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND attempts > 0
"""
DELETE_JOBS = "DELETE FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
UNLIST_JOBS = "DELETE FROM purging_jobs WHERE id IN (SELECT value FROM json_each(?))"
LISTED_LOGS = "SELECT id FROM purged_jobs WHERE id > ? ORDER BY id LIMIT ?"
UNLIST_LOGS = "DELETE FROM purged_jobs WHERE id IN (SELECT value FROM json_each(?))"
JOBS_BETWEEN = "SELECT 1 FROM jobs WHERE id BETWEEN ? AND ? LIMIT 1"
LISTED_CHAINS = "SELECT chain, seq FROM checkpoint_purges LIMIT ?"
OLDEST_OF_CHAIN = "SELECT seq, length(data) FROM checkpoints WHERE chain = ? AND seq <= ? ORDER BY seq LIMIT ?"
DELETE_CHECKPOINTS = "DELETE FROM checkpoints WHERE chain = ? AND seq <= ?"
UNLIST_CHAIN = "DELETE FROM checkpoint_purges WHERE chain = ?"
FORGET_KEYS = """
DELETE FROM idempotency WHERE (owner_uid, key) IN (SELECT owner_uid, key FROM idempotency WHERE purged_at < ? LIMIT ?)
"""
FORGET_RECOVERIES = """
DELETE FROM recoveries WHERE epoch IN (SELECT epoch FROM recoveries ORDER BY epoch DESC LIMIT ? OFFSET ?)
"""

ROWS_OF_JOBS = ("jobs", "attempts", "needs", "conditions", "job_events", "purging_jobs")  # that `sweep_rows` deletes
KEPT_RECOVERIES = 1_000
SWEPT_RECOVERIES = 10  # the plan of one may have megabytes
SWEPT_ROWS = 48  # in one piece: a millisecond, for which an answer may wait
SWEPT_JOB_ROWS = 64  # in one piece that ends early when a commit waits: a millisecond
SWEPT_PAGES = 96  # of the rows in one piece
FEW_JOBS = 16  # removed before the pages are counted again, and before a commit that waits has its turn
FEW_PAGES = 8  # given back before a commit that waits has its turn
SWEPT_BYTES = 1024 * 1024
PAGE_BYTES = 4_096
# Free pages that stay in the file: the next jobs need them, and moving pages to and fro costs more than they do.
SLACK_PAGES = 256
SLACK_SHARE = 10  # a tenth of the file


class PurgeGroup(NamedTuple):
    """Jobs or workflows that are kept by the same rule: `condition` is SQL of this module with one parameter."""

    source: str
    condition: str
    parameter: str

    @property
    def sql(self) -> str:
        return self.source.format(which=self.condition)

    @property
    def pages(self) -> str:
        """SQL for the pages of the text of a row, which its deletion reads."""
        return "length(flow) / 4096" if self.of_workflows else "0"

    @property
    def of_workflows(self) -> bool:
        return self.source is WORKFLOWS


def of_queue(name: str) -> PurgeGroup:
    """The jobs of a queue that are no steps of workflows."""
    return PurgeGroup(JOBS, "queue = ?", name)


def workflows_named(name: str) -> PurgeGroup:
    return PurgeGroup(WORKFLOWS, "name = ?", name)


def workflows_except(names: Collection[str]) -> PurgeGroup:
    return PurgeGroup(WORKFLOWS, "name NOT IN (SELECT value FROM json_each(?))", json_array(names))


def newest_kept(connection: sqlite3.Connection, group: PurgeGroup, last: int) -> int | None:
    """When the `last`-th newest of a group ended; None if no more than so many have ended."""
    if last == 0:
        return MAX_TIME
    row = connection.execute(NEWEST_KEPT.format(group=group.sql), (group.parameter, last - 1)).fetchone()
    return None if row is None else int(row[0])


def ended(
    connection: sqlite3.Connection,
    group: PurgeGroup,
    before: int,
    after: EndedItem,
    states: Collection[str],
    limit: int,
) -> list[EndedItem]:
    """Those of a group that ended before a time, oldest first, behind `after`. Empty `states` means all."""
    wanted = json_array(states)
    parameters = (group.parameter, before, after.at, after.id, wanted, wanted, limit)
    sql = ENDED.format(group=group.sql, pages=group.pages)
    return [EndedItem(*row) for row in connection.execute(sql, parameters)]


def steps(connection: sqlite3.Connection, workflow_ids: Iterable[int]) -> dict[int, list[int]]:
    of: dict[int, list[int]] = {ident: [] for ident in workflow_ids}
    for workflow_id, job_id in connection.execute(STEPS, (json_array(of),)):
        of[workflow_id].append(job_id)
    return of


_named = msgspec.json.Decoder(NamedWork).decode


def needed_by_open(connection: sqlite3.Connection, after: int, limit: int) -> tuple[StillNeeded, int | None]:
    """The needs of some open jobs with an id above `after`, and the next `after` if there are more."""
    rows = connection.execute(WITH_NEEDS, (after, limit)).fetchall()
    needed = StillNeeded()
    for _, policy in rows:
        named = _named(policy)
        needed.add(named.needs, named.wait_for)
    return needed, rows[-1][0] if len(rows) == limit else None


def jobs_ended_at(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, int]:
    """The times of the ends of these jobs, without those that have an open attempt."""
    return dict(connection.execute(JOBS_ENDED_AT, (json_array(ids),)).fetchall())


def workflows_ended_at(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, int]:
    """The times of the ends of these workflows, without those that go on."""
    return dict(connection.execute(WORKFLOWS_ENDED_AT, (json_array(ids),)).fetchall())


class Candidates(Struct, frozen=True):
    """Jobs and workflows that a turn may remove, with the times of their ends, and the steps of the workflows.

    `changes`: the last seq of a prefix of the log of changes; 0 for none.
    """

    jobs: dict[int, int] = {}
    workflows: dict[int, int] = {}
    steps: dict[int, list[int]] = {}
    changes: int = 0

    @property
    def portion(self) -> PurgePortion:
        """All candidates as a portion, to measure them."""
        return PurgePortion(0, list(self.jobs), self.steps, self.changes)


class PurgePortion(Struct, frozen=True):
    """All that one turn removes. `workflows`: the jobs of each; `changes`: the last seq to give up, 0 for none."""

    at: int
    jobs: list[int] = []
    workflows: dict[int, list[int]] = {}
    changes: int = 0

    @property
    def pages(self) -> int:
        """An estimate of the pages of WAL that it takes: it was compared with the growth of the WAL."""
        return len(self.all_jobs) // 16 + len(self.workflows)

    @property
    def chains(self) -> list[str]:
        """The chains of checkpoints of its jobs and workflows."""
        return [chain_of(None, job_id) for job_id in self.jobs] + [chain_of(ident) for ident in self.workflows]

    @property
    def all_jobs(self) -> list[int]:
        return [*self.jobs, *(job_id for ids in self.workflows.values() for job_id in ids)]


def purge(connection: sqlite3.Connection, portion: PurgePortion) -> None:
    """Hide the jobs of a portion from every query and delete its workflows, in the transaction of its turn."""
    ids = json_array(portion.all_jobs)
    given_ids.keep(connection)
    connection.execute(MARK_KEYS, (portion.at, ids))
    connection.execute(LIST_JOBS, (ids,))
    connection.execute(secret_rows.FORGET_PURGED, (ids,))
    connection.execute(LIST_CHECKPOINTS, (json_array(portion.chains),))
    connection.execute(DELETE_WORKFLOWS, (json_array(portion.workflows),))
    if portion.changes:
        connection.execute(SET_META, (changes.GIVEN_UP, portion.changes))


class Swept(NamedTuple):
    """The rows that a piece of a sweep removed, an estimate of its pages of WAL, and whether nothing was left then.

    `deleted`: tables of which it only deleted rows, for the journal.
    """

    removed: int
    pages: int = 1
    is_last: bool = False  # the next piece would find nothing; a piece that removes nothing is the last one, too
    deleted: Sequence[str] = ()


def sweep_rows(connection: sqlite3.Connection, awaited: Callable[[], bool] = lambda: False) -> Swept:
    """Remove some rows of listed jobs, with those of their attempts and needs; fewer if the writer is `awaited`.

    The pages count too, because SQLite reads every page of a long text to free it.
    """
    count, freed, before = 0, 0, _pragma(connection, "freelist_count")
    while (ids := _listed_jobs(connection)) and count < SWEPT_JOB_ROWS and freed < SWEPT_PAGES:
        if count and awaited():
            break
        count += _remove_rows(connection, ids, SWEPT_JOB_ROWS - count)
        freed = _pragma(connection, "freelist_count") - before
    return Swept(count, count // 2 + freed // 100, not ids, ROWS_OF_JOBS)


def _listed_jobs(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute(LISTED_JOBS, (FEW_JOBS,))]


def _remove_rows(connection: sqlite3.Connection, ids: list[int], most: int) -> int:
    """Remove up to `most` rows of jobs: first of what belongs to them, which cannot be deleted before."""
    of_these, count = json_array(ids), 0
    for delete in (DELETE_ATTEMPTS, DELETE_NEEDS, DELETE_CONDITIONS, DELETE_JOB_EVENTS):
        count += connection.execute(delete, (of_these, most - count)).rowcount
    bare = ids[: most - count]  # if there is room, these have no attempts and needs left
    for change in (LIST_LOGS, DELETE_JOBS, UNLIST_JOBS):
        connection.execute(change, (json_array(bare),))
    return count + len(bare)


def listed_logs(connection: sqlite3.Connection, after: int, limit: int) -> list[int]:
    """Purged jobs with an id above `after` whose log directories are still to be removed, in order."""
    return [row[0] for row in connection.execute(LISTED_LOGS, (after, limit))]


def unlist_logs(connection: sqlite3.Connection, ids: Collection[int]) -> Swept:
    """Remove these jobs from the list, as their log directories are gone."""
    return Swept(connection.execute(UNLIST_LOGS, (json_array(ids),)).rowcount, deleted=("purged_jobs",))


def has_jobs_between(connection: sqlite3.Connection, first: int, last: int) -> bool:
    """Whether a job with an id from `first` to `last` is left."""
    return connection.execute(JOBS_BETWEEN, (first, last)).fetchone() is not None


def sweep_checkpoints(connection: sqlite3.Connection) -> Swept:
    """Remove some checkpoints of purged jobs and workflows.

    The bytes count, because SQLite reads every page of a large value to free it.
    """
    count, room = 0, SWEPT_BYTES
    for chain, last in connection.execute(LISTED_CHAINS, (SWEPT_ROWS,)).fetchall():
        if count >= SWEPT_ROWS or room <= 0:
            break
        up_to = last
        rows = connection.execute(OLDEST_OF_CHAIN, (chain, last, SWEPT_ROWS)).fetchall()
        for seq, size in rows:
            if room <= 0:
                break
            up_to, room = seq, room - size
        connection.execute(DELETE_CHECKPOINTS, (chain, up_to))
        if len(rows) < SWEPT_ROWS and (not rows or up_to == rows[-1][0]):
            connection.execute(UNLIST_CHAIN, (chain,))
        count += max(1, len(rows))
    return Swept(count, count // 4 + (SWEPT_BYTES - room) // PAGE_BYTES // 100)


def forget_keys(connection: sqlite3.Connection, before: int) -> Swept:
    """Delete some idempotency keys whose jobs were purged before that time (UTC ms)."""
    count = connection.execute(FORGET_KEYS, (before, SWEPT_ROWS)).rowcount
    return Swept(count, count)


def forget_events(connection: sqlite3.Connection, now: int) -> Swept:
    """Delete some events that never reached a job and can reach no further one."""
    count = conditions.forget(connection, now)
    return Swept(count, 2 * count)


def forget_recoveries(connection: sqlite3.Connection) -> Swept:
    """Delete some records of starts that are not among the newest."""
    return Swept(connection.execute(FORGET_RECOVERIES, (SWEPT_RECOVERIES, KEPT_RECOVERIES)).rowcount)


def shrink(connection: sqlite3.Connection, pages: int, awaited: Callable[[], bool] = lambda: False) -> Swept:
    """Give up to `pages` free pages of the file back to the file system, fewer if the writer is `awaited`.

    The next checkpoint truncates the file.
    """
    free, total = _pragma(connection, "freelist_count"), _pragma(connection, "page_count")
    excess = min(pages, free - max(SLACK_PAGES, total // SLACK_SHARE))
    if excess <= 0 or not _pragma(connection, "auto_vacuum"):
        return Swept(0)
    count = 0
    while count < excess and (not count or count % FEW_PAGES or not awaited()):
        # a step of this pragma frees one page, and `execute` takes one, as it has no columns
        connection.execute("PRAGMA incremental_vacuum(1)")
        count += 1
    return Swept(count, count)  # of WAL about as many pages, by its growth


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
