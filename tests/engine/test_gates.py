"""The handlers of a workflow that are due: found without a look at all others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.job.model import FINAL, State
from stoker.core.workflow.handlers import Handler
from stoker.core.workflow.state import Step, Workflow
from stoker.core.workflow.step_names import outer_of
from stoker.engine.memory.live_workflow import LiveWorkflow

WHOLE = Workflow(
    id=1, name="flow", owner_uid=0, trace_id="a" * 32, flow="{}", flow_hash=b"", created_at=1_700_000_000_000
)
FLOWS = ("", "a/", "b/", "b/c/")
TABLES = (None, Handler.ON_FAILURE, Handler.FINALLY)
STEPS = {
    number: Step(name=f"{flow}s{number}", job_id=number, handler=table)
    for number, (flow, table) in enumerate(((flow, table) for flow in FLOWS for table in TABLES), start=1)
}
HANDLERS = [number for number, step in STEPS.items() if step.handler is not None]
changes = st.one_of(
    st.tuples(st.just("state"), st.sampled_from([*STEPS]), st.sampled_from(State)),
    st.tuples(st.sampled_from(["open", "close"]), st.sampled_from(HANDLERS), st.just(State.WAITING)),
    st.tuples(st.just("ask"), st.just(1), st.just(State.WAITING)),
)


def waiting() -> LiveWorkflow:
    """A workflow in which nothing has ended: each handler waits for its workflow."""
    run = LiveWorkflow(WHOLE, STEPS, {}, {}, set())
    for step in STEPS.values():
        run.set_state(step, State.WAITING, None, 0)
    for number in HANDLERS:
        run.close_gate(number)
    return run


def due_of_all(run: LiveWorkflow, closed: set[int]) -> list[int]:
    return sorted(
        number for number in closed if run.states[STEPS[number].name] not in FINAL and not run.is_early(STEPS[number])
    )


@settings(deadline=None)
@given(st.lists(changes, max_size=60))
def test_due_handlers_when_steps_end_or_run_again_then_they_are_all(walk: list[tuple[str, int, State]]) -> None:
    run, closed = waiting(), {*HANDLERS}
    for kind, number, state in walk:
        if kind == "state":
            run.set_state(STEPS[number], state, None, 0)
        elif kind == "close":
            run.close_gate(number)
            closed.add(number)
        elif kind == "open":
            run.open_gate(number)
            closed.discard(number)
        else:
            assert run.due_gates() == due_of_all(run, closed)
    assert run.due_gates() == due_of_all(run, closed)


def test_due_handlers_when_no_step_of_their_flow_changed_then_none_is_looked_at() -> None:
    """Seen by a handler whose state is not known: a look at it would fail."""
    run, of = waiting(), {(outer_of(step.name), step.handler): step for step in STEPS.values()}
    assert run.due_gates() == []
    del run.states[of["a/", Handler.FINALLY].name]

    run.set_state(of["b/c/", None], State.SUCCEEDED, None, 0)

    assert run.due_gates() == [of["b/c/", Handler.ON_FAILURE].job_id]
