"""A turn also works in pieces before and after its messages, as its workflows may have thousands of steps.

Owns a loop whose stalls note each part that was measured: between two parts the event loop serves other callbacks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from stoker.core.job import events as ev
from stoker.core.job.model import STOKER, State
from stoker.core.requests import Verb
from stoker.core.workflow.state import Step, Workflow, WorkflowState
from stoker.engine.commands import VerbCommand
from stoker.engine.inbox import AnswerRequest, Inbox, Message, RequestMessage
from stoker.engine.loop import TURN_LIMIT, Loop
from stoker.engine.memory import LiveState
from stoker.engine.memory.blueprint import Blueprint
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.settings import TurnChange
from stoker.store.loading import ENDED_WORKFLOWS_LIMIT
from stoker.telemetry.otel import Telemetry
from stoker.telemetry.stalls import Stalls
from stoker.upkeep.housekeeping import Flush
from stoker.workflows.commands import WorkflowCommand, pause
from tests.support.batches import accepted
from tests.support.jobs import job
from tests.support.still import Still

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from stoker.engine.turn import Turn
    from stoker.store.open import Opened

WORKFLOWS = 10
STEPS = 10_000  # that a workflow may have


class Noting(Stalls):
    def __init__(self) -> None:
        super().__init__(Telemetry())
        self.parts: list[str] = []

    def measure_turn(self, began: float, part: str, held: Iterable[object], steps: int) -> None:
        self.parts.append(part)
        super().measure_turn(began, part, held, steps)


def large(number: int) -> LiveWorkflow:
    """A workflow in which each step has still to start."""
    of = Workflow(id=number, name="w", owner_uid=0, trace_id="t", flow="", flow_hash=bytes(16), created_at=0)
    steps = {number * STEPS + place: Step(name=f"s{place}", job_id=number * STEPS + place) for place in range(STEPS)}
    names = [step.name for step in steps.values()]
    return LiveWorkflow(of, steps, dict.fromkeys(names, State.QUEUED), dict.fromkeys(names), set())


async def test_turn_when_large_workflows_are_judged_then_others_are_served_between_them(state: Opened) -> None:
    memory, inbox, stalls, still = LiveState(state.snapshot.queues, {}, 0, 0), Inbox(), Noting(), Still()
    loop = Loop(inbox, state.writer, memory, still, still, still, stalls, [])
    for number in range(1, WORKFLOWS + 1):
        memory.workflows.add(large(number))
    inbox.post(TurnChange(lambda turn: turn.touched_workflows.update(memory.workflows.runs)))
    loop.stop()

    await loop.run()

    assert stalls.parts.count("decide") > WORKFLOWS


class Answering:
    """The part after a commit, reduced to the answers."""

    def after_commit(self, turn: Turn) -> None:
        for effect in turn.effects:
            if isinstance(effect, AnswerRequest):
                effect.request.answer(effect.result)


async def test_answers_when_many_messages_wait_then_the_next_turn_is_enough(state: Opened) -> None:
    memory, inbox, still = LiveState(state.snapshot.queues, {}, 0, 0), Inbox(), Still()
    loop = Loop(inbox, state.writer, memory, still, still, still, Noting(), [Answering()])
    for _ in range(8 * TURN_LIMIT):
        inbox.post(Flush())
    left: list[int] = []

    async def look() -> None:
        await loop.answers()
        left.append(len(inbox))

    async with asyncio.TaskGroup() as both:
        both.create_task(look())
        await asyncio.sleep(0)  # it has asked
        loop.stop()
        both.create_task(loop.run())

    assert left[0] >= 6 * TURN_LIMIT


class Seen(Message):
    """Notes in which turn it was."""

    def __init__(self, turns: list[Turn]) -> None:
        self._turns = turns

    def apply_to(self, turn: Turn) -> None:
        self._turns.append(turn)


class Asked(RequestMessage[None]):
    """The same, of a client."""

    def __init__(self, turns: list[Turn]) -> None:
        super().__init__()
        self._turns = turns

    def apply_to(self, turn: Turn) -> None:
        self._turns.append(turn)
        self.answer_after(turn, None)


async def test_report_when_a_client_got_an_answer_then_its_next_request_shares_the_turn(
    state: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.engine.loop.COMPANY_S", 3_600.0)
    memory, inbox, still = LiveState(state.snapshot.queues, {}, 0, 0), Inbox(), Still()
    loop = Loop(inbox, state.writer, memory, still, still, still, Noting(), [Answering()])
    turns: list[Turn] = []

    async with asyncio.TaskGroup() as both:
        both.create_task(loop.run())
        await inbox.ask(Asked(turns))
        inbox.post(Seen(turns))
        for _ in range(9):  # the loop could take a turn
            await asyncio.sleep(0)
        await inbox.ask(Asked(turns))
        loop.stop()

    first, report, second = turns
    assert first is not report
    assert report is second


async def test_report_when_no_client_got_an_answer_then_it_is_taken_at_once(state: Opened) -> None:
    memory, inbox, still = LiveState(state.snapshot.queues, {}, 0, 0), Inbox(), Still()
    loop = Loop(inbox, state.writer, memory, still, still, still, Noting(), [Answering()])
    turns: list[Turn] = []

    async with asyncio.TaskGroup() as both:
        both.create_task(loop.run())
        inbox.post(Seen(turns))
        for _ in range(9):
            await asyncio.sleep(0)
        assert len(turns) == 1
        loop.stop()


async def test_take_when_messages_are_about_workflows_then_a_turn_has_few_of_them() -> None:
    inbox = Inbox()
    for number in range(TURN_LIMIT):
        inbox.post(WorkflowCommand(number, lambda turn, run: pause(turn, run, STOKER)))
    inbox.post(Flush())

    first = inbox.take(TURN_LIMIT)

    assert len(first) == 16
    assert inbox.take(1)
    assert len(inbox) == TURN_LIMIT - len(first)


def ended(number: int) -> Workflow:
    """A failed workflow, whose only step is job `number`."""
    plan = Blueprint(flow=msgspec.Raw(b"{}"), parameters={}, steps=(Step(name="a", job_id=number),))
    return Workflow(
        id=number,
        name="w",
        owner_uid=0,
        trace_id="t",
        flow=msgspec.json.encode(plan).decode(),
        flow_hash=bytes(16),
        created_at=1,
        state=WorkflowState.FAILED,
        finished_at=2,
    )


async def test_turn_when_commands_are_about_steps_of_ended_workflows_then_it_loads_few(state: Opened) -> None:
    memory, inbox, still = LiveState(state.snapshot.queues, {}, 0, 0), Inbox(), Still()
    numbers = range(1, 5 * ENDED_WORKFLOWS_LIMIT)
    batch = accepted(*(job(State.FAILED, id=number, workflow_id=number, step="a") for number in numbers))
    batch.new_workflows = {number: ended(number) for number in numbers}
    await state.writer.commit(batch, frozenset())
    memory.last_seq = len(numbers)
    loaded: list[list[int]] = []

    class Counting(Answering):
        def after_commit(self, turn: Turn) -> None:
            super().after_commit(turn)
            loaded.append([stored.workflow.id for stored in turn.loaded.workflows])

    loop = Loop(inbox, state.writer, memory, still, still, still, Noting(), [Counting()])
    retries = [VerbCommand(Verb.RETRY, number, ev.Retry(actor=STOKER)) for number in numbers]
    for retry in retries:
        inbox.post(retry)
    loop.stop()

    await loop.run()

    assert [retry.future.result().state for retry in retries] == [State.QUEUED] * len(numbers)
    assert max(map(len, loaded)) <= ENDED_WORKFLOWS_LIMIT
    assert [number for turn in loaded for number in sorted(turn)] == list(numbers)
