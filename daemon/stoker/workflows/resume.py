"""Resume: a workflow goes on from where it stopped, and strategies decide about steps that did not complete.

Before the turn, strategies choose and fingerprints are compared, within a time limit; in one turn the plan of
`core.workflow.resume` is carried out. A workflow that changed in between is refused, with nothing changed. Invariant:
`explain` shows the same plan without carrying it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import CheckpointDamaged, InvalidParams, NotAllowed, ResumeTimeout, StrategyFailed
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, State
from stoker.core.workflow import strategies
from stoker.core.workflow.checkpoint import Checkpoint, opened
from stoker.core.workflow.fingerprint import difference, digest, proof
from stoker.core.workflow.resume import (
    RESET,
    Act,
    ResumeDecision,
    ResumeInputs,
    ResumeOptions,
    ResumeStanding,
    plan,
    stopped_short,
)
from stoker.core.workflow.reuse import changed_files
from stoker.core.workflow.state import Intent, Step, Strategy, behind
from stoker.core.workflow.strategies import Interrupted
from stoker.engine.memory.blueprint import steps_of
from stoker.engine.memory.live_workflow import LiveWorkflow, needed_outputs
from stoker.engine.turn import Turn
from stoker.host.threads import count_threads, run_apart
from stoker.store import checkpoints
from stoker.store import jobs as job_rows
from stoker.store.reader import Reader
from stoker.store.workflows import StoredWorkflow
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.workflows import chain, commands
from stoker.workflows.reuse import files_now, files_then

if TYPE_CHECKING:
    from stoker.core.workflow_answers import ResumedStep, ResumePlan, WorkflowResumed

THREAD_NAME = "resume-strategy"
MAX_HANGING = 16  # a strategy that never returns keeps its thread until the daemon ends

Chosen = dict[str, tuple[str, Strategy]]


class ResumeFacts(Struct, frozen=True):
    """The results from before the turn: the choices of strategies, and which fingerprints have changed.

    `chain_warning`: the gap in the chain of checkpoints, if that is to be ignored.
    """

    chosen: Chosen
    changed: dict[str, str]
    verified: frozenset[str]
    chain_warning: str | None


async def prepare(
    reader: Reader, stored: StoredWorkflow, options: ResumeOptions, surroundings: str, limit_ms: int
) -> ResumeFacts:
    """Check the chain, ask strategies and compare fingerprints. Raises ChainBroken, ResumeTimeout; changes nothing."""
    warning = await chain.check(reader, stored.workflow.id, tolerant=not (options.plain and options.verify))
    try:
        async with asyncio.timeout(limit_ms / 1_000):
            chosen = await _chosen(stored, options)
            verified = _verified(stored) if options.verify else {}
            changed = await _changed(reader, stored, verified, surroundings)
            return ResumeFacts(chosen, changed, frozenset(verified), warning)
    except TimeoutError as error:
        raise ResumeTimeout(
            f"workflow {stored.workflow.id}: the resume was not ready within {limit_ms} ms; nothing was changed",
            hint=f"stoker workflow resume {stored.workflow.id} --strategy from_checkpoint",
        ) from error


async def _chosen(stored: StoredWorkflow, options: ResumeOptions) -> Chosen:
    """Strategies run in a thread; one of the user may never return, so it gets a thread outside of the pool."""
    strategies.check([options.strategy] if options.strategy is not None else [])
    names = _strategy_names(stored, options)
    choose = partial(_choose, stored, names)
    if not strategies.STRATEGIES.keys() & set(names.values()):
        return await asyncio.to_thread(choose)
    if count_threads(THREAD_NAME) >= MAX_HANGING:
        raise StrategyFailed(
            f"{MAX_HANGING} resume strategies have not returned yet: no other one is asked",
            hint=f"stoker workflow resume {stored.workflow.id} --strategy from_checkpoint",
        )
    return await run_apart(choose, THREAD_NAME)


def _strategy_names(stored: StoredWorkflow, options: ResumeOptions) -> dict[str, str]:
    """The strategy of each step that started and did not complete."""
    steps = {step.job_id: step for step in steps_of(stored.workflow)}
    return {
        one.step: options.strategy or steps[one.job_id].resume
        for one in stored.steps
        if stopped_short(ResumeStanding(one.state, one.reason, one.attempts))
    }


def _choose(stored: StoredWorkflow, names: Mapping[str, str]) -> Chosen:
    chosen = {}
    for one in stored.steps:
        name = names.get(one.step)
        if name is not None:
            step = Interrupted(
                workflow=stored.workflow.id,
                step=one.step,
                job=one.job_id,
                state=one.state,
                reason=one.reason,
                attempts=one.attempts,
                failures=one.failures,
            )
            chosen[one.step] = (name, strategies.choose(name, step))
    return chosen


def _verified(stored: StoredWorkflow) -> dict[str, Step]:
    """The completed steps that run again if their fingerprints have changed."""
    steps = {step.job_id: step for step in steps_of(stored.workflow)}
    return {
        one.step: steps[one.job_id] for one in stored.steps if one.state is State.SUCCEEDED and steps[one.job_id].verify
    }


async def _changed(
    reader: Reader, stored: StoredWorkflow, steps: Mapping[str, Step], surroundings: str
) -> dict[str, str]:
    """The changes in the fingerprints of these steps, by step."""
    jobs = await reader.run(job_rows.by_ids, [step.job_id for step in steps.values()])
    ends = await reader.run(checkpoints.step_ends, list(jobs))
    names = {one.job_id: one.step for one in stored.steps}
    then = await files_then(reader, jobs.values())
    current = await files_now({name: jobs[step.job_id].spec for name, step in steps.items()})
    outputs = {names[job_id]: digest(text) for job_id, text in stored.outputs.items()}
    changed = {}
    for name, step in steps.items():
        now = proof(jobs[step.job_id].spec, surroundings, needed_outputs(step, outputs))
        changes = difference(_proof_in(ends.get(step.job_id)), now)
        changes = changes or changed_files(jobs[step.job_id].spec, then.get(step.job_id), current.get(name))
        if changes is not None:
            changed[name] = changes
    return changed


def _proof_in(end: Checkpoint | None) -> dict[str, str] | None:
    """The fingerprint in the checkpoint of a step's end; None if it is missing or damaged."""
    if end is None:
        return None
    try:
        fingerprint: dict[str, str] | None = msgspec.json.decode(opened(end)).get("proof")
    except CheckpointDamaged as damaged:
        log(LogEvent.CHECKPOINT_DAMAGED, job=end.job_id, checkpoint=end.id, error=damaged)
        return None
    return fingerprint


