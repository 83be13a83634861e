"""A command on one job, applied to its needs and to the jobs that need it.

Owns two rules: a job that is taken again waits for those of its needs that have not ended, and jobs that were skipped
for want of it are taken up with it, at whatever distance. Refuses to take up a job that another need or its deadline
still keeps from running. Invariant: all of it is decided in the turn of the verb.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence

from msgspec.structs import replace

from stoker.core.job import events as ev
from stoker.core.job.dependencies import need_met, skipped_for_need, unmet_reason
from stoker.core.job.model import Job, Need, NeedOn
from stoker.core.workflow.state import Intent
from stoker.engine.turn import Turn

TAKES_UP = (ev.Retry, ev.Restart, ev.Skip)


def need_failed(on: NeedOn, needed: Job) -> ev.NeedFailed:
    """The event for a job whose need of `needed` can never be met."""
    return ev.NeedFailed(needed=needed.id, on=on, reason=unmet_reason(on, needed))


def take_again(turn: Turn, job_id: int, event: ev.Event) -> Job:
    """Apply a command. A job that is retried or restarted while it does not run waits for its open needs."""
    if not isinstance(event, (ev.Retry, ev.Restart)) or job_id in turn.memory.runs:
        return turn.step(job_id, event)
    pending = [need for need in turn.job(job_id).spec.needs if _met(turn, need) is None]
    job = turn.step(job_id, replace(event, needs_open=len(pending)))
    _wait_for(turn, job, pending)
    return job


def take_up(turn: Turn, job: Job, event: ev.Event) -> Generator[None, None, list[int]]:
    """Queue jobs again that were skipped because of `job`, at any distance. Returns their ids."""
    if not isinstance(event, TAKES_UP):
        return []
    behind: dict[int, list[int]] = {}
    for each in turn.loaded.skipped_behind:
        behind.setdefault(each.needed, []).append(each.job_id)
    taken: list[int] = []
    ahead = deque([job.id])
    while ahead:
        for job_id in behind.pop(ahead.popleft(), ()):
            if _take_up_one(turn, turn.job(job_id), event):
                taken.append(job_id)
                ahead.append(job_id)
                yield
    return taken


def _take_up_one(turn: Turn, job: Job, event: ev.Event) -> bool:
    overdue = job.spec.deadline is not None and job.spec.deadline <= turn.now.wall
    met = [(need, _met(turn, need)) for need in job.spec.needs]
    if not skipped_for_need(job.state, job.reason) or overdue or any(each is False for _, each in met):
        return False
    pending = [need for need, each in met if each is None]
    if job.workflow_id is not None:
        run = turn.memory.workflows.runs[job.workflow_id]
        if run.workflow.intent is Intent.CANCEL:
            turn.intend(run, Intent.RUN, "taken_up", event.actor, step=job.step)
    reset = ev.Reset(actor=event.actor, needs_open=len(pending), floor=job.checkpoint_floor)
    _wait_for(turn, turn.step(job.id, reset), pending)
    return True


def _wait_for(turn: Turn, job: Job, pending: Sequence[Need]) -> None:
    turn.drop_needs({job.id})
    for need in pending:
        turn.need(job.id, need.job, need.on)


def _met(turn: Turn, need: Need) -> bool | None:
    """As `need_met`. A job that was purged has ended in an unknown way, so the need is not met."""
    needed = turn.find(need.job)
    return False if needed is None else need_met(need.on, needed)
