"""Needs of steps that wait already: new ones by hand or of a group, and those that count once more.

Owns `rewire`, which gives a step its open needs as they are now; and the rule that a step without an open attempt waits
for a need that runs again, although an earlier end of that need had counted. Jobs outside workflows do not: nothing
tells which jobs had counted an end.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence

from stoker.core.job import events as ev
from stoker.core.job.dependencies import OVER_ALL, skipped_for_need
from stoker.core.job.model import Actor, Job, Need, State, When
from stoker.engine.dependents import has_failed, is_closed_gate, need_now
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import Turn

PENDING = (State.WAITING, State.QUEUED)


def may_be_rewired(turn: Turn, job: Job) -> bool:
    """Whether the needs of a step can still change: it has not started."""
    by_need = skipped_for_need(job.state, job.reason)
    return job.id not in turn.memory.runs and (job.state in PENDING or job.attempts == 0 or by_need)


def rewire(turn: Turn, job: Job, needs: Sequence[Need], when: When | None, actor: Actor) -> Job:
    """Give a step these needs; it waits for those that are open now."""
    pending = [need for need in needs if _is_open(turn, job, need, when)]
    if when in OVER_ALL and (job.final or not pending):
        pending = list(needs) if job.final else [needs[-1]]  # a retry finds it; the release below decides
    after = turn.step(job.id, ev.Rewired(actor=actor, needs=tuple(needs), when=when, needs_open=len(pending)))
    turn.set_needs(job.id, pending)
    ended = (need.job for need in pending if not job.final and need_now(turn, need, when) is not None)
    turn.effects.extend(ev.ReleaseDependents(needed, job.id - 1) for needed in ended)
    return after


def _is_open(turn: Turn, job: Job, need: Need, when: When | None) -> bool:
    """Whether the job waits for the need. One that failed counts if the job was, or soon will be, skipped for it.

    A retry of the needed job must find it then. A job that was itself retried ignores the need: it would wait for ever.
    """
    if need.job == job.id:
        return is_closed_gate(turn, need, job.id)
    met = need_now(turn, need, when)
    if met is False and not job.final:
        return need.job in turn.memory.needed or (job.not_needed and not has_failed(turn, need, when))
    return met is not True


def wait_for_new_ends(
    turn: Turn, run: LiveWorkflow, ended: Collection[int], again: Collection[int], actor: Actor
) -> Generator[None]:
    """Let the steps without an open attempt wait for these jobs, which had ended. `again`: all that run again."""
    names = {run.steps[job_id].name for job_id in ended if job_id in run.steps}
    for step in run.steps.values() if names else ():
        if step.job_id not in again and any(edge.step in names for edge in step.needs):
            job = turn.job(step.job_id)
            if not job.final and job.id not in turn.memory.runs:
                rewire(turn, job, job.spec.needs, job.spec.when, actor)
            yield