def apply_options(
    turn: Turn, run: LiveWorkflow, *, options: ResumeOptions, facts: ResumeFacts, actor: Actor
) -> commands.Pieces[ResumePlan]:
    """Carry the plan out, or only show it. Raises NotAllowed if there is nothing to resume."""
    commands.must_not_go_back(run, "resume")
    decisions = yield from _plan(turn, run, options, facts)
    views = []
    for decision in decisions:
        views.append(_view(run, decision))
        yield
    if options.explain:
        return {**commands.workflow_standing(run), "steps": views, "chain_warning": facts.chain_warning}
    acts = {decision.step: decision.act for decision in decisions}
    _must_lead_anywhere(run, options, acts)
    reset = {name for name, act in acts.items() if act in RESET}
    _must_have_use(options, reset)
    commands.must_not_run(turn, run, [name for name in run.handlers(reset) if run.is_handler(name)])
    commands.check_reset(turn, run, reset)
    by_act = {act.value: sorted(name for name in acts if acts[name] is act) for act in dict.fromkeys(acts.values())}
    turn.intend(run, Intent.RUN, "resume", actor, steps=by_act)
    chosen = {name: strategy for name, (strategy, _) in facts.chosen.items()}
    yield from _carry_out(
        turn,
        run,
        acts,
        chosen,
        actor,
        commands.Budget(timeout_ms=options.timeout_ms, max_attempts=options.max_attempts),
    )
    resumed: WorkflowResumed = {
        **commands.workflow_standing(run),
        "steps": views,
        "reset": sorted(reset),
        "kept": by_act.get(Act.KEEP.value, []),
        "chain_warning": facts.chain_warning,
    }
    return resumed


