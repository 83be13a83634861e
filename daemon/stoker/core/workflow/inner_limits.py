"""Limits of time of a workflow that is nested in another one, and of a whole one: which of them has passed. Pure.

Owns how long such limits count: until the last ordinary step has ended; once the nested workflow runs again, anew. A
nested workflow is known by what the names of its steps begin with, as `build/`.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from stoker.core.clock import Now
from stoker.core.workflow.definition import FlowLimits


class TimeLimit(StrEnum):
    """Which limit of time it is."""

    TIMEOUT = "timeout"
    DEADLINE = "deadline"


class InnerLimit(Struct, frozen=True, kw_only=True):
    """One row of `inner_limits`: the limits of a nested workflow that count now.

    `deadline` is wall time, `expires_at`, the end of its timeout, steady time; `passed`: the one that was reached.
    """

    deadline: int | None = None
    expires_at: int | None = None
    passed: TimeLimit | None = None


def begun(limits: FlowLimits, now: Now) -> InnerLimit:
    """The deadline counts from now; the timeout from the first start of a step."""
    return InnerLimit(deadline=None if limits.deadline_ms is None else now.wall + limits.deadline_ms)


def passed(deadline: int | None, expires_at: int | None, now: Now) -> TimeLimit | None:
    """The limit that has passed."""
    if deadline is not None and deadline <= now.wall:
        return TimeLimit.DEADLINE
    return TimeLimit.TIMEOUT if expires_at is not None and expires_at <= now.steady else None


def in_words(limits: FlowLimits, limit: TimeLimit) -> str:
    """A limit as the flow file has it."""
    value = limits.timeout_ms if limit is TimeLimit.TIMEOUT else limits.deadline_ms
    return f"{limit}_ms = {value}"
