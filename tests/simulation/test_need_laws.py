"""The law of needs holds when a need runs again: the step that waits counts its new end, not the earlier one.

Owns that moment, which the long walk meets only with some seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from stoker.core.job.model import Actor
from stoker.core.requests import Verb, VerbParams
from stoker.rpc.flows import WorkflowSubmitParams, read_flow
from stoker.workflows.submit import WorkflowSubmission
from tests.simulation.flows import offer
from tests.simulation.happenings import possible
from tests.simulation.life import Life
from tests.simulation.seams import simulated
from tests.simulation.users import UID
from tests.simulation.walk import WEIGHTS, WORK, Walk

COURSE = [name for name in ("start", "time", *WORK) if name != "worker"]
MOST_STEPS = 5_000
NUMBER = "SELECT id FROM jobs WHERE step = ?"
END = "SELECT state, reason, needs_open FROM jobs WHERE step = ?"
WORKER = {"command": "/bin/work"}
STEPS = {
    "x": {**WORKER, "wait_for": "event:never"},
    "y": {**WORKER, "wait_for": "event:never"},
    "z": {**WORKER, "needs": ["x", {"step": "y", "on": "failed"}]},
}


def go_on_until(walk: Walk, fact: Callable[[], Any]) -> None:
    for _ in range(MOST_STEPS):
        if fact():
            return
        names = possible(walk.world, COURSE)
        walk.happen(walk.chance.choices(names, [WEIGHTS[name] for name in names])[0])
    raise AssertionError("it never happened")


def answered(walk: Walk, call: Callable[[Life], Any]) -> Any:
    """The answer to a request, once it came."""
    answers: list[Any] = []
    life = walk.world.life
    assert life is not None
    walk.world.requests.ask(life, "ask", lambda _note: call(life), answers.append)
    go_on_until(walk, lambda: answers)
    return answers[0]


def test_step_when_a_need_runs_again_then_it_waits_for_the_new_end() -> None:
    walk = Walk(random.Random(1))
    world, actor = walk.world, Actor(UID, "")

    def end(step: str) -> tuple[str, str | None, int]:
        row: tuple[str, str | None, int] = world.disk.database.execute(END, (step,)).fetchone()
        return row

    async def submit(life: Life) -> int:
        request = read_flow(WorkflowSubmitParams(flow={"name": "flow", "steps": STEPS}))
        submission = WorkflowSubmission(life.engine.intake, offer(request, None))
        life.engine.inbox.post(submission)
        answer = await submission.future
        assert answer.id is not None
        return answer.id

    with simulated(world):
        go_on_until(walk, lambda: world.life is not None and world.life.ready)
        one = answered(walk, submit)
        x, *_ = world.flow_laws.numbers(NUMBER, "x")
        answered(walk, lambda life: life.service.command(Verb.SKIP, VerbParams(id=x), UID))
        go_on_until(walk, lambda: end("z")[2] == 1)
        answered(walk, lambda life: life.service.command(Verb.RETRY, VerbParams(id=x), UID))
        answered(walk, lambda life: life.service.workflows.skip(one, "y", actor))
        go_on_until(walk, lambda: end("y")[0] == "skipped" and end("z")[2] == 1)
        assert (end("x")[0], end("z")[0]) == ("waiting", "waiting")

        answered(walk, lambda life: life.service.command(Verb.SKIP, VerbParams(id=x), UID))
        go_on_until(walk, lambda: end("z")[0] == "skipped")

        assert end("z")[:2] == ("skipped", "not_needed")
        assert world.laws.looks["skipped"] == 1
