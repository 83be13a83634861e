"""Resume: a workflow goes on from where it stopped, each step that stopped short by its strategy.

Owns the look before (what strategies choose, which proofs hold, all within a time limit) and the one turn in which the
plan of `core.workflow.resume` is carried out. Refuses half a resume: what changed between the look and the turn ends
it with nothing changed. Invariant: `explain` is the same plan, not carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Generator, Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import CheckpointDamaged, InvalidParams, NotAllowed, ResumeTimeout, StrategyFailed
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, State
from stoker.core.workflow import strategies
from stoker.core.workflow.checkpoint import Checkpoint, opened
from stoker.core.workflow.fingerprint import difference, digest, proof
from stoker.core.workflow.resume import RESET, Act, Asked, ResumeDecision, ResumeStanding, Wish, plan, stopped_short
from stoker.core.workflow.state import Intent, Step, Strategy, behind
from stoker.core.workflow.strategies import Interrupted
from stoker.engine.turn import Turn
from stoker.engine.workflow_memory import LiveWorkflow, needed_outputs, steps_of
from stoker.host.threads import count_threads, run_apart
from stoker.store import checkpoints
from stoker.store import jobs as job_rows
from stoker.store.reader import Reader
from stoker.store.workflows import StoredWorkflow
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.workflows import commands

THREAD_NAME = "resume-strategy"
MAX_HANGING = 16  # a strategy that never returns keeps its thread until the daemon ends

Chosen = dict[str, tuple[str, Strategy]]


class ResumeFacts(Struct, frozen=True):
    """What was found out before the turn: the word of strategies, and which proofs do not hold."""

    chosen: Chosen
    changed: dict[str, str]
    verified: frozenset[str]


async def look(reader: Reader, found: StoredWorkflow, wish: Wish, surroundings: str, limit_ms: int) -> ResumeFacts:
    """Ask strategies and prove what is completed. Raises ResumeTimeout; changes nothing."""
    try:
        async with asyncio.timeout(limit_ms / 1_000):
            chosen = await _chosen(found, wish)
            verified = _verified(found) if wish.verify else {}
            return ResumeFacts(chosen, await _changed(reader, found, verified, surroundings), frozenset(verified))
    except TimeoutError as error:
        raise ResumeTimeout(
            f"workflow {found.workflow.id}: the resume was not ready within {limit_ms} ms; nothing was changed",
            hint=f"stoker workflow resume {found.workflow.id} --strategy from_checkpoint",
        ) from error


async def _chosen(found: StoredWorkflow, wish: Wish) -> Chosen:
    """Ask the strategies in a thread: one of the user's own may never return, so it gets no thread of a pool."""
    strategies.check([wish.strategy] if wish.strategy is not None else [])
    names = _strategy_names(found, wish)
    choose = partial(_choose, found, names)
    if not strategies.STRATEGIES.keys() & set(names.values()):
        return await asyncio.to_thread(choose)
    if count_threads(THREAD_NAME) >= MAX_HANGING:
        raise StrategyFailed(
            f"{MAX_HANGING} resume strategies have not returned yet: no other one is asked",
            hint=f"stoker workflow resume {found.workflow.id} --strategy from_checkpoint",
        )
    return await run_apart(choose, THREAD_NAME)


def _strategy_names(found: StoredWorkflow, wish: Wish) -> dict[str, str]:
    """The strategy of each step that stopped short, by step."""
    steps = {step.job_id: step for step in steps_of(found.workflow)}
    return {
        one.step: wish.strategy or steps[one.job_id].resume
        for one in found.steps
        if stopped_short(ResumeStanding(one.state, one.reason, one.attempts))
    }


def _choose(found: StoredWorkflow, names: Mapping[str, str]) -> Chosen:
    chosen = {}
    for one in found.steps:
        name = names.get(one.step)
        if name is not None:
            shown = Interrupted(
                workflow=found.workflow.id,
                step=one.step,
                job=one.job_id,
                state=one.state,
                reason=one.reason,
                attempts=one.attempts,
                failures=one.failures,
            )
            chosen[one.step] = (name, strategies.choose(name, shown))
    return chosen


def _verified(found: StoredWorkflow) -> dict[str, Step]:
    """The completed steps that are kept only as long as their proof holds."""
    steps = {step.job_id: step for step in steps_of(found.workflow)}
    return {
        one.step: steps[one.job_id] for one in found.steps if one.state is State.SUCCEEDED and steps[one.job_id].verify
    }


async def _changed(
    reader: Reader, found: StoredWorkflow, steps: Mapping[str, Step], surroundings: str
) -> dict[str, str]:
    """Which of these steps are not what they were made of any more, and what has changed."""
    jobs = await reader.run(job_rows.by_ids, [step.job_id for step in steps.values()])
    ends = await reader.run(checkpoints.step_ends, list(jobs))
    names = {one.job_id: one.step for one in found.steps}
    outputs = {names[job_id]: digest(text) for job_id, text in found.outputs.items()}
    changed = {}
    for name, step in steps.items():
        now = proof(jobs[step.job_id].spec, surroundings, needed_outputs(step, outputs))
        told = difference(_proof_in(ends.get(step.job_id)), now)
        if told is not None:
            changed[name] = told
    return changed


