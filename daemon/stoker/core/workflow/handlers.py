"""Handlers of a workflow: steps that run once its ordinary steps have ended, if these ended so.

Owns the tables of handlers in a flow; `phases` has the order in which they run. A handler has a gate: a need of its own
job, which no end of another job meets. The workflow opens the gate, or skips the handler.
"""

from __future__ import annotations

from enum import StrEnum

from stoker.core.job.model import Need, NeedOn

STEPS = "steps"
MAX_FAILED = 100  # failed steps that a handler finds in its inputs
FINALLY_TIMEOUT_MS = 600_000  # a cancel spares `finally`, so it has a limit of its own


class Handler(StrEnum):
    """The table of a handler in its flow."""

    ON_FAILURE = "on_failure"
    ON_SUCCESS = "on_success"
    FINALLY = "finally"


def gate(job_id: int) -> Need:
    """The need by which a handler waits for its workflow."""
    return Need(job_id, NeedOn.ANY)


def applies(handler: Handler, *, failed: bool, cancelled: bool) -> bool:
    """Whether the handler runs after these ends of all ordinary steps."""
    match handler:
        case Handler.ON_FAILURE:
            return failed and not cancelled
        case Handler.ON_SUCCESS:
            return not failed and not cancelled
    return True
