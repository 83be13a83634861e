"""The daemon's own maintenance, as an in-process job.

It is an ordinary job: submitted, logged, retried, shown by `stoker ls`; `stoker submit --in-process stoker.tidy` runs
it by hand. The removal of ended jobs is in `retention`.
"""

from __future__ import annotations

import os

from stoker.core.clock import Now
from stoker.core.job.model import ExecutionMode
from stoker.core.requests import JobParams
from stoker.engine.intake import Intake
from stoker.engine.submit import Submission
from stoker.executors.handlers import HANDLERS, Call, Registered
from stoker.store.database import optimize
from stoker.store.writer import Writer

TIDY = "stoker.tidy"
DAY_MS = 86_400_000


def daily(intake: Intake, now: Now) -> Submission:
    """The submission of today's maintenance; a second one on the same day gives the same job."""
    sent = JobParams(
        command=TIDY,
        name=TIDY,
        execution_mode=ExecutionMode.IN_PROCESS,
        idempotency_key=f"{TIDY}/{now.wall // DAY_MS}",
    )
    submission = Submission(intake, [sent], os.geteuid(), atomic=False)
    # If it is refused, as on a full disk or during a drain, that day has no maintenance.
    submission.future.add_done_callback(lambda done: done.exception())
    return submission


def register(writer: Writer) -> None:
    """Register the handler of the job, which lets SQLite update its statistics."""

    async def tidy(_call: Call) -> None:
        await writer.maintain(optimize)

    HANDLERS[TIDY] = Registered(tidy)
