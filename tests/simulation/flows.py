"""Clients of workflows: they submit random graphs, and use every verb of a workflow in any order.

Owns the graphs and the options of the verbs. The steps are jobs, on which `clients.py` uses the verbs of jobs.
Invariant: one key means one workflow, however often it is sent.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from stoker.core.job.model import Actor, NeedOn, OnOrphan
from stoker.core.workflow.definition import FlowRequest
from stoker.core.workflow.plan import plan_flow
from stoker.core.workflow.resume import ResumeOptions
from stoker.core.workflow.reuse import ReuseWish
from stoker.core.workflow.state import Again, Strategy
from stoker.rpc.flows import WorkflowSubmitParams, read_flow
from stoker.service.workflows import WorkflowService
from stoker.workflows.reuse import wish_of
from stoker.workflows.submit import WorkflowOffer, WorkflowSubmission
from stoker.workflows.submit_answers import WorkflowAnswer
from tests.simulation.flow_laws import FlowLaws
from tests.simulation.life import Life
from tests.simulation.requests import Requests
from tests.simulation.users import UID

MOST_STEPS = 5
LIMITS = {"timeout_ms": [50, 2_000], "deadline_ms": [50, 2_000], "max_running": [1, 2]}
OF_NESTED = {"needs", "when", "if", "queue", "critical", "each", "matrix", "fail_fast"}  # fields of a nested workflow
NEWEST = 6  # workflows that verbs are used on
COMPLETED = "SELECT DISTINCT workflow_id FROM jobs WHERE workflow_id IS NOT NULL AND state = 'succeeded'"
CHECKPOINTS = "SELECT id FROM checkpoints WHERE chain = ? ORDER BY seq DESC LIMIT 12"
Verb = Callable[["FlowClients", WorkflowService, int, Actor], Awaitable[Any]]


class FlowClients:
    def __init__(self, laws: FlowLaws, requests: Requests, chance: random.Random) -> None:
        self._laws = laws
        self._requests = requests
        self._chance = chance
        self._unanswered: dict[str, dict[str, Any]] = {}
        self._reused: dict[str, int] = {}  # by name of a flow that was not answered yet: the earlier run
        self._flows: dict[int, dict[str, Any]] = {}  # the flow of each workflow that was answered
        self._count = 0
        self._groups: set[str] = set()  # the steps with `each` of the flow that is being invented
        self.lists = 0.0  # how many of the flows are those of `_with_list`

    # --- graphs

    def submit(self, life: Life) -> None:
        """Submit a new workflow, or one again whose answer was lost."""
        if self._unanswered and self._chance.random() < 0.3:
            name = self._chance.choice(list(self._unanswered))
        else:
            self._count += 1
            name = f"flow-{self._count}"
            done = [ident for ident in self._laws.numbers(COMPLETED) if ident in self._flows]
            if self.lists and self._chance.random() < self.lists:
                self._unanswered[name] = self._with_list(name, done)
            else:
                edits = done and self._chance.random() < 0.6
                self._unanswered[name] = self._edit(name, done) if edits else self._invent(name)
        flow, earlier = self._unanswered[name], self._reused.get(name)
        request = read_flow(WorkflowSubmitParams(flow=flow, reuse=earlier))

        async def send(_note: str) -> WorkflowAnswer:
            wish = None if earlier is None else await wish_of(life.engine.queries, request, UID)
            submission = WorkflowSubmission(life.engine.intake, offer(request, wish))
            life.engine.inbox.post(submission)
            return await submission.future

        def hear(answer: WorkflowAnswer) -> None:
            self._unanswered.pop(name, None)
            self._reused.pop(name, None)
            assert answer.id is not None
            self._flows[answer.id] = flow
            self._laws.answer(answer, name)

        self._requests.ask(life, f"submit {name}", send, hear)

    def _with_list(self, name: str, done: list[int]) -> dict[str, Any]:
        """A step with a list, the steps of that list, and one behind them. It reuses an earlier such flow.

        Sometimes one of them has changed: then the others are compared while the list expands.
        """
        work = {"command": "/bin/work", "max_attempts": 4, "base_delay_ms": 0, "on_orphan": "requeue"}
        steps: dict[str, Any] = {
            "list": {**work},
            "work": {**work, "each": {"step": "list", "output": "files"}},
            "after": {**work, "needs": ["work"]},
        }
        if earlier := [ident for ident in done if "list" in self._flows[ident]["steps"]]:
            self._reused[name] = self._chance.choice(earlier[-NEWEST:])
            if (changed := self._chance.choice([None, None, *steps])) is not None:
                steps[changed]["args"] = [name]
        return {"name": name, "steps": steps}

    def _edit(self, name: str, done: list[int]) -> dict[str, Any]:
        """One of these earlier flows, of which some steps have changed; what has not is reused."""
        earlier = self._reused[name] = self._chance.choice(done[-NEWEST:])
        steps = {
            step: fields if "workflow" in fields or self._chance.random() > 0.2 else {**fields, "args": [name]}
            for step, fields in self._flows[earlier]["steps"].items()
        }
        flow: dict[str, Any] = {"name": name, "steps": steps}
        for limit, values in LIMITS.items():
            if self._chance.random() < 0.1:
                flow[limit] = self._chance.choice(values)
        if self._chance.random() < 0.2:
            flow["concurrency"] = {"key": "k", "policy": self._chance.choice(["queue", "supersede"])}
        for table in ("on_failure", "on_success", "finally"):
            if self._chance.random() < 0.15:
                flow[table] = {
                    f"{table}-{index}": self._handler(table, index) for index in range(self._chance.choice([1, 2]))
                }
        return flow

    def _handler(self, table: str, index: int) -> dict[str, Any]:
        needs = [f"{table}-0"] if index and self._chance.random() < 0.5 else []
        step = {**self._step([], []), "needs": needs, "critical": self._chance.random() < 0.2}
        step.pop("abort_on", None)
        return step

    def _invent(self, name: str) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        self._groups.clear()
        for index in range(self._chance.randint(1, MOST_STEPS)):
            single = [name for name, step in steps.items() if not {"each", "matrix", "workflow"} & step.keys()]
            step = self._step(list(steps), single)
            steps[f"s{index}"] = self._nested(step) if self._chance.random() < 0.15 else step
            if {"each", "matrix"} & step.keys():
                self._groups.add(f"s{index}")
        return {"name": name, "steps": steps}

    def _nested(self, step: dict[str, Any]) -> dict[str, Any]:
        """A workflow in place of the step, with a limit of time and handlers."""
        limit = self._chance.choice(["timeout_ms", "deadline_ms"])
        first = self._step([], [])
        (self._groups.add if {"each", "matrix"} & first.keys() else self._groups.discard)("a")
        steps = {"a": first, "b": self._step(["a"], [])}
        outer = {name: value for name, value in step.items() if name in OF_NESTED}
        handlers = {
            table: {f"{table}-0": self._handler(table, 0)}
            for table in ("on_failure", "on_success", "finally")
            if self._chance.random() < 0.3
        }
        limits = {limit: self._chance.choice(LIMITS[limit])}
        return {**outer, "workflow": {"name": "inner", "steps": steps, **limits, **handlers}}

    def _step(self, before: list[str], single: list[str]) -> dict[str, Any]:
        """`single`: the steps before it that can hand on a list."""
        draw = self._chance
        needs: list[Any] = [name for name in before if draw.random() < 0.4]
        conditions = ["any_failed", "any_ok", "all_failed", "always"]
        when = {"when": draw.choice(conditions)} if needs and draw.random() < 0.4 else {}
        if not when:
            needs = [{"step": name, "on": draw.choice(["ok", "ok", "failed", "any"])} for name in needs]
        step: dict[str, Any] = {
            "command": "/bin/work",
            "needs": needs,
            **when,
            **self._condition(needs),
            "queue": draw.choice(["default", "default", "bulk"]),
            "critical": draw.random() < 0.8,
            "max_attempts": draw.choice([1, 2, 4]),
            "base_delay_ms": draw.choice([0, 20, 1_000]),
            "on_orphan": draw.choice(list(OnOrphan)).value,
            "survive": draw.random() < 0.4,
            "grace_ms": draw.choice([0, 100]),
            "verify": draw.random() < 0.3,
            "resume": draw.choice([one.value for one in Strategy]),
        }
        if draw.random() < 0.2:
            step |= {"each": ["a", "b", "c"], "width": draw.choice([1, 2]), "fail_fast": draw.random() < 0.5}
        elif single and when.get("when") not in ("any_failed", "any_ok") and draw.random() < 0.3:
            step |= {"each": {"step": draw.choice(single), "output": "files"}}
        elif draw.random() < 0.1:
            step |= {"matrix": {"x": ["a", "b"], "y": [1, 2], "exclude": [{"x": "a", "y": 2}]}, "width": 2}
        if draw.random() < 0.2:
            step["resources"] = draw.choice([{"gpu": 1}, {"lock": 1}])
        if draw.random() < 0.1:
            step["abort_on"] = list(range(1, 256))
        if draw.random() < 0.1:
            step["ttl_ms"] = draw.choice([50, 5_000])
        return step

    def _condition(self, needs: list[Any]) -> dict[str, str]:
        """An `if` that its needs decide, one that is never true, or one that has no value."""
        names = [need if isinstance(need, str) else need["step"] for need in needs]
        if not names or self._chance.random() < 0.6:
            return {"if": self._chance.choice(["true", "1 > 2"])} if self._chance.random() < 0.1 else {}
        name = self._chance.choice(names)
        one = [f"needs.{name}.state == 'succeeded'", f"needs.{name}.exit_code != 0", f"needs.{name}.outputs.x == ''"]
        several = [f"needs.{name}.all(s, s.state == 'succeeded')", f"needs.{name}.exists(s, s.state == 'failed')"]
        return {"if": self._chance.choice(several if name in self._groups else one)}

    # --- verbs

    def speak(self, life: Life) -> None:
        """Use random verbs on one of the newest workflows: one, or several before the first is answered."""
        paused = self._laws.paused()
        if paused and self._chance.random() < 0.3:
            self.let_go_on(life, [self._chance.choice(paused)])
            return
        workflow_id = self._chance.choice(list(self._laws.answered)[-NEWEST:])
        if self._chance.random() < 0.2:
            self._change_in_a_pause(life, workflow_id)
            return
        for _ in range(self._chance.choice([1, 1, 2])):
            verb = self._chance.choice(list(VERBS))
            for _ in range(self._chance.choice([1, 1, 1, 2])):
                self._say(life, verb, workflow_id)

    def _change_in_a_pause(self, life: Life, workflow_id: int) -> None:
        """Pause a workflow, change it and resume it, all before the first answer: steps become queued in the pause."""
        changes = self._chance.choices(["skip", "remove_need"], k=self._chance.randint(1, 3))
        for verb in ("pause", *changes, "resume plainly"):
            self._say(life, verb, workflow_id)

    def let_go_on(self, life: Life, workflow_ids: list[int]) -> None:
        """Resume paused workflows: no program does that."""
        for workflow_id in workflow_ids:
            self._say(life, "resume plainly", workflow_id)

    def _say(self, life: Life, verb: str, workflow_id: int) -> None:
        def send(note: str) -> Awaitable[Any]:
            return VERBS[verb](self, life.service.workflows, workflow_id, Actor(UID, note))

        self._requests.ask(life, verb, send, lambda _answer: self._laws.spoken(verb))

    def step(self, workflow_id: int) -> str:
        return self._chance.choice(self._laws.answered[workflow_id])

    def budget(self) -> dict[str, int | None]:
        draw = self._chance
        return {"timeout_ms": draw.choice([None, None, 500]), "max_attempts": draw.choice([None, None, 3])}

    def retry(self, workflows: WorkflowService, workflow_id: int, actor: Actor) -> Awaitable[Any]:
        steps = [self.step(workflow_id)] if self._chance.random() < 0.4 else []
        return workflows.retry(workflow_id, self._chance.choice(list(Again)), steps, actor, **self.budget())

    def add_need(self, workflows: WorkflowService, workflow_id: int, actor: Actor) -> Awaitable[Any]:
        on = self._chance.choice(list(NeedOn))
        return workflows.add_need(workflow_id, self.step(workflow_id), self.step(workflow_id), on, actor)

    def remove_need(self, workflows: WorkflowService, workflow_id: int, actor: Actor) -> Awaitable[Any]:
        return workflows.remove_need(workflow_id, self.step(workflow_id), self.step(workflow_id), actor)

    def resume(self, workflows: WorkflowService, workflow_id: int, actor: Actor) -> Awaitable[Any]:
        draw = self._chance
        options = ResumeOptions(
            id=workflow_id,
            strategy=draw.choice([None, *[one.value for one in Strategy]]),
            start=self.step(workflow_id) if draw.random() < 0.3 else None,
            explain=draw.random() < 0.1,
            verify=draw.random() < 0.7,
            max_attempts=draw.choice([None, None, 3]),
        )
        return workflows.resume(options, actor)

    def rollback(self, workflows: WorkflowService, workflow_id: int, actor: Actor) -> Awaitable[Any]:
        draw = self._chance
        to = draw.choice([None, *self._laws.numbers(CHECKPOINTS, f"w{workflow_id}")])
        return workflows.rollback(workflow_id, to, actor, redo=draw.random() < 0.5, resume=draw.random() < 0.7)


VERBS: dict[str, Verb] = {
    "pause": lambda _self, workflows, workflow_id, actor: workflows.pause(workflow_id, actor),
    "resume plainly": lambda _self, workflows, workflow_id, actor: workflows.resume(
        ResumeOptions(id=workflow_id), actor
    ),
    "resume": FlowClients.resume,
    "cancel": lambda _self, workflows, workflow_id, actor: workflows.cancel(workflow_id, actor),
    "retry": FlowClients.retry,
    "skip": lambda self, workflows, workflow_id, actor: workflows.skip(workflow_id, self.step(workflow_id), actor),
    "add_need": FlowClients.add_need,
    "remove_need": FlowClients.remove_need,
    "rollback": FlowClients.rollback,
}


def offer(request: FlowRequest, wish: ReuseWish | None) -> WorkflowOffer:
    planned = plan_flow(request, None)
    assert not planned.mistakes, planned.mistakes
    name = request.flow.name
    return WorkflowOffer(
        name=name,
        sent=request.raw,
        parameters={},
        plan=planned,
        limits=request.flow.limits,
        reuse=wish,
        reuse_asked=request.reuse,
        owner_uid=UID,
        key=f"key of {name}",
    )
