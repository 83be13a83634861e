"""The views of jobs and attempts, in the types that clients get (`core.views`).

Facts in memory, such as the pid and a stop under way, replace the committed ones, because they reach the disk a little
later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from stoker.core.job.limits import describe
from stoker.core.job.model import Attempt, Job, Spec
from stoker.core.job.verdict import suspected_limit
from stoker.engine.memory import LiveState, OpenRun

if TYPE_CHECKING:
    from stoker.core.views import AttemptView, JobView

_SPEC_FIELDS = tuple(name for name in Spec.__struct_fields__ if name != "env")
_OWN = frozenset({"spec", "spec_hash", "checkpoint_floor", "order_key"})  # of the daemon, or shown in another form
_JOB_FIELDS = tuple(name for name in Job.__struct_fields__ if name not in _OWN)


def job_view(job: Job, memory: LiveState, log: Path | None, stale_ms: int | None) -> JobView:
    """`log`: where its newest attempt is logged; `stale_ms`: the age of a checkpoint that is overdue."""
    job, run = laid_over(job, memory)
    view: dict[str, Any] = {name: getattr(job, name) for name in _JOB_FIELDS}
    view |= {name: getattr(job.spec, name) for name in _SPEC_FIELDS}
    view["env_vars"] = job.spec.env
    view["spec_hash"] = job.spec_hash.hex()
    report = None if run is None else memory.worker_status.get(run.attempt.run_id)
    view["progress"] = report and report.progress
    view["status_text"] = report and report.status
    view["last_heartbeat"] = report and report.last_heartbeat
    view["notices_ignored"] = report and report.ignored
    view["unresponsive"] = report is not None and report.unresponsive
    view["stale_ms"] = run and stale_ms
    view["frozen"] = run is not None and run.attempt.run_id in memory.frozen
    view["stopping"] = run is not None and run.attempt.stop_reason is not None
    view["log"] = log and str(log)
    return cast("JobView", view)


def laid_over(job: Job, memory: LiveState) -> tuple[Job, OpenRun | None]:
    """The job in memory with its open run, if memory describes the same attempt as the committed row.

    An attempt whose commit is under way is not shown: a client that asked for its log next would get an error.
    """
    run = memory.runs.get(job.id)
    if run is None or (run.job.state, run.job.attempts) != (job.state, job.attempts):
        return job, None
    return run.job, run


def attempt_view(job: Job, attempt: Attempt, memory: LiveState, unstoppable: Sequence[int]) -> AttemptView:
    """An attempt as `job.get` and `job.history` show it. `unstoppable`: pids that the daemon may not signal."""
    run = memory.by_run(attempt.run_id)
    attempt = attempt if run is None else run.attempt
    identity, outcome = attempt.identity, attempt.outcome
    view = {
        name: getattr(attempt, name)
        for name in ("run_id", "ordinal", "launcher", "created_at", "started_at", "ended_at", "stop_reason", "adopted")
    }
    view["pid"] = None if identity is None else identity.pid
    view["unstoppable"] = list(unstoppable)
    view["cgroup"] = None if identity is None else identity.cgroup
    view["outcome"] = None if outcome is None else outcome.kind
    values = msgspec.structs.asdict(outcome) if outcome is not None else {}
    for name in ("exit_code", "signal", "stopped", "error", "user_ms", "system_ms", "max_rss_kib", "log_bytes"):
        view[name] = values.get(name)
    view["limits"] = describe(job.spec.limits, attempt.bounds)
    view["suspicion"] = suspected_limit(attempt.bounds, outcome)
    return cast("AttemptView", view)