def _plan(
    turn: Turn, run: LiveWorkflow, options: ResumeOptions, facts: ResumeFacts
) -> Generator[None, None, list[ResumeDecision]]:
    steps = list(run.steps.values())
    standings = {}
    for step in steps:
        standings[step.name] = _standing(turn, run, step)
        yield
    scope = None if options.start is None else behind(steps, run.steps_named(options.start, "from"))
    pressing = run.workflow.ended or not options.plain
    for name, standing in standings.items():
        if pressing and stopped_short(standing) and name not in facts.chosen:
            raise NotAllowed(f"step {name} ended while the resume was being prepared", hint="ask again")
    asked = ResumeInputs(
        scope=scope, chosen=facts.chosen, pressing=pressing, changed=facts.changed, verified=facts.verified
    )
    decisions = []
    for one in plan(steps, standings, asked):
        decisions.append(one)
        yield
    return decisions


def _standing(turn: Turn, run: LiveWorkflow, step: Step) -> ResumeStanding:
    job = turn.job(step.job_id)
    return ResumeStanding(run.states[step.name], run.reasons[step.name], job.attempts, step.job_id in turn.memory.runs)


def _must_lead_anywhere(run: LiveWorkflow, options: ResumeOptions, acts: Mapping[str, Act]) -> None:
    ident, state = run.workflow.id, run.workflow.state.value
    if any(act in RESET or act is Act.SKIP for act in acts.values()) or run.workflow.intent is Intent.PAUSE:
        return
    if options.start is not None and all(
        acts[name] is Act.KEEP for name in behind(run.steps.values(), run.steps_named(options.start, "from"))
    ):
        raise NotAllowed(
            f"step {options.start} and all steps behind it were completed, and a resume does not run them again",
            hint=f"stoker workflow retry {ident} --step {options.start}",
            state=state,
        )
    if run.workflow.ended or not options.plain:
        asked = {"--from": options.start, "--strategy": options.strategy}
        same = "".join(f" {option} {name}" for option, name in asked.items() if name is not None)
        raise NotAllowed(
            f"workflow {ident} is {state}, and no step of it would run: see why",
            hint=f"stoker workflow resume {ident}{same} --explain",
            state=state,
        )
    raise NotAllowed(f"workflow {ident} is {state}, so resume does not apply", hint=f"stoker workflow show {ident}")


def _must_have_use(options: ResumeOptions, reset: Collection[str]) -> None:
    """New limits apply only to steps that run again. Without such a step they are refused, not ignored."""
    for path in ("timeout_ms", "max_attempts"):
        if getattr(options, path) is not None and not reset:
            raise InvalidParams(
                f"{path}: no step would run again, so it would have no effect",
                path=path,
                hint="resume without it: steps that go on keep their limits",
            )


def _carry_out(
    turn: Turn,
    run: LiveWorkflow,
    acts: Mapping[str, Act],
    chosen: Mapping[str, str],
    actor: Actor,
    budget: commands.Budget,
) -> Generator[None]:
    for name, act in acts.items():
        if act is Act.SKIP:
            note = f"resume strategy {chosen[name]!r}" + (f": {actor.note}" if actor.note else "")
            turn.step(run.jobs[name], ev.Skip(actor=replace(actor, note=note)))
        elif act is Act.FAIL and run.states[name] is State.HELD:
            turn.step(run.jobs[name], ev.Cancel(actor=actor))
        yield
    afresh, reset = run.head.seq, [name for name, act in acts.items() if act in RESET]
    floors = {name: afresh if acts[name] is Act.RESTART else run.floors.get(name, 0) for name in reset}
    yield from commands.reset_steps(turn, run, reset, actor, floors, budget)


def _view(run: LiveWorkflow, decision: ResumeDecision) -> ResumedStep:
    name = decision.step
    return {
        "step": name,
        "job": run.jobs[name],
        "state": run.states[name].value,
        "runs": decision.runs,
        "action": decision.act.value,
        "why": decision.why,
    }


def decision(options: ResumeOptions, facts: ResumeFacts, actor: Actor) -> commands.Decision[ResumePlan]:
    return partial(apply_options, options=options, facts=facts, actor=actor)
