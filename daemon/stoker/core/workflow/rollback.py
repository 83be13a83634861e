"""Going back to a checkpoint: which steps are taken again, and what cannot be undone.

Owns what a rollback remembers until nothing of its workflow runs any more (`Target`), and the way back from there.
Refuses to stop or reset anything: that is the engine's. Invariants: what was completed at the checkpoint and still is
stays; what was completed since is named, for its effects on the world remain, and is only taken again when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from stoker.core.job.model import Reason, State
from stoker.core.workflow.context import Context
from stoker.core.workflow.state import Step, is_done


class Target(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a workflow goes back to. `done`: the steps completed there; `floors`: as they were there."""

    checkpoint: int
    seq: int
    done: tuple[str, ...] = ()
    floors: dict[str, int] = {}
    redo: bool = False
    resume: bool = False
    uid: int | None = None


class Way(Struct, frozen=True, kw_only=True):
    """What is to be done. `not_undone`: completed since the checkpoint."""

    reset: tuple[str, ...]
    kept: tuple[str, ...]
    not_undone: tuple[str, ...]


def target_of(context: Context, checkpoint: int, *, redo: bool, resume: bool, uid: int | None) -> Target:
    """What to remember of the context that was rebuilt at `checkpoint`."""
    done = tuple(sorted(name for name, stood in context.steps.items() if is_done(stood.state, stood.reason)))
    floors = {name: stood.floor for name, stood in context.steps.items() if stood.floor}
    return Target(checkpoint=checkpoint, seq=context.seq, done=done, floors=floors, redo=redo, resume=resume, uid=uid)


def way_back(
    target: Target, steps: Iterable[Step], states: Mapping[str, State], reasons: Mapping[str, Reason | None]
) -> Way:
    """The way from how the steps stand now. A skip since is taken back: nothing was done that could remain."""
    known = set(target.done)
    reset, kept, since = [], [], []
    for step in steps:
        if not is_done(states[step.name], reasons[step.name]):
            reset.append(step.name)
        elif step.name in known:
            kept.append(step.name)
        elif states[step.name] is State.SKIPPED:
            reset.append(step.name)
        else:
            since.append(step.name)
    again = since if target.redo else []
    return Way(reset=(*reset, *again), kept=tuple(kept), not_undone=tuple(since))
