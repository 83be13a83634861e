"""Rollback: first the running steps of a workflow are stopped; when none runs any more, steps are reset in one commit.

The first half commits the intent together with the stops. The second half follows when the last attempt has ended, in
this daemon or in the next. Steps completed since the checkpoint are listed, not undone. Invariants: a step is reset
only while no attempt of its workflow is open; a checkpoint that counts again is appended anew, never edited.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import NotAllowed
from stoker.core.job.model import Actor, State
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind, Packed, verified
from stoker.core.workflow.context import Context
from stoker.core.workflow.rollback import RollbackPlan, Target, plan_rollback
from stoker.core.workflow.state import Intent
from stoker.engine.inbox import Message
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import LogLine, Turn
from stoker.store import checkpoints
from stoker.store.loading import Wanted
from stoker.store.reader import Reader
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.workflows import commands

if TYPE_CHECKING:
    from stoker.core.workflow_answers import RollbackTarget, WorkflowRolledBack

_target = msgspec.json.Decoder(Target).decode


def begin(
    turn: Turn, run: LiveWorkflow, target: Target, context: Context, actor: Actor
) -> commands.Pieces[WorkflowRolledBack]:
    """Stop the running steps and start no other. Raises NotAllowed if there is nothing to roll back."""
    plan = plan_rollback(target, run.steps.values(), run.states, run.reasons)
    if run.workflow.ended and not plan.reset:
        raise NotAllowed(
            f"workflow {run.workflow.id} has nothing to roll back: every step is complete, and its effects stay",
            hint=f"stoker workflow rollback {run.workflow.id} --to {target.checkpoint} --redo",
            not_undone=list(plan.not_undone),
        )
    commands.check_reset(turn, run, plan.reset)
    to: RollbackTarget = {"checkpoint": target.checkpoint, "seq": target.seq, "damaged": context.damaged}
    not_undone, encoded = list(plan.not_undone), encode_sorted(target).decode()
    turn.intend(run, Intent.ROLLBACK, "rollback", actor, target=encoded, to=to, not_undone=not_undone)
    stopping = yield from commands.stop_all(turn, run, actor)
    stuck = [step.name for job_id, step in run.steps.items() if _is_stuck(turn, job_id)]
    return {
        **commands.workflow_standing(run),
        "to": to,
        "not_undone": not_undone,
        "reset": sorted(plan.reset),
        "kept": sorted(plan.kept),
        "stopping": stopping,
        "stuck": stuck,
    }


def _is_stuck(turn: Turn, job_id: int) -> bool:
    return job_id in turn.memory.runs and turn.job(job_id).state is State.HELD


class SavedProgress(Struct, frozen=True):
    """The data that a step saved before the target and starts from again."""

    run_id: str | None
    packed: Packed


class Finish(Message):
    """Reset the steps. `before`: for each step that saved since the target, the older progress that counts again.

    `searched`: the steps whose progress was searched.
    """

    def __init__(
        self, workflow_id: int, target: str, searched: Collection[str], before: Mapping[str, SavedProgress | None]
    ) -> None:
        self._workflow_id = workflow_id
        self._target = target
        self._searched = searched
        self._before = before

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.workflows.add(self._workflow_id)

    def apply_to(self, turn: Turn) -> Generator[None]:
        run = turn.memory.workflows.runs.get(self._workflow_id)
        if run is None or run.workflow.target != self._target or run.workflow.intent is not Intent.ROLLBACK:
            return  # another command came meanwhile
        if any(job_id in turn.memory.runs for job_id in run.steps):
            return
        target = _target(self._target)
        actor = Actor(target.uid)
        plan, overdue = self._plan(turn, run, target)
        if not set(plan.reset).issubset(self._searched):
            return  # a completed step was retried meanwhile: the follow-up searches again
        to = {"checkpoint": target.checkpoint, "seq": target.seq}
        result: dict[str, Any] = {"to": to, "not_undone": list(plan.not_undone), "overdue": overdue}
        result["reset"] = sorted(plan.reset)
        floors = {name: self._floor(turn, run, name) for name in plan.reset}
        intent = Intent.RUN if target.resume else Intent.PAUSE
        turn.intend(run, intent, "rolled_back", actor, **result)
        yield from commands.reset_steps(turn, run, plan.reset, actor, floors)
        turn.effects.append(LogLine(LogEvent.WORKFLOW_ROLLED_BACK, {"workflow": run.workflow.id, **result}))

    def _plan(self, turn: Turn, run: LiveWorkflow, target: Target) -> tuple[RollbackPlan, list[str]]:
        """The plan for the present states. A step whose deadline has passed meanwhile is left as it is."""
        plan = plan_rollback(target, run.steps.values(), run.states, run.reasons)
        overdue = sorted(commands.overdue(turn, run, plan.reset))
        return replace(plan, reset=tuple(name for name in plan.reset if name not in overdue)), overdue

    def _floor(self, turn: Turn, run: LiveWorkflow, name: str) -> int:
        if name not in self._before:
            return run.floors.get(name, 0)
        floor, progress = run.head.seq, self._before[name]
        if progress is not None:
            workflows = turn.memory.workflows
            job = turn.job(run.jobs[name])
            checkpoint = workflows.seal_next(
                run.chain,
                run.head,
                CheckpointKind.PROGRESS,
                "rolled back",
                progress.packed,
                turn.now.wall,
                job,
                progress.run_id,
            )
            run.head = replace(run.head, id=checkpoint.id, seq=checkpoint.seq)
            turn.checkpoint(checkpoint)
        return floor


async def finish(reader: Reader, run: LiveWorkflow) -> Finish:
    """The second half, for a workflow without running steps."""
    # Another rollback may be asked for during these reads; `Finish` compares the targets.
    asked = run.workflow.target
    assert asked is not None, "a rollback has a target"
    target = _target(asked)
    plan = plan_rollback(target, run.steps.values(), run.states, run.reasons)
    before: dict[str, SavedProgress | None] = {}
    for name in plan.reset:
        job_id, floor, old = run.jobs[name], run.floors.get(name, 0), target.floors.get(name, 0)
        if await reader.run(checkpoints.last_progress, job_id) > target.seq or floor != old:
            before[name], damaged = await reader.run(checkpoints.newest_sound, job_id, old, _saved, target.seq)
            for error in damaged:
                log(LogEvent.CHECKPOINT_DAMAGED, job=job_id, checkpoint=error.details["id"], error=error)
    return Finish(run.workflow.id, asked, plan.reset, before)


def _saved(checkpoint: Checkpoint) -> SavedProgress:
    return SavedProgress(checkpoint.run_id, verified(checkpoint))
