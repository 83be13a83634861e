"""The daemon's own jobs: maintenance that runs in process, like anybody's in-process jobs.

Owns their names and what they do. Refuses to touch jobs that are not final. They are ordinary jobs: submitted,
logged, retried, shown by `stoker ls`; `stoker submit --in-process stoker.tidy` runs one by hand.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from stoker.core.clock import Clock, Now
from stoker.core.job.model import ExecutionMode
from stoker.core.requests import JobParams
from stoker.engine.submit import Intake, Submission
from stoker.executors.handlers import HANDLERS, Call
from stoker.store import upkeep
from stoker.store.writer import Writer

TIDY = "stoker.tidy"
DAY_MS = 86_400_000
KEEP_KEYS_MS = 30 * DAY_MS


def daily(intake: Intake, now: Now) -> Submission:
    """Today's maintenance, as a submission; a second one on the same day gives the same job."""
    sent = JobParams(
        command=TIDY,
        name=TIDY,
        execution_mode=ExecutionMode.IN_PROCESS,
        idempotency_key=f"{TIDY}/{now.wall // DAY_MS}",
    )
    submission = Submission(intake, [sent], os.geteuid(), atomic=False)
    # Refused while the disk is full or the daemon drains: the next day has its own.
    submission.future.add_done_callback(lambda done: done.exception())
    return submission


def register(writer: Writer, clock: Clock) -> None:
    """Make the maintenance jobs of this daemon known."""
    HANDLERS[TIDY] = tidy(writer, clock)


def tidy(writer: Writer, clock: Clock) -> Callable[[Call], Awaitable[None]]:
    """Forget idempotency keys of jobs that are gone for 30 days, and let SQLite look after its statistics."""

    async def run(_call: Call) -> None:
        while await writer.maintain(upkeep.forget_keys, clock.now().wall - KEEP_KEYS_MS):
            pass
        await writer.maintain(upkeep.optimize)

    return run
