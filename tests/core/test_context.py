"""Rebuilding a workflow from its chain: exact, or refused, or ended early and marked as such."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.errors import ChainBroken, CheckpointDamaged
from stoker.core.job.model import Reason, State
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind
from stoker.core.workflow.context import ContextStep, rebuild, view
from tests.support.jobs import checkpoint

WHOLE = {
    "steps": {"a": {"job": 1, "state": "queued", "reason": None}, "b": {"job": 2, "state": "waiting"}},
    "holds": {},
}


def link(seq: int, kind: CheckpointKind, data: dict[str, Any]) -> Checkpoint:
    return checkpoint(msgspec.json.encode(data), seq, id=seq * 10, parent=(seq - 1) * 10 or None, kind=kind)


def moved(seq: int, step: str, job: int, to: str, **fields: Any) -> Checkpoint:
    return link(seq, CheckpointKind.TRANSITION, {"step": step, "job": job, "to": to, **fields})


CHAIN = [
    link(1, CheckpointKind.CONTEXT, WHOLE),
    moved(2, "a", 1, "running", holds={"repo": 1}),
    link(3, CheckpointKind.PROGRESS, {"any": "thing"}),
    moved(4, "a", 1, "succeeded", reason="exit", holds={}),
    moved(5, "b", 2, "queued"),
]


def test_rebuild_when_transitions_follow_then_each_is_laid_over_the_whole() -> None:
    running, done = rebuild(CHAIN[:3]), rebuild(CHAIN)

    assert running.steps["a"] == ContextStep(1, State.RUNNING)
    assert (running.holds, running.seq) == ({"a": {"repo": 1}}, 3)
    assert done.steps == {"a": ContextStep(1, State.SUCCEEDED, Reason.EXIT), "b": ContextStep(2, State.QUEUED)}
    assert (done.holds, done.damaged) == ({}, None)


def test_rebuild_when_a_link_is_damaged_then_it_ends_before_it_and_reports_it() -> None:
    chain = [*CHAIN[:3], replace(CHAIN[3], status="touched"), CHAIN[4]]

    context = rebuild(chain)

    assert (context.seq, context.damaged) == (3, 40)
    assert context.steps["a"].state is State.RUNNING


def test_rebuild_when_the_whole_context_is_damaged_then_it_is_refused() -> None:
    with pytest.raises(CheckpointDamaged):
        rebuild([replace(CHAIN[0], status="touched"), *CHAIN[1:]])


@pytest.mark.parametrize("chain", [[], CHAIN[1:]])
def test_rebuild_when_no_whole_context_is_there_then_the_error_says_what_to_do(chain: list[Checkpoint]) -> None:
    with pytest.raises(ChainBroken) as refused:
        rebuild(chain)

    assert "stoker workflow resume" in str(refused.value.hint)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_rebuild_when_a_parent_is_missing_then_it_stops_and_names_it(gone: int) -> None:
    with pytest.raises(ChainBroken, match=f"builds on checkpoint {(gone + 1) * 10}, which is not there"):
        rebuild([*CHAIN[:gone], *CHAIN[gone + 1 :]])


def test_view_when_shown_then_it_is_plain_values() -> None:
    assert view(rebuild(CHAIN[:1]))["steps"]["b"] == {"job": 2, "state": "waiting", "reason": None, "floor": 0}
