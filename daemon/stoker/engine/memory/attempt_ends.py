"""The end of an attempt of a step, as the chain of its workflow keeps it.

Owns the payload of such a checkpoint. Invariant: only an ended attempt has one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.core.job.model import Attempt, Job
from stoker.core.workflow.state import Workflow


def end_of(workflow: Workflow, job: Job, attempt: Attempt) -> dict[str, Any]:
    outcome, identity = attempt.outcome, attempt.identity
    assert outcome is not None, "only an ended attempt has an end"
    return {
        "workflow": workflow.id,
        "type": workflow.name,
        "step": job.step,
        "job": job.id,
        "attempt": attempt.ordinal,
        "status": job.state,
        "reason": job.reason,
        "output": None if outcome.output is None else msgspec.Raw(outcome.output.encode()),
        "outcome": outcome.kind,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "error": outcome.error,
        "worker": {"launcher": attempt.launcher, "pid": None if identity is None else identity.pid},
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "user_ms": outcome.user_ms,
        "system_ms": outcome.system_ms,
        "max_rss_kib": outcome.max_rss_kib,
    }
