"""The answers to commands on a workflow, as types for the client and for the service that builds them.

A test compares them with what a daemon answers. No module imports this one at run time.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from stoker.core.wire_types import State, WorkflowState


class WorkflowStanding(TypedDict):
    """The state of a workflow after a command: the base of the answers of all commands."""

    id: int
    state: WorkflowState


class WorkflowPaused(WorkflowStanding):
    """`running`: the steps that go on."""

    running: list[str]


class WorkflowCancelled(WorkflowStanding):
    """`stuck`: held steps whose processes cannot be proven to be ours, so they get no signal.

    `spared`: handlers of `finally`, which run now; a second cancel ends them.
    """

    stuck: list[str]
    spared: list[str]


class WorkflowRetried(WorkflowStanding):
    """`reset`: the steps that run again."""

    reset: list[str]


class StepSkipped(WorkflowStanding):
    """`step`: as it was named; `skipped`: the steps that this skipped: one, or those of a group that were not done.

    `going_on`: the steps that run without the result of the skipped ones; `warning` names them.
    """

    step: str
    skipped: list[str]
    going_on: list[str]
    warning: str | None


class EdgeView(TypedDict):
    step: str
    on: Literal["ok", "failed", "any"]


class NeedsChanged(WorkflowStanding):
    """All needs of the step, or of the first of a group, and its state now.

    `changed`: the steps whose needs have changed. `left`: those of the group that have started, so that theirs stay.
    """

    step: str
    needs: list[EdgeView]
    when: Literal["each", "any_ok", "any_failed"] | None
    step_state: State
    changed: list[str]
    left: list[str]


class ResumedStep(TypedDict):
    """The plan for one step: whether it runs, the action, and why."""

    step: str
    job: int
    state: State
    runs: bool
    action: Literal["again", "from_checkpoint", "restart", "keep", "wait", "skip", "fail", "leave"]
    why: str


class ResumePlan(WorkflowStanding):
    """`chain_warning`: the damage of the workflow's checkpoints, if it is resumed in spite of it."""

    steps: list[ResumedStep]
    chain_warning: str | None


class WorkflowResumed(ResumePlan):
    """The answer to a resume that was not only to be explained."""

    reset: list[str]
    kept: list[str]


class RollbackTarget(TypedDict):
    """`damaged`: the first checkpoint that could not be used, so the state is that of the one before it."""

    checkpoint: int
    seq: int
    damaged: int | None


class WorkflowRolledBack(WorkflowStanding):
    """`not_undone`: steps that were completed since the checkpoint; `stopping` and `stuck` are awaited first."""

    to: RollbackTarget
    not_undone: list[str]
    reset: list[str]
    kept: list[str]
    stopping: list[str]
    stuck: list[str]


class WorkflowCommandAnswer(WorkflowStanding, total=False):
    """The fields of the answers to all commands on a workflow, for code that prints any of them."""

    running: list[str]
    stuck: list[str]
    spared: list[str]
    stopping: list[str]
    reset: list[str]
    kept: list[str]
    not_undone: list[str]
    step: str
    skipped: list[str]
    going_on: list[str]
    warning: str | None
    needs: list[EdgeView]
    when: Literal["each", "any_ok", "any_failed"] | None
    step_state: State
    changed: list[str]
    left: list[str]
    steps: list[ResumedStep]
    chain_warning: str | None
    to: RollbackTarget
