"""Accepting a workflow: all of its steps in one commit, or every mistake in one answer.

Owns the checks against queues, resources and capacities, and the way from a plan to its rows. Shape and graph are
checked by `core.workflow.plan`; its mistakes are part of the same answer. Invariants: a workflow is accepted
completely or not at all; its steps get consecutive ids in an order in which they can run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.access import Role
from stoker.core.errors import IdempotencyConflict, InvalidParams, QueueFull, QuotaReached, StokerError
from stoker.core.job.model import Actor, Spec
from stoker.core.job.secret_values import NOT_KEPT, Secrets
from stoker.core.schedule.model import Origin
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow import strategies
from stoker.core.workflow.definition import ConcurrencyPolicy, FlowLimits, FlowRequest, Part
from stoker.core.workflow.fan_out import Planned
from stoker.core.workflow.mistakes import Mistake, refuse
from stoker.core.workflow.plan import Plan, plan_flow
from stoker.core.workflow.reuse import ReuseDecision, ReuseWish, decide
from stoker.core.workflow.selection import select
from stoker.core.workflow.state import Intent, Workflow, WorkflowState
from stoker.engine import conditions
from stoker.engine.intake import CommandRequest, Intake, SecretDigest, drawn_trace_id
from stoker.engine.memory.blueprint import Blueprint, width_of
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import Turn
from stoker.store.keys import Keyed, NewKey
from stoker.store.loading import Wanted
from stoker.workflows.step_specs import (
    StepOwner,
    accept_steps,
    step_mistake,
    step_needs,
    step_row,
    step_spec,
    taken_over,
)
from stoker.workflows.submit_answers import ReuseAnswer, StepReuse, WorkflowAnswer


class WorkflowOffer(Struct, frozen=True, kw_only=True):
    """A workflow as it was sent, and its plan; `origin`: the schedule that submits it.

    `secrets`: the values of those that its steps name.
    `part`: the part of it that is wanted; `met`: the needs outside of that part, which count as met.
    """

    name: str
    sent: msgspec.Raw
    parameters: dict[str, str]
    plan: Plan
    part: Part = Part()
    reuse: ReuseWish | None = None
    reuse_asked: int | str | None = None
    met: tuple[str, ...] = ()
    owner_uid: int
    key: str | None = None
    dry_run: bool = False
    secrets: Secrets = {}
    limits: FlowLimits = FlowLimits()
    origin: Origin | None = None


def offer_of(request: FlowRequest, wish: ReuseWish | None, owner_uid: int) -> WorkflowOffer:
    """Plan the part that is asked for. Too slow for a turn: even a short request may have thousands of steps."""
    completed = () if wish is None or wish.earlier is None else wish.earlier.completed
    selected = select(plan_flow(request, strategies.all_names()), request.part, completed)
    return WorkflowOffer(
        name=request.flow.name,
        sent=request.raw,
        parameters={**request.flow.parameters, **request.parameters},
        plan=selected.plan,
        part=request.part,
        reuse=wish and replace(wish, outside=selected.outside),
        reuse_asked=request.reuse,
        met=selected.met,
        owner_uid=owner_uid,
        key=request.idempotency_key,
        dry_run=request.dry_run,
        secrets=request.secrets,
        limits=request.flow.limits,
    )


class WorkflowSubmission(CommandRequest[WorkflowAnswer]):
    def __init__(self, intake: Intake, offer: WorkflowOffer, role: Role = Role.SUBMITTER) -> None:
        self._located = [step for step in offer.plan.steps if step.locatable and not step.control]
        super().__init__([step.sent for step in self._located], role)
        self._intake = intake
        self._offer = offer
        self._owner = StepOwner(offer.name, offer.owner_uid, offer.origin)
        self._warnings: dict[str, None] = {}  # in order, and those of the steps of one `each` only once
        self._digest = _digest(offer, intake.secret_digest)

    def declare_reads(self, wanted: Wanted) -> None:
        if self._offer.key:
            wanted.keys.add((self._offer.owner_uid, self._offer.key))
        for step in self._offer.plan.steps:
            if step.sent.wait_for:
                conditions.declare_reads(wanted, step.sent.wait_for, self._offer.owner_uid)

    def apply_to(self, turn: Turn) -> Generator[None]:
        """All or nothing: everything that can refuse a step is asked before the first is stored."""
        # A wrong flow gets its mistakes even while nothing is accepted: "try again later" would not help, and no key
        # was stored for it.
        wrong = bool(self._offer.plan.mistakes)
        if self._intake.closed is not None and not wrong:
            raise self._intake.closed
        answer = None if wrong else self._earlier_answer(turn)
        if answer is None:
            answer = yield from self._accept_at_pace(turn)
        self.answer_after(turn, answer)

    def _accept_at_pace(self, turn: Turn) -> Generator[None, None, WorkflowAnswer]:
        """Accept it unless its user submits too fast. What is not stored is free."""
        users, uid = turn.memory.users, self._owner.uid
        if not (self._offer.plan.mistakes or self._offer.dry_run):
            users.check_pace(uid, turn.now.steady)
        answer = yield from self.accept_or_try(turn)
        if answer.id is not None and not answer.skipped:
            users.submitted(uid, len(self._offer.plan.steps), turn.now.steady)
        return answer

    def accept_or_try(self, turn: Turn) -> Generator[None, None, WorkflowAnswer]:
        specs = yield from self._specs(turn)
        reuse = yield from self._reuse(specs)
        about: dict[str, Any] = {
            "layers": self._offer.plan.layers,
            "warnings": (*self._warnings,),
            "met": self._offer.met,
            "reuse": self._reuse_answer(reuse),
        }
        if self._offer.dry_run:
            steps = dict.fromkeys(step.name for step in self._offer.plan.steps)
            return WorkflowAnswer(id=None, state=None, steps=steps, **about)
        if (there := self._skipped_for(turn)) is not None:
            return _answer(there, skipped=True, **about)
        run = yield from self._accept(turn, specs, reuse)
        return _answer(run, **about)

    def _skipped_for(self, turn: Turn) -> LiveWorkflow | None:
        """The workflow of the same key for which this one is skipped."""
        concurrency = self._offer.plan.concurrency
        if concurrency is None or concurrency.policy is not ConcurrencyPolicy.SKIP:
            return None
        workflows = turn.memory.workflows
        live = workflows.turns.live((self._offer.owner_uid, concurrency.key))
        return workflows.runs[live[0]] if live else None

    def _supersede(self, turn: Turn, run: LiveWorkflow, actor: Actor) -> None:
        """Cancel the older workflows of its key; their steps end in later turns, and this one starts after that."""
        concurrency = self._offer.plan.concurrency
        if concurrency is not None and concurrency.policy is ConcurrencyPolicy.SUPERSEDE:
            for workflow_id in turn.memory.workflows.turns.before(run.workflow):
                older = turn.memory.workflows.runs[workflow_id]
                if older.workflow.intent is not Intent.CANCEL:
                    turn.intend(older, Intent.CANCEL, "superseded", actor, by=run.workflow.id)

    def _earlier_answer(self, turn: Turn) -> WorkflowAnswer | None:
        """The answer to an earlier submit with this key. Raises IdempotencyConflict."""
        key = self._offer.key
        keyed = turn.loaded.keys.get((self._offer.owner_uid, key)) if key else None
        if keyed is None:
            return None
        job = turn.find(keyed.job_id)
        workflow_id = keyed.purged_workflow if job is None else job.workflow_id
        if keyed.spec_hash != self._digest or workflow_id is None:
            what = f"job {keyed.job_id}" if workflow_id is None else f"workflow {workflow_id}"
            show = f"show {keyed.job_id}" if workflow_id is None else f"workflow show {workflow_id}"
            raise IdempotencyConflict(
                f"idempotency_key: {key!r} was used for {what} with another spec",
                path="idempotency_key",
                hint=f"stoker {show}, or choose another key",
            )
        if keyed.purged_workflow is not None:
            state = WorkflowState(str(keyed.purged_state))
            layers = self._offer.plan.layers
            return WorkflowAnswer(id=workflow_id, state=state, steps={}, layers=layers, existing=True)
        run = turn.memory.workflows.runs[workflow_id]
        turn.touched_workflows.add(workflow_id)  # so that a workflow that has ended leaves the memory again
        return _answer(run, layers=self._offer.plan.layers, existing=True)

    def _specs(self, turn: Turn) -> Generator[None, None, list[Spec]]:
        """The spec of every step. Raises FlowInvalid with all mistakes, QueueFull or QuotaReached."""
        plan = self._offer.plan
        first = turn.memory.last_id + 1
        ids = {step.name: first + index for index, step in enumerate(plan.steps)}
        mistakes = [*plan.mistakes]
        problems = {step.name: problem for step, problem in zip(self._located, self.problems, strict=True)}
        specs = []
        for step in plan.steps:
            spec, errors = self._spec(turn, step, ids, problems.get(step.name))
            mistakes += (step_mistake(step, error) for error in errors)
            specs.append(spec)
            yield
        refuse(list(dict.fromkeys(mistakes)))
        steps = Counter(spec.queue for spec in specs)
        refuse([*self._never_fitting(turn, steps)])
        yield from self._check_room(turn, steps)
        return specs

    def _never_fitting(self, turn: Turn, steps: Counter[str]) -> Iterator[Mistake]:
        """Queues that are too small for these steps even if empty. The bound 0 only closes a queue for a while."""
        for name, count in steps.items():
            most = self._intake.most_places(turn.memory.queues[name])
            if 0 < most.in_queue < count:
                problem = f"{count} steps never fit into queue {name!r}, whose max_queued is {most.in_queue}"
                yield Mistake("steps", problem, f"stoker queue set {name} --max-queued {count}")
        if 0 < most.in_all < steps.total():
            problem = f"{steps.total()} steps never fit: [jobs] max_queued is {most.in_all}, for all queues together"
            yield Mistake("steps", problem, "a higher [jobs] max_queued, or divide it into several workflows")
        uid = self._owner.uid
        quota = turn.memory.users.quotas.of(uid).max_queued
        if quota is not None and quota < steps.total():
            problem = f"{steps.total()} steps never fit: the limit max_queued of [quotas] for uid {uid} is {quota}"
            yield Mistake("steps", problem, "divide it into several workflows; stoker limits shows your limits")

    def _check_room(self, turn: Turn, steps: Counter[str]) -> Generator[None]:
        """Raises QueueFull, with the places that the steps need, or QuotaReached."""
        uid, users = self._owner.uid, turn.memory.users
        if users.quotas.of(uid).max_workflows is not None:
            live, queue = turn.memory.workflows.live_of(uid), next(iter(steps))
            users.quotas.of(uid).check("max_workflows", uid, live, queue=queue, workflow=True)
        if self._all_have_room(turn, steps):
            return
        ahead: Counter[str] = Counter()
        for name in steps.elements():  # the first without a place says how many there are
            try:
                self._intake.check_room(turn, turn.memory.queues[name], self._owner.uid, ahead)
            except (QueueFull, QuotaReached) as full:
                full.details |= {"places": steps[name], "places_in_all": steps.total()}
                raise
            ahead[name] += 1
            yield

    def _all_have_room(self, turn: Turn, steps: Counter[str]) -> bool:
        """Whether the last step of each queue has a place behind all others."""
        try:
            for name in steps:
                queue = turn.memory.queues[name]
                self._intake.check_room(turn, queue, self._owner.uid, steps - Counter({name: 1}))
        except (QueueFull, QuotaReached):
            return False
        return True

    def _spec(
        self, turn: Turn, step: Planned, ids: Mapping[str, int], problem: StokerError | None
    ) -> tuple[Spec, list[StokerError]]:
        """The spec of a step, and all errors that this host has for it; `problem` is that of its command."""
        spec, errors = step_spec(turn, self._intake, self._owner, step, step_needs(step, ids))
        if not self._offer.plan.mistakes:  # no value is sent for a name that the flow does not declare
            errors += (_no_value(name) for name in spec.secrets if name not in self._offer.secrets)
        if problem is not None and step.needs and problem.details.get("may_come"):
            mistake = step_mistake(step, problem)
            self._warnings[f"{mistake.path}: {mistake.message}"] = None
        elif problem is not None:
            errors.insert(0, problem)
        return spec, errors

    def _reuse(self, specs: Sequence[Spec]) -> Generator[None, None, list[ReuseDecision]]:
        """A decision for each step, if an earlier run is to be reused."""
        decisions = []
        if self._offer.reuse is not None:
            for decision in decide(zip(self._offer.plan.steps, specs, strict=True), self._offer.reuse):
                decisions.append(decision)
                yield
        return decisions

    def _reuse_answer(self, decisions: Sequence[ReuseDecision]) -> ReuseAnswer | None:
        wish = self._offer.reuse
        if wish is None:
            return None
        steps = tuple(StepReuse(one.step, one.taken is not None, one.why, one.later) for one in decisions)
        return ReuseAnswer(None if wish.earlier is None else wish.earlier.workflow, steps)

    def _accept(
        self, turn: Turn, specs: Sequence[Spec], reuse: Sequence[ReuseDecision]
    ) -> Generator[None, None, LiveWorkflow]:
        run = self._run(turn)
        owner = Actor(self._offer.owner_uid)
        turn.add_workflow(run, owner)
        self._supersede(turn, run, owner)
        taken = {one.step: one.taken for one in reuse if one.taken is not None}
        steps = [
            (step, replace(spec, reused=taken.get(step.name)), () if step.name in taken else spec.needs)
            for step, spec in zip(self._offer.plan.steps, specs, strict=True)
        ]
        yield from accept_steps(turn, self._intake, run, steps, seen=self.seen)
        for step, spec, _ in steps:
            if spec.secrets and step.name not in taken:
                turn.batch.secrets[run.jobs[step.name]] = {name: self._offer.secrets[name] for name in spec.secrets}
        turn.checkpoint(turn.memory.workflows.context(run, turn.now.wall))
        for name, earlier in taken.items():
            turn.step(run.jobs[name], taken_over(earlier, owner))
            yield
        if self._offer.key:
            first = next(iter(run.steps))
            turn.batch.keys.append(NewKey(self._offer.owner_uid, self._offer.key, self._digest, first, turn.now.wall))
            turn.loaded.keys[self._offer.owner_uid, self._offer.key] = Keyed(self._digest, first)
        return run

    def _run(self, turn: Turn) -> LiveWorkflow:
        offer, memory = self._offer, turn.memory
        memory.workflows.last_id += 1
        first = memory.last_id + 1
        steps = tuple(step_row(step, first + index) for index, step in enumerate(offer.plan.steps))
        plan = Blueprint(
            flow=offer.sent,
            parameters=offer.parameters,
            steps=steps,
            widths=offer.plan.widths,
            limits=offer.limits,
            inner_limits=offer.plan.inner_limits,
            reuse=None if offer.reuse is None else offer.reuse.later,
        )
        workflow = Workflow(
            id=memory.workflows.last_id,
            name=offer.name,
            owner_uid=offer.owner_uid,
            trace_id=drawn_trace_id(),
            flow=msgspec.json.encode(plan).decode(),
            flow_hash=self._digest,
            created_at=turn.now.wall,
            concurrency_key=None if (concurrency := offer.plan.concurrency) is None else concurrency.key,
            place=memory.last_seq + 1,
            labels=encode_sorted(offer.plan.labels).decode(),
            deadline=None if (limit := offer.limits.deadline_ms) is None else turn.now.wall + limit,
        )
        widths = {width_of(workflow.id, group): width for group, width in offer.plan.widths.items()}
        return LiveWorkflow(
            workflow,
            {step.job_id: step for step in steps},
            {},
            {},
            set(),
            widths=widths,
            limits=offer.limits,
            inner_limits=dict(offer.plan.inner_limits),
        )


def _answer(run: LiveWorkflow, **about: Any) -> WorkflowAnswer:
    """The answer that names a workflow and the job of each of its steps."""
    return WorkflowAnswer(id=run.workflow.id, state=run.workflow.state, steps={**run.jobs}, **about)


def _no_value(name: str) -> InvalidParams:
    hint = f"send it in `secrets` of workflow.submit; {NOT_KEPT}"
    return InvalidParams(f"secrets: no value was sent for {name}", hint=hint, path="secrets")


def _digest(offer: WorkflowOffer, secret_digest: SecretDigest) -> bytes:
    """The hash of all that was asked; a workflow without further wishes has that of earlier versions."""
    asked = (offer.part, offer.reuse_asked)
    wishes = b"" if offer.part.whole and offer.reuse_asked is None else encode_sorted(asked)
    if offer.secrets:
        wishes += encode_sorted({name: secret_digest(name, value) for name, value in offer.secrets.items()})
    return hashlib.blake2b(bytes(offer.sent) + encode_sorted(offer.parameters) + wishes, digest_size=16).digest()