def _proof_in(end: Checkpoint | None) -> dict[str, str] | None:
    """What the checkpoint of a step's end says that it was made of; None where nothing sound does."""
    if end is None:
        return None
    try:
        told: dict[str, str] | None = msgspec.json.decode(opened(end)).get("proof")
    except CheckpointDamaged as damaged:
        log(LogEvent.CHECKPOINT_DAMAGED, job=end.job_id, checkpoint=end.id, error=damaged)
        return None
    return told


def decide(turn: Turn, run: LiveWorkflow, *, wish: Wish, seen: ResumeFacts, actor: Actor) -> commands.Pieces:
    """Carry the plan out, or only show it. Raises NotAllowed where there is nothing to resume."""
    commands.must_not_go_back(run, "resume")
    decisions = yield from _plan(turn, run, wish, seen)
    views = []
    for decision in decisions:
        views.append(_view(run, decision))
        yield
    told: dict[str, Any] = {"steps": views}
    if wish.explain:
        return told
    acts = {decision.step: decision.act for decision in decisions}
    _must_lead_anywhere(run, wish, acts)
    reset = [name for name, act in acts.items() if act in RESET]
    _must_have_use(wish, reset)
    commands.check_deadlines(turn, run, reset)
    by_act = {act.value: sorted(name for name in acts if acts[name] is act) for act in set(acts.values())}
    turn.intend(run, Intent.RUN, "resume", actor, steps=by_act)
    chosen = {name: strategy for name, (strategy, _) in seen.chosen.items()}
    yield from _carry_out(
        turn, run, acts, chosen, actor, commands.Budget(timeout_ms=wish.timeout_ms, max_attempts=wish.max_attempts)
    )
    return told | {"reset": sorted(reset), "kept": by_act.get(Act.KEEP.value, [])}


def _plan(turn: Turn, run: LiveWorkflow, wish: Wish, seen: ResumeFacts) -> Generator[None, None, list[ResumeDecision]]:
    steps = list(run.steps.values())
    standings = {}
    for step in steps:
        standings[step.name] = _standing(turn, run, step)
        yield
    scope = None if wish.start is None else behind(steps, [run.known(wish.start, "from")])
    pressing = run.workflow.ended or not wish.plain
    for name, standing in standings.items():
        if pressing and stopped_short(standing) and name not in seen.chosen:
            raise NotAllowed(f"step {name} ended while the resume was being prepared", hint="ask again")
    asked = Asked(scope=scope, chosen=seen.chosen, pressing=pressing, changed=seen.changed, verified=seen.verified)
    return plan(steps, standings, asked)


def _standing(turn: Turn, run: LiveWorkflow, step: Step) -> ResumeStanding:
    job = turn.job(step.job_id)
    return ResumeStanding(run.states[step.name], run.reasons[step.name], job.attempts, step.job_id in turn.memory.runs)


def _must_lead_anywhere(run: LiveWorkflow, wish: Wish, acts: Mapping[str, Act]) -> None:
    ident, state = run.workflow.id, run.workflow.state.value
    if any(act in RESET or act is Act.SKIP for act in acts.values()) or run.workflow.intent is Intent.PAUSE:
        return
    if wish.start is not None and all(acts[name] is Act.KEEP for name in behind(run.steps.values(), [wish.start])):
        raise NotAllowed(
            f"step {wish.start} and all behind it were completed, and a resume keeps what was",
            hint=f"stoker workflow retry {ident} --step {wish.start}",
            state=state,
        )
    if run.workflow.ended or not wish.plain:
        asked = {"--from": wish.start, "--strategy": wish.strategy}
        same = "".join(f" {option} {name}" for option, name in asked.items() if name is not None)
        raise NotAllowed(
            f"workflow {ident} is {state}, and no step of it would run: see why",
            hint=f"stoker workflow resume {ident}{same} --explain",
            state=state,
        )
    raise NotAllowed(f"workflow {ident} is {state}, so resume does not apply", hint=f"stoker workflow show {ident}")


def _must_have_use(wish: Wish, reset: Collection[str]) -> None:
    """Limits are for steps that are taken again; those that only go on keep theirs, and nobody is left to wonder."""
    for path in ("timeout_ms", "max_attempts"):
        if getattr(wish, path) is not None and not reset:
            raise InvalidParams(
                f"{path}: no step would be taken again, so it would change nothing",
                path=path,
                hint="without it, what was stopped goes on with the limits that it has",
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
    yield from commands.put_back(turn, run, reset, actor, floors, budget)


def _view(run: LiveWorkflow, decision: ResumeDecision) -> dict[str, Any]:
    name = decision.step
    return {"step": name, "job": run.jobs[name], "state": run.states[name], "runs": decision.runs,
            "action": decision.act, "why": decision.why}  # fmt: skip


def decision(wish: Wish, seen: ResumeFacts, actor: Actor) -> commands.Decision:
    """`decide`, as a command takes it."""
    return partial(decide, wish=wish, seen=seen, actor=actor)
