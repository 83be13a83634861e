"""Jobs whose rows contradict themselves, looked for once after each start.

Owns the search for jobs that are stored as running while no attempt of them is open: recovery begins with open
attempts and cannot see them. The search reads every job, so the daemon is ready before it ends. No commit of the
daemon leaves such a job behind, so what one read finds is still true when the message is applied.
"""

from __future__ import annotations

from stoker.engine.inbox import Inbox
from stoker.engine.messages import AttemptsMissing
from stoker.store import jobs
from stoker.store.reader import Reader


async def hold_jobs_without_attempt(reader: Reader, inbox: Inbox) -> None:
    job_ids = await reader.run(jobs.running_without_attempt)
    if job_ids:
        inbox.post(AttemptsMissing(job_ids))
