"""The context of a workflow at one moment, rebuilt from its chain of checkpoints.

Transitions are applied to the last whole context. A chain with a gap is refused, with an error that names the missing
checkpoint. Invariants: a rebuilt context is exactly what the daemon knew at that seq; at a damaged checkpoint the
rebuild ends with the one before it, and names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from stoker.core.errors import ChainBroken, CheckpointDamaged
from stoker.core.job.model import Reason, State
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind, opened

if TYPE_CHECKING:
    from stoker.core.wire_types import ContextView


class ContextStep(Struct, frozen=True):
    """The state of one step. `floor`: its own checkpoints up to that seq are ignored."""

    job: int
    state: State
    reason: Reason | None = None
    floor: int = 0


class Context(Struct, frozen=True, kw_only=True):
    """A workflow at `seq`. `damaged`: the checkpoint at which the rebuild had to end."""

    chain: str
    seq: int
    steps: dict[str, ContextStep]
    holds: dict[str, dict[str, int]]
    damaged: int | None = None


class _Whole(Struct, frozen=True):
    steps: dict[str, ContextStep]
    holds: dict[str, dict[str, int]] = {}


class _Transition(Struct, frozen=True):
    step: str
    job: int
    to: State
    reason: Reason | None = None
    floor: int = 0
    holds: dict[str, int] = {}


def rebuild(links: Sequence[Checkpoint]) -> Context:
    """The context at the end of `links`, oldest first; the first one is a whole context.

    Raises ChainBroken if a link is missing, CheckpointDamaged if the first one is damaged.
    """
    if not links or links[0].kind is not CheckpointKind.CONTEXT:
        at = links[0].seq if links else 0
        raise ChainBroken(
            f"no whole context was found at or before checkpoint {at}: nothing can be rebuilt from the rest",
            hint="stoker checkpoint ls shows what is there; resume from a step with stoker workflow resume --from",
        )
    first = msgspec.json.decode(opened(links[0]), type=_Whole)
    steps, holds = dict(first.steps), dict(first.holds)
    last = links[0]
    for link in links[1:]:
        _must_follow(last, link)
        if link.kind is CheckpointKind.TRANSITION:  # the other kinds do not change the state of a step
            try:
                _apply(msgspec.json.decode(opened(link), type=_Transition), steps, holds)
            except CheckpointDamaged:
                return Context(chain=last.chain, seq=last.seq, steps=steps, holds=holds, damaged=link.id)
        last = link
    return Context(chain=last.chain, seq=last.seq, steps=steps, holds=holds)


def _must_follow(last: Checkpoint, link: Checkpoint) -> None:
    if link.seq == last.seq + 1 and link.parent == last.id:
        return
    raise ChainBroken(
        f"checkpoint {link.id} ({link.chain}, seq {link.seq}) builds on checkpoint {link.parent}, which is not there",
        hint=f"roll back to one before the gap: stoker checkpoint ls {link.chain}",
        id=link.id,
        parent=link.parent,
    )


def _apply(change: _Transition, steps: dict[str, ContextStep], holds: dict[str, dict[str, int]]) -> None:
    steps[change.step] = ContextStep(change.job, change.to, change.reason, change.floor)
    if change.holds:
        holds[change.step] = change.holds
    else:
        holds.pop(change.step, None)


def view(context: Context) -> ContextView:
    """The context for people and diffs: plain values, sorted by step."""
    plain: ContextView = msgspec.to_builtins(context, order="sorted")
    return plain
