"""Commands for a whole workflow: pause, resume, cancel, retry, roll back.

Owns the translation into events of its steps, all in one turn and in pieces, as there may be thousands of steps;
`lifecycle.step` decides about each step. Invariants: a refused command changes nothing; a running step is stopped
before it is reset; a completed step runs again only on request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from collections.abc import Set as AbstractSet
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from msgspec import Struct
from msgspec.structs import asdict

from stoker.core.errors import AlreadyFinished, InvalidParams, NotAllowed, WorkflowNotFound
from stoker.core.job import events as ev
from stoker.core.job.model import FINAL, Actor, Reason, State, StopReason
from stoker.core.workflow.state import ENDING, Intent, behind
from stoker.engine import conditions
from stoker.engine.dependents import judge_needs, run_again
from stoker.engine.inbox import RequestMessage
from stoker.engine.memory.live_workflow import CANCEL_ALL, LiveWorkflow, open_steps
from stoker.engine.rewiring import wait_for_new_ends
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted

if TYPE_CHECKING:
    from stoker.core.workflow_answers import (
        StepSkipped,
        WorkflowCancelled,
        WorkflowPaused,
        WorkflowRetried,
        WorkflowStanding,
    )

P = ParamSpec("P")
A = TypeVar("A")

Pieces = Generator[None, None, A]  # other callbacks run between them; returns the answer
Decision = Callable[[Turn, LiveWorkflow], Pieces[A]]


class Budget(Struct, frozen=True, kw_only=True):
    """New limits for steps that run again; None: as before."""

    timeout_ms: int | None = None
    max_attempts: int | None = None


NO_BUDGET = Budget()
SKIPPABLE = frozenset({State.WAITING, State.QUEUED, State.HELD, State.FAILED, State.CANCELLED, State.EXPIRED})


class WorkflowCommand(RequestMessage[A]):
    """One request about one workflow, decided by `decision` with all its steps in memory."""

    weight = 32

    def __init__(self, workflow_id: int, decision: Decision[A]) -> None:
        super().__init__()
        self._workflow_id = workflow_id
        self._decision = decision

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.workflows.add(self._workflow_id)

    def apply_to(self, turn: Turn) -> Generator[None]:
        run = turn.memory.workflows.runs.get(self._workflow_id)
        if run is None:
            raise WorkflowNotFound(f"there is no workflow {self._workflow_id}", hint="stoker workflow ls")
        turn.touched_workflows.add(self._workflow_id)
        self.answer_after(turn, (yield from self._decision(turn, run)))


def workflow_standing(run: LiveWorkflow) -> WorkflowStanding:
    """The part that all answers share."""
    return {"id": run.workflow.id, "state": run.derived_state.value}


def in_one_piece(decision: Callable[P, A]) -> Callable[P, Pieces[A]]:
    """Make a generator of a decision that is short for any workflow."""

    @wraps(decision)
    def pieces(*args: P.args, **kw: P.kwargs) -> Pieces[A]:
        yield
        return decision(*args, **kw)

    return pieces


@in_one_piece
def pause(turn: Turn, run: LiveWorkflow, actor: Actor) -> WorkflowPaused:
    """Start no more steps; running steps go on."""
    _must_be_open(run, "pause")
    must_not_go_back(run, "pause")
    _must_not_be_cancelled(run)
    turn.intend(run, Intent.PAUSE, "paused", actor)
    return {**workflow_standing(run), "running": [name for name, state in run.states.items() if state is State.RUNNING]}


def cancel(turn: Turn, run: LiveWorkflow, actor: Actor) -> Pieces[WorkflowCancelled]:
    """Stop the running steps and cancel the others; the answer does not wait for the stops.

    The handlers of `finally` run nevertheless; a second cancel ends them, too.
    """
    _must_be_open(run, "cancel")
    again = run.workflow.intent is Intent.CANCEL
    turn.intend(run, Intent.CANCEL, "cancelled", actor, target=CANCEL_ALL if again else None)
    left, ending = [], run.to_end()
    spared = sorted(run.steps[job_id].name for job_id in {*open_steps(run)}.difference(ending))
    for job_id in ending:
        attempt_open = job_id in turn.memory.runs
        if turn.job(job_id).state is State.HELD and attempt_open:
            left.append(run.steps[job_id].name)  # stuck: its process cannot be proven, so it is not signalled
        else:
            turn.step(job_id, ev.Cancel(actor=actor))
        yield
    return {**workflow_standing(run), "stuck": left, "spared": spared}


def retry(
    turn: Turn, run: LiveWorkflow, reset: AbstractSet[str], actor: Actor, budget: Budget
) -> Pieces[WorkflowRetried]:
    """Run these steps again; in a paused workflow once it is resumed. Raises NotAllowed while one of them runs."""
    must_not_go_back(run, "retry")
    watching = run.handlers(reset)
    again = {*reset, *watching}
    must_not_run(turn, run, again)
    check_reset(turn, run, again)
    paused = run.workflow.intent is Intent.PAUSE and not run.workflow.ended
    turn.intend(run, Intent.PAUSE if paused else Intent.RUN, "retry", actor)
    yield from reset_steps(turn, run, again, actor, _floors(run, watching), budget)
    return {**workflow_standing(run), "reset": sorted(again)}


def skip(turn: Turn, run: LiveWorkflow, name: str, actor: Actor) -> Pieces[StepSkipped]:
    """Skip a step, or those of a group that are not done: steps that wait for them go on, and steps that were skipped
    because of their failure run again."""
    must_not_go_back(run, "skip")
    chosen = _to_skip(run, name)
    hit = behind(run.steps.values(), chosen) - set(chosen)
    lost = {one for one in hit if run.states[one] is State.SKIPPED and run.reasons[one] is Reason.DEPENDENCY}
    watching = run.handlers(lost)
    lost |= watching
    must_not_run(turn, run, lost)
    check_reset(turn, run, lost)
    for one in chosen:
        turn.step(run.jobs[one], ev.Skip(actor=actor))
        yield
    if lost and (run.workflow.ended or run.workflow.intent in ENDING):
        turn.intend(run, Intent.RUN, "skip", actor, step=name)
    yield from reset_steps(turn, run, lost, actor, _floors(run, watching))
    without = sorted(one for one in hit if run.states[one] not in FINAL)
    warning = f"{', '.join(without)} will run without what {name} was to do" if without else None
    return {**workflow_standing(run), "step": name, "skipped": chosen, "going_on": without, "warning": warning}


def _to_skip(run: LiveWorkflow, name: str) -> list[str]:
    """One step may be in any state. Raises NotAllowed if a step of a group runs, or if all of them are done."""
    found = run.steps_named(name)
    if len(found) == 1:
        return found
    running = sorted(one for one in found if run.states[one] is State.RUNNING)
    chosen = [one for one in found if run.states[one] in SKIPPABLE]
    if chosen and not running:
        return chosen
    if running:
        problem, hint = f"step {running[0]} runs", f"stoker cancel {run.workflow.id}/{running[0]}"
    else:
        problem, hint = "each of its steps is done", f"stoker workflow show {run.workflow.id} --steps"
    raise NotAllowed(f"{name} cannot be skipped: {problem}", hint=hint, steps=running)


def reset_steps(
    turn: Turn,
    run: LiveWorkflow,
    reset: Collection[str],
    actor: Actor,
    floors: Mapping[str, int],
    budget: Budget = NO_BUDGET,
) -> Generator[None]:
    """Reset these steps: they wait for their needs again, other steps for them. None of them has an open attempt."""
    resetting = {run.jobs[name] for name in reset}
    ended = {job_id for job_id in resetting if turn.job(job_id).final}
    for job_id in sorted(resetting):
        floor = floors.get(run.steps[job_id].name, 0)
        run_again(turn, job_id, ev.Reset(actor=actor, floor=floor, **asdict(budget)), resetting)
        yield
    yield from wait_for_new_ends(turn, run, ended, resetting, actor)
    for job_id in sorted(resetting):
        judge_needs(turn, job_id)
        yield


def _floors(run: LiveWorkflow, afresh: Collection[str]) -> dict[str, int]:
    """The floors of steps that run again: they go on from their checkpoints, those that run `afresh` do not."""
    return {**run.floors, **dict.fromkeys(afresh, run.head.seq)}


def must_not_run(turn: Turn, run: LiveWorkflow, reset: Collection[str]) -> None:
    """Raises NotAllowed if one of these steps has an open attempt."""
    running = sorted(name for name in reset if run.jobs[name] in turn.memory.runs)
    if running:
        raise NotAllowed(
            f"step {running[0]} has an open attempt, so it cannot run again now",
            hint=f"stoker workflow rollback {run.workflow.id} --to latest stops it first",
            steps=running,
        )


def check_reset(turn: Turn, run: LiveWorkflow, reset: Collection[str]) -> None:
    """To be called before the first step is changed. Raises InvalidParams or TooManyPaths."""
    for name in overdue(turn, run, reset):
        raise InvalidParams(
            f"step {name}: its deadline has passed, so it cannot run again",
            hint=f"stoker retry {run.jobs[name]} --deadline +1h",
        )
    conditions.check_paths(turn, [turn.job(run.jobs[name]) for name in reset])


def overdue(turn: Turn, run: LiveWorkflow, names: Collection[str]) -> list[str]:
    deadlines = {name: turn.job(run.jobs[name]).spec.deadline for name in names}
    return [name for name, deadline in deadlines.items() if deadline is not None and deadline <= turn.now.wall]


def stop_all(turn: Turn, run: LiveWorkflow, actor: Actor) -> Generator[None, None, list[str]]:
    """Stop every running step; it is reset later."""
    stopped = []
    for job_id, step in run.steps.items():
        if job_id in turn.memory.runs and turn.job(job_id).state is State.RUNNING:
            turn.step(job_id, ev.StopWanted(actor=actor, reason=StopReason.RESTART))
            stopped.append(step.name)
            yield
    return stopped


def must_not_go_back(run: LiveWorkflow, verb: str) -> None:
    """During a rollback only a cancel, or another rollback, is allowed."""
    if run.workflow.intent is Intent.ROLLBACK:
        raise NotAllowed(
            f"workflow {run.workflow.id} is rolling back, so {verb} does not apply yet: its steps are being stopped",
            hint=f"stoker workflow show {run.workflow.id}",
            state=run.workflow.state.value,
        )


def _must_not_be_cancelled(run: LiveWorkflow) -> None:
    """Refuse a pause during a cancel or an abort: only a command that runs steps can revoke that."""
    if run.workflow.intent in ENDING:
        what = "cancelled" if run.workflow.intent is Intent.CANCEL else "ended"
        raise NotAllowed(
            f"workflow {run.workflow.id} is being {what}, so pause does not apply",
            hint=f"stoker workflow show {run.workflow.id}",
            state=run.workflow.state.value,
        )


def _must_be_open(run: LiveWorkflow, verb: str) -> None:
    if run.workflow.ended:
        raise AlreadyFinished(
            f"workflow {run.workflow.id} has already ended ({run.workflow.state.value}), so {verb} does not apply",
            hint=f"stoker workflow show {run.workflow.id}",
            state=run.workflow.state.value,
        )
