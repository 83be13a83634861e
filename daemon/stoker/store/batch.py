"""A batch: the rows that one turn writes, and how they become one transaction.

Owns the order of the statements, and the estimate of the pages that they take. Invariant: a batch is stored completely
or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, field

from stoker.core.job.model import Attempt, Change, Job, NeedOn, Queue, Resource
from stoker.core.job.secret_values import Secrets
from stoker.core.named_events import NamedEvent
from stoker.core.rate import Rate
from stoker.core.schedule.model import Schedule
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.core.workflow.inner_limits import InnerLimit
from stoker.core.workflow.state import Workflow
from stoker.store import (
    attempts,
    changes,
    checkpoints,
    conditions,
    jobs,
    keys,
    queues,
    rates,
    recoveries,
    retention,
    schedules,
    secret_rows,
    workflows,
)
from stoker.store.high_water import Mark
from stoker.store.journal_feed import JournalFeed, journaled
from stoker.store.outbox import Rows
from stoker.store.secret_box import SecretBox

PAGE_BYTES = 4_096
COMMIT_PAGES = 6  # of tables and indexes, for any transaction
LONE_ROWS = 4  # the first rows of a transaction share few pages of tables and indexes; further ones do


class Batch(Struct):
    """The rows that one turn writes, at most one entry for each row."""

    new_jobs: dict[int, Job] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    respecified: dict[int, Job] = field(default_factory=dict)
    new_attempts: dict[str, Attempt] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    holds: dict[str, dict[str, int]] = field(default_factory=dict)
    keys: list[keys.NewKey] = field(default_factory=list)
    needs: dict[int, dict[int, NeedOn]] = field(default_factory=dict)  # job: all of its open needs, by needed job
    needs_met: set[tuple[int, int]] = field(default_factory=set)
    new_events: dict[int, NamedEvent] = field(default_factory=dict)
    events: dict[int, NamedEvent] = field(default_factory=dict)
    seen: dict[tuple[int, int], str] = field(default_factory=dict)  # by job and number: see ConditionWaiter
    given_events: list[tuple[int, int]] = field(default_factory=list)  # which job got which event
    queues: dict[str, Queue] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    rates: dict[str, Rate | None] = field(default_factory=dict)  # by key; None: removed
    buckets: dict[str, int | None] = field(default_factory=dict)  # full_at by name; None: full
    schedules: dict[str, Schedule] = field(default_factory=dict)
    removed_schedules: set[str] = field(default_factory=set)
    new_workflows: dict[int, Workflow] = field(default_factory=dict)
    workflows: dict[int, Workflow] = field(default_factory=dict)
    inner_limits: dict[tuple[int, str], InnerLimit | None] = field(default_factory=dict)  # None: none counts any more
    checkpoints: list[Checkpoint] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    recovery: recoveries.Recovery | None = None
    purge: retention.PurgePortion | None = None
    secrets: dict[int, Secrets] = field(default_factory=dict)  # of new jobs
    changes: list[Change] = field(default_factory=list)

    def __bool__(self) -> bool:
        rows = (
            self.changes,
            self.jobs,
            self.attempts,
            self.workflows,
            self.checkpoints,
            self.schedules,
            self.events,
            self.seen,
            self.meta,
        )
        return any((*rows, self.recovery is not None))


class Stored(NamedTuple):
    """The new head of the hash chain, an estimate of the pages of WAL that the transaction took, and ends of jobs.

    `inserted`: new rows of some tables, for the journal.
    """

    head: bytes
    pages: int
    inserted: Mapping[str, Rows]
    ends: Sequence[attempts.Needed] = ()


def _many(connection: sqlite3.Connection, sql: str, rows: list[tuple[Any, ...]], *, exact: bool = False) -> None:
    if not rows:
        return
    hit = connection.executemany(sql, rows).rowcount
    if exact and hit != len(rows):
        raise sqlite3.IntegrityError(f"{hit} of {len(rows)} rows were there to update: {sql.split()[1]}")


def store(
    connection: sqlite3.Connection,
    batch: Batch,
    head: bytes,
    needed: Collection[int] = (),
    feed: JournalFeed | None = None,
    box: SecretBox | None = None,
) -> Stored:
    """Commit a batch, then read how the jobs `needed` ended: a second hop to the thread costs more than the read."""
    with journaled(connection, feed) as written:
        stored = _write(connection, batch, head)
        secret_rows.write(connection, box, batch.secrets, batch.jobs.values())
        written.bytes, written.inserted = stored.pages * PAGE_BYTES, stored.inserted
    try:
        return stored._replace(ends=attempts.needed(connection, needed) if needed else ())
    except sqlite3.Error:  # the batch is on disk; the starts that need these ends read them again, one by one
        return stored


def _write(connection: sqlite3.Connection, batch: Batch, head: bytes) -> Stored:
    ended = [attempt for attempt in batch.attempts.values() if not attempt.open]
    going = [attempt for attempt in batch.attempts.values() if attempt.open]
    new_jobs = [jobs.insert_row(job) for job in batch.new_jobs.values()]
    links = [checkpoints.insert_row(one) for one in batch.checkpoints]
    new = [attempts.insert_row(attempt, batch.holds.get(attempt.run_id, {})) for attempt in batch.new_attempts.values()]
    _many(connection, queues.UPSERT_QUEUE, [queues.queue_row(queue) for queue in batch.queues.values()])
    _many(connection, queues.UPSERT_RESOURCE, [queues.resource_row(one) for one in batch.resources.values()])
    _many(connection, rates.DELETE, [(key,) for key, rate in batch.rates.items() if rate is None])
    _many(connection, rates.UPSERT, [rates.row(key, rate) for key, rate in batch.rates.items() if rate is not None])
    _many(connection, rates.DELETE_BUCKET, [(name,) for name, full_at in batch.buckets.items() if full_at is None])
    _many(connection, rates.UPSERT_BUCKET, [bucket for bucket in batch.buckets.items() if bucket[1] is not None])
    _many(connection, schedules.DELETE, [(name,) for name in batch.removed_schedules])
    _many(connection, schedules.UPSERT, [schedules.row(schedule) for schedule in batch.schedules.values()])
    _many(connection, jobs.INSERT, new_jobs)
    _many(connection, jobs.DELETE_NEED, list(batch.needs_met), exact=True)
    _many(connection, jobs.DROP_NEEDS, [(job_id,) for job_id in batch.needs if job_id not in batch.new_jobs])
    _many(connection, jobs.INSERT_NEED, jobs.need_rows(batch.needs))
    _write_conditions(connection, batch)
    _many(connection, keys.INSERT, [keys.new_row(key) for key in batch.keys])
    _many(connection, attempts.SETTLE, [attempts.settle_row(attempt) for attempt in ended], exact=True)
    _many(connection, jobs.UPDATE, [jobs.update_row(job) for job in batch.jobs.values()], exact=True)
    _many(connection, jobs.UPDATE_SPEC, [jobs.spec_row(job) for job in batch.respecified.values()], exact=True)
    _many(connection, attempts.INSERT, new)
    _many(connection, attempts.UPDATE, [attempts.update_row(attempt) for attempt in going], exact=True)
    _many(connection, workflows.INSERT, [workflows.insert_row(one) for one in batch.new_workflows.values()])
    _many(connection, workflows.UPDATE, [workflows.update_row(one) for one in batch.workflows.values()], exact=True)
    _many(connection, workflows.DELETE_LIMIT, [key for key, limit in batch.inner_limits.items() if limit is None])
    _many(connection, workflows.UPSERT_LIMIT, workflows.limit_rows(batch.inner_limits))
    _many(connection, checkpoints.INSERT, links)
    _many(connection, queues.SET_META, list(batch.meta.items()))
    if batch.recovery is not None:
        connection.execute(recoveries.UPSERT, recoveries.row(batch.recovery))
    if batch.purge is not None:
        retention.purge(connection, batch.purge)
    rows, head = changes.insert_rows(batch.changes, head)
    _many(connection, changes.INSERT, rows)
    return Stored(head, _pages(batch, rows), {"changes": rows, "jobs": new_jobs, "checkpoints": links})


def _write_conditions(connection: sqlite3.Connection, batch: Batch) -> None:
    _many(connection, conditions.INSERT, conditions.new_rows(batch.new_jobs.values()))
    _many(connection, conditions.SEE, [(seen, *waiter) for waiter, seen in batch.seen.items()])
    _many(connection, conditions.CLOSE, conditions.close_rows(batch.jobs.values()))
    _many(connection, conditions.FREE_KEY, conditions.key_rows(batch.new_events.values()))
    _many(connection, conditions.INSERT_EVENT, [conditions.event_row(event) for event in batch.new_events.values()])
    _many(connection, conditions.UPDATE_EVENT, [conditions.update_row(event) for event in batch.events.values()])
    _many(connection, conditions.INSERT_GIVEN, batch.given_events)
    _many(connection, conditions.REPLACE_KEPT, conditions.replaced_rows(batch.new_events.values()))


def _pages(batch: Batch, changed: list[tuple[Any, ...]]) -> int:
    """An estimate of the pages of WAL of a batch. Large texts are in checkpoints, and in jobs and their changes.

    It was compared with the growth of the WAL, for single jobs, many jobs at once, and workflows.
    """
    rows = len(batch.changes) + len(batch.new_workflows) + len(batch.workflows) + len(batch.checkpoints)
    rows += len(batch.schedules) + len(batch.buckets) + len(batch.new_events) + len(batch.events)
    rows += len(batch.inner_limits)
    data = sum(len(each.data) for each in batch.checkpoints) + sum(len(each.data) for each in batch.new_events.values())
    data += 2 * sum(len(row[changes.PAYLOAD]) for row in changed)
    purged = 0 if batch.purge is None else batch.purge.pages
    return COMMIT_PAGES + rows + min(rows, LONE_ROWS) + data // PAGE_BYTES + purged


def given_out(batch: Batch) -> Mark:
    """The highest ids that a batch gives out."""
    return Mark(
        jobs=max(batch.new_jobs, default=0),
        workflows=max(batch.new_workflows, default=0),
        checkpoints=max((one.id for one in batch.checkpoints), default=0),
    )
