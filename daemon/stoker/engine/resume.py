"""Resume: a workflow goes on from where it stopped, each step that stopped short by its strategy.

Owns the look before (what strategies choose, which proofs hold, all within a time limit) and the one turn in which the
plan of `core.resume` is carried out. Refuses half a resume: what changed between the look and the turn ends it with
nothing changed. Invariant: `explain` is the same plan, not carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from stoker.core import events as ev
from stoker.core import strategies
from stoker.core.errors import NotAllowed, ResumeTimeout
from stoker.core.model import Actor, State
from stoker.core.resume import RESET, Act, Asked, Decision, Standing, Wish, plan, stopped_short
from stoker.core.strategies import Interrupted
from stoker.core.workflow import Intent, Step, Strategy, behind
from stoker.engine import flow_commands as commands
from stoker.engine.flows import FlowRun, steps_of
from stoker.engine.turn import Turn
from stoker.store.workflows import Found

Chosen = dict[str, tuple[str, Strategy]]


async def look(found: Found, wish: Wish, limit_ms: int) -> Chosen:
    """What strategies choose for each step that stopped short. Raises ResumeTimeout; changes nothing."""
    try:
        async with asyncio.timeout(limit_ms / 1_000):
            return await asyncio.to_thread(_choose, found, wish)
    except TimeoutError as error:
        raise ResumeTimeout(
            f"workflow {found.workflow.id}: the resume was not ready within {limit_ms} ms; nothing was changed",
            hint=f"stoker workflow resume {found.workflow.id} --strategy from_checkpoint",
        ) from error


def _choose(found: Found, wish: Wish) -> Chosen:
    steps = {step.job_id: step for step in steps_of(found.workflow)}
    strategies.check([wish.strategy] if wish.strategy is not None else [])
    chosen = {}
    for one in found.steps:
        if stopped_short(Standing(one.state, one.reason, one.attempts)):
            name = wish.strategy or steps[one.job_id].resume
            shown = Interrupted(
                workflow=found.workflow.id, step=one.step, job=one.job_id, state=one.state, reason=one.reason,
                attempts=one.attempts, failures=one.failures,
            )  # fmt: skip
            chosen[one.step] = (name, strategies.choose(name, shown))
    return chosen


def decide(turn: Turn, run: FlowRun, *, wish: Wish, chosen: Chosen, actor: Actor) -> dict[str, Any]:
    """Carry the plan out, or only show it. Raises NotAllowed where there is nothing to resume."""
    commands.must_not_go_back(run, "resume")
    decisions = _plan(turn, run, wish, chosen)
    told = {"steps": [_view(run, decision) for decision in decisions]}
    if wish.explain:
        return told
    acts = {decision.step: decision.act for decision in decisions}
    _must_lead_anywhere(run, wish, acts)
    reset = [name for name, act in acts.items() if act in RESET]
    commands.check_deadlines(turn, run, reset)
    by_act = {act.value: sorted(name for name in acts if acts[name] is act) for act in set(acts.values())}
    turn.intend(run, Intent.RUN, "resume", actor, steps=by_act)
    _carry_out(turn, run, acts, actor, commands.Budget(timeout_ms=wish.timeout_ms, max_attempts=wish.max_attempts))
    return told | {"reset": sorted(reset), "kept": by_act.get(Act.KEEP.value, [])}


def _plan(turn: Turn, run: FlowRun, wish: Wish, chosen: Chosen) -> list[Decision]:
    steps = list(run.steps.values())
    standings = {step.name: _standing(turn, run, step) for step in steps}
    scope = None if wish.start is None else behind(steps, [run.known(wish.start)])
    pressing = run.workflow.ended or not wish.plain
    for name, standing in standings.items():
        if pressing and stopped_short(standing) and name not in chosen:
            raise NotAllowed(f"step {name} ended while the resume was being prepared", hint="ask again")
    return plan(steps, standings, Asked(scope=scope, chosen=chosen, pressing=pressing))


def _standing(turn: Turn, run: FlowRun, step: Step) -> Standing:
    job = turn.job(step.job_id)
    return Standing(run.states[step.name], run.reasons[step.name], job.attempts, step.job_id in turn.book.runs)


def _must_lead_anywhere(run: FlowRun, wish: Wish, acts: Mapping[str, Act]) -> None:
    ident, state = run.workflow.id, run.workflow.state.value
    if any(act in RESET or act is Act.SKIP for act in acts.values()) or run.workflow.intent is Intent.PAUSE:
        return
    if run.workflow.ended or not wish.plain:
        raise NotAllowed(
            f"workflow {ident} is {state}, and no step of it would run: see why",
            hint=f"stoker workflow resume {ident} --explain", state=state,
        )  # fmt: skip
    raise NotAllowed(f"workflow {ident} is {state}, so resume does not apply", hint=f"stoker workflow show {ident}")


def _carry_out(
    turn: Turn, run: FlowRun, acts: Mapping[str, Act], actor: Actor, budget: commands.Budget
) -> None:  # fmt: skip
    for name, act in acts.items():
        if act is Act.SKIP:
            turn.step(run.jobs[name], ev.Skip(actor=actor))
        elif act is Act.FAIL and run.states[name] is State.HELD:
            turn.step(run.jobs[name], ev.Cancel(actor=actor))
    afresh, reset = run.head.seq, [name for name, act in acts.items() if act in RESET]
    floors = {name: afresh if acts[name] is Act.RESTART else run.floors.get(name, 0) for name in reset}
    commands.put_back(turn, run, reset, actor, floors, budget)


def _view(run: FlowRun, decision: Decision) -> dict[str, Any]:
    name = decision.step
    return {"step": name, "job": run.jobs[name], "state": run.states[name], "runs": decision.runs,
            "action": decision.act, "why": decision.why}  # fmt: skip


def decision(wish: Wish, chosen: Chosen, actor: Actor) -> commands.Decision:
    """`decide`, as a command takes it."""
    return partial(decide, wish=wish, chosen=chosen, actor=actor)
