"""The plan of a rollback: the steps that run again, those that stay, and those that cannot be undone."""

from __future__ import annotations

import pytest

from stoker.core.job.model import NeedOn, Reason, State
from stoker.core.workflow.context import Context, ContextStep
from stoker.core.workflow.rollback import RollbackPlan, Target, plan_rollback, target_of
from stoker.core.workflow.state import Edge, Step

STEPS = [Step(name=name, job_id=number) for number, name in enumerate("abcde", 1)]
NOW = {"a": State.SUCCEEDED, "b": State.SUCCEEDED, "c": State.RUNNING, "d": State.SKIPPED, "e": State.SKIPPED}
REASONS = {"a": Reason.EXIT, "b": Reason.EXIT, "c": None, "d": Reason.USER, "e": Reason.DEPENDENCY}


def test_target_when_made_from_a_context_then_it_has_completed_steps_and_floors() -> None:
    steps = {
        "a": ContextStep(1, State.SUCCEEDED, Reason.EXIT),
        "b": ContextStep(2, State.RUNNING, floor=4),
        "c": ContextStep(3, State.SKIPPED, Reason.USER),
        "d": ContextStep(4, State.SKIPPED, Reason.DEPENDENCY),
        "e": ContextStep(5, State.SUPERSEDED),
    }
    context = Context(chain="w1", seq=9, steps=steps, holds={})

    target = target_of(context, 33, redo=True, resume=False, uid=1000)

    assert target == Target(checkpoint=33, seq=9, done=("a", "c", "e"), floors={"b": 4}, redo=True, uid=1000)


@pytest.mark.parametrize(("redo", "reset"), [(False, ("c", "d", "e")), (True, ("c", "d", "e", "b"))])
def test_way_when_steps_were_completed_since_then_they_are_listed_and_kept(
    *, redo: bool, reset: tuple[str, ...]
) -> None:
    target = Target(checkpoint=1, seq=1, done=("a",), redo=redo)

    assert plan_rollback(target, STEPS, NOW, REASONS) == RollbackPlan(reset=reset, kept=("a",), not_undone=("b",))


def test_way_when_a_step_had_been_skipped_at_the_checkpoint_then_it_stays_skipped() -> None:
    target = Target(checkpoint=1, seq=1, done=("a", "b", "d"))

    assert plan_rollback(target, STEPS, NOW, REASONS) == RollbackPlan(
        reset=("c", "e"), kept=("a", "b", "d"), not_undone=()
    )


def test_way_when_a_step_is_reset_then_its_handlers_are_too() -> None:
    steps = [
        Step(name="work", job_id=1),
        Step(name="alert", job_id=2, needs=(Edge("work", NeedOn.FAILED),)),
        Step(name="ticket", job_id=3, needs=(Edge("alert"),)),
        Step(name="by-hand", job_id=4, needs=(Edge("work", NeedOn.ANY),)),
    ]
    ended = {"work": State.FAILED, "alert": State.SUCCEEDED, "ticket": State.SUCCEEDED, "by-hand": State.SKIPPED}
    reasons = {"work": Reason.EXIT, "alert": Reason.EXIT, "ticket": Reason.EXIT, "by-hand": Reason.USER}
    target = Target(checkpoint=1, seq=1, done=("alert", "by-hand"))

    assert plan_rollback(target, steps, ended, reasons) == RollbackPlan(
        reset=("work", "alert", "ticket"), kept=("by-hand",), not_undone=("ticket",)
    )
