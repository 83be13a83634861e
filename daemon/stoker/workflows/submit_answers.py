"""The answer of a submit of a workflow: its steps, and which ends of an earlier run they take over.

Owns the form of the answer. `submit` gives it.
"""

from __future__ import annotations

from msgspec import Struct

from stoker.core.workflow.state import WorkflowState


class StepReuse(Struct, frozen=True):
    """Whether the end of an earlier step is taken over, and why or why not.

    `later`: that is decided once other steps were added to the workflow.
    """

    step: str
    reused: bool
    why: str
    later: bool = False


class ReuseAnswer(Struct, frozen=True):
    """`workflow`: the earlier run; None if there is none."""

    workflow: int | None
    steps: tuple[StepReuse, ...]


class WorkflowAnswer(Struct, frozen=True, kw_only=True):
    """`id` and `state` are None for a dry run; `existing`: it was submitted before with the same key.
    `skipped`: nothing was stored, as this one of the same `concurrency` key has not ended.

    `warnings`: programs and directories of steps with needs that are not there yet; each step looks again as it starts.
    `met`: steps outside the part that was asked for, whose needs count as met.
    """

    id: int | None
    state: WorkflowState | None
    steps: dict[str, int | None]
    layers: list[list[str]]
    existing: bool = False
    skipped: bool = False
    warnings: tuple[str, ...] = ()
    met: tuple[str, ...] = ()
    reuse: ReuseAnswer | None = None
