"""The rows that a start reads into the engine's memory: open attempts with their jobs, counts, queues, last ids.

Queued and waiting jobs are not read: they stay on disk, however many they are.
"""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from stoker.core.errors import CorruptRecord
from stoker.core.job.model import Attempt, Job, Queue, Resource
from stoker.core.named_events import NamedEvent
from stoker.core.rate import Rate
from stoker.core.schedule.model import Schedule
from stoker.core.workflow.checkpoint import Head, chain_of
from stoker.store import (
    attempts,
    changes,
    checkpoints,
    conditions,
    decisions,
    given_ids,
    history_id,
    jobs,
    queues,
    rates,
    restore,
    schedules,
    workflows,
)
from stoker.store.history_id import History
from stoker.store.restore import Restored
from stoker.store.workflows import StoredWorkflow


class Snapshot(Struct, frozen=True):
    queues: dict[str, Queue]
    resources: dict[str, Resource]
    schedules: dict[str, Schedule]
    rates: dict[str, Rate]
    buckets: dict[str, int]
    runs: list[tuple[Job, Attempt]]
    counts: list[tuple[str, int, str, str | None, int]]
    needed: set[int]
    ended_needs: list[int]
    undecided: list[int]
    awaited: dict[str, int]
    ends_awaited: set[str]
    ends_met: list[str]
    undelivered: list[NamedEvent]
    workflows: list[StoredWorkflow]
    chain_heads: dict[str, Head]
    last_workflow: int
    last_checkpoint: int
    last_id: int
    last_seq: int
    head: bytes
    history: History
    restored: Restored | None = None


def read(connection: sqlite3.Connection) -> Snapshot:
    """Read everything that the engine keeps in memory."""
    last_seq, head = changes.last(connection)
    live = workflows.live(connection)
    return Snapshot(
        queues=queues.queues(connection),
        resources=queues.resources(connection),
        schedules=schedules.schedules(connection),
        rates=rates.rates(connection),
        buckets=rates.buckets(connection),
        runs=open_runs(connection),
        counts=connection.execute(jobs.COUNTS).fetchall(),
        needed=jobs.needed(connection),
        ended_needs=jobs.ended_needs(connection),
        undecided=decisions.undecided(connection),
        awaited=conditions.awaited(connection),
        ends_awaited=conditions.ends_awaited(connection),
        ends_met=conditions.ended(connection),
        undelivered=conditions.undelivered(connection),
        workflows=live,
        chain_heads=checkpoints.heads(connection, [chain_of(one.workflow.id) for one in live]),
        last_workflow=given_ids.last(connection, "workflows"),
        last_checkpoint=given_ids.last(connection, "checkpoints"),
        last_id=given_ids.last(connection, "jobs"),
        last_seq=last_seq,
        head=head,
        history=history_id.read(connection),
        restored=restore.pending(connection),
    )


def open_runs(connection: sqlite3.Connection) -> list[tuple[Job, Attempt]]:
    """Every attempt without an outcome, with its job. Raises CorruptRecord."""
    open_attempts = attempts.open_attempts(connection)
    of_attempts = jobs.by_ids(connection, [attempt.job_id for attempt in open_attempts])
    missing = [attempt.run_id for attempt in open_attempts if attempt.job_id not in of_attempts]
    if missing:
        raise CorruptRecord(
            f"attempts without a job: {', '.join(missing[:5])}",
            hint="stop stokerd, then: stoker restore --from-backup latest",
        )
    return [(of_attempts[attempt.job_id], attempt) for attempt in open_attempts]
