"""The state of a workflow, from its intent and its steps, and the steps that a retry resets."""

from __future__ import annotations

import pytest

from stoker.core.job.model import NeedOn, Reason, State
from stoker.core.workflow.state import (
    Again,
    Edge,
    Intent,
    Step,
    Workflow,
    WorkflowState,
    aborts,
    behind,
    cuts,
    is_broken,
    state_of,
    to_reset,
)
from tests.support.jobs import job

# a -> b -> d, a -> c (not critical)
STEPS = [
    Step(name="a", job_id=1),
    Step(name="b", job_id=2, needs=(Edge("a"),)),
    Step(name="c", job_id=3, needs=(Edge("a", NeedOn.ANY),), critical=False),
    Step(name="d", job_id=4, needs=(Edge("b"), Edge("c", NeedOn.ANY))),
]
OPEN = [State.WAITING, State.QUEUED, State.RUNNING, State.HELD]


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize(
    ("intent", "wanted"),
    [
        (Intent.RUN, WorkflowState.RUNNING),
        (Intent.CANCEL, WorkflowState.RUNNING),
        (Intent.ABORT, WorkflowState.RUNNING),
        (Intent.PAUSE, WorkflowState.PAUSED),
        (Intent.ROLLBACK, WorkflowState.ROLLING_BACK),
    ],
)
def test_state_when_a_step_is_open_then_the_intent_names_it(
    state: State, intent: Intent, wanted: WorkflowState
) -> None:
    assert state_of(intent, {"a": State.SUCCEEDED, "b": state}, ["a"]) is wanted


@pytest.mark.parametrize(
    ("intent", "broken", "wanted"),
    [
        (Intent.RUN, [], WorkflowState.SUCCEEDED),
        (Intent.RUN, ["a"], WorkflowState.FAILED),
        (Intent.PAUSE, [], WorkflowState.SUCCEEDED),
        (Intent.CANCEL, [], WorkflowState.CANCELLED),
        (Intent.CANCEL, ["a"], WorkflowState.CANCELLED),
        (Intent.ABORT, [], WorkflowState.FAILED),
        (Intent.ROLLBACK, ["a"], WorkflowState.ROLLING_BACK),
    ],
)
def test_state_when_every_step_has_ended_then_it_is_final_unless_it_goes_back(
    intent: Intent, broken: list[str], wanted: WorkflowState
) -> None:
    assert state_of(intent, {"a": State.SUCCEEDED, "b": State.FAILED}, broken) is wanted


@pytest.mark.parametrize("state", list(WorkflowState))
def test_workflow_when_in_a_state_then_it_has_ended_only_in_three(state: WorkflowState) -> None:
    workflow = Workflow(id=1, name="w", owner_uid=0, trace_id="", flow="{}", flow_hash=b"", created_at=0, state=state)

    assert workflow.ended == (state.value in ("succeeded", "failed", "cancelled"))


@pytest.mark.parametrize(
    ("state", "by_dependency", "broken"),
    [
        (State.RUNNING, False, False),
        (State.SUCCEEDED, False, False),
        (State.SUPERSEDED, False, False),
        (State.FAILED, False, True),
        (State.CANCELLED, False, True),
        (State.EXPIRED, False, True),
        (State.SKIPPED, False, False),
        (State.SKIPPED, True, True),
    ],
)
def test_step_when_it_ends_then_only_a_critical_one_breaks_its_workflow(
    *, state: State, by_dependency: bool, broken: bool
) -> None:
    assert is_broken(STEPS[0], state, by_dependency=by_dependency) is broken
    assert is_broken(STEPS[2], state, by_dependency=by_dependency) is False


@pytest.mark.parametrize(
    ("again", "wanted"),
    [(Again.ALL, {"a", "b", "c", "d"}), (Again.FAILED, {"b", "d"}), (Again.INCOMPLETE, {"b", "c", "d"})],
)
def test_reset_when_asked_for_then_completed_steps_are_only_taken_again_with_all(
    again: Again, wanted: set[str]
) -> None:
    states = {"a": State.SUCCEEDED, "b": State.FAILED, "c": State.QUEUED, "d": State.SKIPPED}
    reasons = {"a": Reason.EXIT, "b": Reason.EXIT, "c": None, "d": Reason.DEPENDENCY}

    assert to_reset(again, STEPS, states, reasons) == wanted


def test_reset_when_a_person_skipped_a_step_then_it_counts_as_done() -> None:
    states = {"a": State.SKIPPED, "b": State.HELD, "c": State.SUCCEEDED, "d": State.WAITING}
    reasons = {"a": Reason.USER, "b": Reason.USER, "c": Reason.EXIT, "d": None}

    assert to_reset(Again.FAILED, STEPS, states, reasons) == {"b"}


def test_behind_when_a_step_is_named_then_all_that_needs_it_comes_with_it() -> None:
    assert behind(STEPS, ["b"]) == {"b", "d"}
    assert behind(STEPS, ["a"]) == {"a", "b", "c", "d"}
    assert behind(STEPS, []) == set()


@pytest.mark.parametrize(
    ("state", "reason", "code", "ends"),
    [
        (State.FAILED, Reason.EXIT, 3, (True, "group")),
        (State.FAILED, Reason.EXIT, 1, (False, "group")),
        (State.FAILED, Reason.TIMEOUT, 3, (False, "group")),
        (State.EXPIRED, Reason.TTL, None, (False, "group")),
        (State.CANCELLED, Reason.USER, None, (False, None)),
        (State.SUCCEEDED, Reason.EXIT, 3, (False, None)),
    ],
)
def test_step_when_it_ends_then_a_failure_ends_its_group_and_its_code_the_workflow(
    state: State, reason: Reason, code: int | None, ends: tuple[bool, str | None]
) -> None:
    step = Step(name="a", job_id=1, fail_fast="group", abort_on=(3,))
    ended = job(state, reason=reason, exit_code=code)

    assert (aborts(step, ended), cuts(step, ended)) == ends
