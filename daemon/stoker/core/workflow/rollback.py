"""A rollback to a checkpoint: which steps run again, and which effects cannot be undone.

Owns the target, which is kept until no step of the workflow runs any more, and the plan that follows then. Invariants:
steps that were completed at the checkpoint stay completed; steps that completed since are listed, because their effects
on the world remain, and run again only if that was asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from stoker.core.job.model import Reason, State
from stoker.core.workflow.context import Context
from stoker.core.workflow.state import Step, handlers, is_done


class Target(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The target of a rollback. `done`: the steps completed at it; `floors`: their floors at it."""

    checkpoint: int
    seq: int
    done: tuple[str, ...] = ()
    floors: dict[str, int] = {}
    redo: bool = False
    resume: bool = False
    uid: int | None = None


class RollbackPlan(Struct, frozen=True, kw_only=True):
    """The plan of a rollback. `not_undone`: steps completed since the checkpoint."""

    reset: tuple[str, ...]
    kept: tuple[str, ...]
    not_undone: tuple[str, ...]


def target_of(context: Context, checkpoint: int, *, redo: bool, resume: bool, uid: int | None) -> Target:
    done = tuple(sorted(name for name, stood in context.steps.items() if is_done(stood.state, stood.reason)))
    floors = {name: stood.floor for name, stood in context.steps.items() if stood.floor}
    return Target(checkpoint=checkpoint, seq=context.seq, done=done, floors=floors, redo=redo, resume=resume, uid=uid)


def plan_rollback(
    target: Target, steps: Collection[Step], states: Mapping[str, State], reasons: Mapping[str, Reason | None]
) -> RollbackPlan:
    """The plan for the present states. A step skipped since the checkpoint is reset: it had no effects.

    The handlers of steps that are reset are reset too, also if they were completed.
    """
    done = set(target.done)
    reset, kept, since = [], [], []
    for step in steps:
        if not is_done(states[step.name], reasons[step.name]):
            reset.append(step.name)
        elif step.name in done:
            kept.append(step.name)
        elif states[step.name] is State.SKIPPED:
            reset.append(step.name)
        else:
            since.append(step.name)
    if target.redo:
        reset += since
    reset += sorted(handlers(steps, set(reset), states, reasons))
    again = set(reset)
    return RollbackPlan(
        reset=tuple(reset), kept=tuple(name for name in kept if name not in again), not_undone=tuple(since)
    )
