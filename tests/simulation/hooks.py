"""The hooks of the simulated daemon, and the law of their jobs.

Owns a table of its own of the changes that they name. Each commit is looked at alone: the jobs of hooks must be in the
commit of their changes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stoker.config.settings import QueueSection
from stoker.core.hooks import Hook, HookOn
from stoker.core.requests import JobDefaults

if TYPE_CHECKING:
    from stoker.core.job.model import Change, Job
    from stoker.store.batch import Batch
    from tests.simulation.laws import Laws

ALL = Hook(
    name="all",
    on=(
        HookOn.JOB_FAILED,
        HookOn.JOB_HELD,
        HookOn.JOB_CANCELLED,
        HookOn.WORKFLOW_SUCCEEDED,
        HookOn.WORKFLOW_FAILED,
        HookOn.DISK_LOW,
        HookOn.DAEMON_RECOVERED,
    ),
    command="/bin/work",
)
BULK = Hook(name="bulk", on=(HookOn.JOB_FAILED,), queue="bulk", command="/bin/work")
HOOKS = {hook.name: hook for hook in (ALL, BULK)}
# Often full, and soon done in calm.
SMALL = QueueSection(max_queued=4, max_running=2, defaults=JobDefaults(max_attempts=1))
NAMED = {
    "job": {"failed", "held", "cancelled"},
    "workflow": {"succeeded", "failed"},
    "system": {"disk_low", "recovered"},
}


class HookLaws:
    """Each change that a hook names has exactly one job of it, or is counted as refused; no other has one."""

    def __init__(self, laws: Laws) -> None:
        self._laws = laws

    def committed(self, batch: Batch) -> None:
        """One transaction went through."""
        jobs = Counter(
            (job.spec.hook, job.spec.hook_change or 0) for job in batch.new_jobs.values() if job.spec.hook is not None
        )
        wanted = Counter((name, change.seq) for change in batch.changes for name in self._names(change, batch))
        for name, seq in jobs - wanted:
            self._laws.broken(f"hook {name} has a job too many for change {seq}")
        missing = Counter(name for name, _ in (wanted - jobs).elements())
        refused = Counter[str]()
        for change in batch.changes:
            if change.kind == "hook":
                assert isinstance(change.payload, dict)
                refused[change.subject] += change.payload["changes"]
        if missing != refused:
            self._laws.broken(f"changes without a job, by hook: {missing}; refused: {refused}")
        self._laws.looks["hook"] += len(jobs)
        self._laws.looks["hook refused"] += refused.total()

    def _names(self, change: Change, batch: Batch) -> list[str]:
        """The hooks that name this change."""
        what = change.to_state if change.kind in ("job", "workflow") else change.cause
        if what not in NAMED.get(change.kind, ()) or (change.kind != "system" and change.from_state == what):
            return []
        if change.kind != "job":
            return [ALL.name]
        job = _job(batch, int(change.subject))
        if job.spec.hook is not None:
            return []
        return [ALL.name, BULK.name] if (what, job.spec.queue) == ("failed", "bulk") else [ALL.name]


def _job(batch: Batch, job_id: int) -> Job:
    return batch.new_jobs.get(job_id) or batch.jobs[job_id]
