"""How jobs and attempts look to clients: plain dicts in the words of the protocol.

Owns the names of fields on the wire. Refuses lookups: it is given values. What is in memory (pid, a stop under
way) is laid over what was committed, because descriptive rows reach the disk a little later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from stoker.core.job.limits import describe
from stoker.core.job.model import Attempt, Job
from stoker.core.job.verdict import suspected_limit
from stoker.engine.memory import LiveState, OpenRun
from stoker.process.capture import log_path

_SPEC_FIELDS = (
    "queue", "name", "priority", "execution_mode", "command", "args", "working_dir", "stdin", "labels",
    "max_attempts", "base_delay_ms", "backoff_factor", "max_delay_ms", "success_exit_codes", "no_retry_exit_codes",
    "checkpoint_exit_code", "notify", "heartbeat_ms", "unresponsive_warn_ms", "unresponsive_kill_ms",
    "deadline", "ttl_ms", "timeout_ms", "grace_ms", "warn_signal", "warn_before_ms", "on_orphan", "max_orphanings",
    "survive", "run_at", "needs", "resources", "limits", "nice", "umask", "max_log_bytes", "traceparent",
)  # fmt: skip
_JOB_FIELDS = (
    "state", "reason", "attempts", "failures", "orphanings", "needs_open", "wake_at", "expires_at", "pid", "owner_uid",
    "trace_id", "workflow_id", "step", "created_at", "started_at", "finished_at", "exit_code", "signal",
)  # fmt: skip


def job_view(job: Job, memory: LiveState, state_dir: Path) -> dict[str, Any]:
    """A job as `job.get` and `job.list` show it."""
    job, run = laid_over(job, memory)
    view: dict[str, Any] = {"id": job.id}
    view |= {name: getattr(job, name) for name in _JOB_FIELDS}
    view |= {name: getattr(job.spec, name) for name in _SPEC_FIELDS}
    view["env_vars"] = job.spec.env
    view["spec_hash"] = job.spec_hash.hex()
    said = None if run is None else memory.said.get(run.attempt.run_id)
    view["progress"] = said and said.progress
    view["status_text"] = said and said.status
    view["last_heartbeat"] = said and said.last_heartbeat
    view["notices_ignored"] = said and said.ignored
    view["unresponsive"] = said is not None and said.unresponsive
    view["stale_ms"] = run and memory.stale.get(run.attempt.run_id)
    view["frozen"] = run is not None and run.attempt.run_id in memory.frozen
    view["stopping"] = run is not None and run.attempt.stop_reason is not None
    view["log"] = str(log_path(state_dir, job.id, job.attempts)) if job.attempts else None
    return view


def laid_over(job: Job, memory: LiveState) -> tuple[Job, OpenRun | None]:
    """The job as memory has it, with its run, where memory knows only more of what is committed.

    An attempt whose commit is under way is told of by nobody: whoever asked for its log next would hear that there is
    no such attempt.
    """
    run = memory.runs.get(job.id)
    if run is None or (run.job.state, run.job.attempts) != (job.state, job.attempts):
        return job, None
    return run.job, run


def attempt_view(job: Job, attempt: Attempt, memory: LiveState, unstoppable: Sequence[int]) -> dict[str, Any]:
    """An attempt of that job as `job.get` and `job.history` show it. `unstoppable`: pids that may not be signalled."""
    run = memory.by_run(attempt.run_id)
    attempt = attempt if run is None else run.attempt
    identity, outcome = attempt.identity, attempt.outcome
    view: dict[str, Any] = {
        name: getattr(attempt, name)
        for name in ("run_id", "ordinal", "launcher", "created_at", "started_at", "ended_at", "stop_reason", "adopted")
    }
    view["pid"] = None if identity is None else identity.pid
    view["unstoppable"] = list(unstoppable)
    view["cgroup"] = None if identity is None else identity.cgroup
    view["outcome"] = None if outcome is None else outcome.kind
    told = msgspec.structs.asdict(outcome) if outcome is not None else {}
    for name in ("exit_code", "signal", "stopped", "error", "user_ms", "system_ms", "max_rss_kib", "log_bytes"):
        view[name] = told.get(name)
    view["limits"] = describe(job.spec.limits, attempt.bounds)
    view["suspicion"] = suspected_limit(attempt.bounds, outcome)
    return view
