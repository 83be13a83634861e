"""Dependents of jobs: their release when the job has ended, and the needs for which they wait when it runs again.

Owns `release_dependents`; `run_again`, the only way to restore the needs of a job; and the rule that a command on a job
also queues the jobs again that were skipped because of it, directly or through others. A dependent stays skipped if
another need of it cannot be met or its deadline has passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping

from msgspec.structs import replace

from stoker.core.errors import NotAllowed
from stoker.core.job import events as ev
from stoker.core.job.dependencies import (
    OVER_ALL,
    NeedStanding,
    all_failed,
    all_met,
    need_failed,
    need_met,
    skipped_for_need,
)
from stoker.core.job.model import Job, Need, NeedOn, Reason, When
from stoker.engine import conditions, superseding
from stoker.engine.inbox import Message
from stoker.engine.turn import Turn
from stoker.store.jobs import Dependent
from stoker.store.loading import Wanted

QUEUES_DEPENDENTS = (ev.Retry, ev.Restart, ev.Skip)


def release_dependents(turn: Turn, needed: int) -> Iterator[None]:
    """Queue the dependents of a job that has ended, or skip those whose need of it can never be met.

    Only the loaded dependents are released. A later turn releases the rest, and jobs that were added in this turn.
    """
    portion, job = turn.loaded.dependents[needed], turn.find(needed)
    if job is not None and not job.final:
        return  # it runs again: its next end releases them
    for dependent in portion.dependents:
        _release(turn, dependent)
        yield
    if portion.more:
        turn.effects.append(ev.ReleaseDependents(needed, portion.last))
    elif needed not in turn.needed:
        turn.memory.needed.discard(needed)


def where_to_go_on(left: Iterable[ev.ReleaseDependents]) -> dict[int, int]:
    """By job, the last dependent that was released. A job that has ended again begins with the first dependent."""
    after: dict[int, int] = {}
    for effect in left:
        after[effect.job_id] = min(effect.after, after.get(effect.job_id, effect.after))
    return after


class Dependents(Message):
    """Needed jobs have ended: their dependents are queued, or skipped if the need can never be met.

    `after`: by needed job, the last dependent that was already released. One turn releases a bounded number.
    """

    def __init__(self, after: Mapping[int, int]) -> None:
        self._after = after

    def declare_reads(self, wanted: Wanted) -> None:
        for needed, after in self._after.items():
            wanted.dependents_of[needed] = min(after, wanted.dependents_of.get(needed, after))

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for needed in self._after:
            yield from release_dependents(turn, needed)


def _release(turn: Turn, dependent: Dependent) -> None:
    job, needed = turn.find(dependent.job_id), turn.find(dependent.needed)
    if job is None or needed is None or not job.needs_open or job.final:
        return
    if not turn.still_needs(dependent.job_id, dependent.needed):
        return
    met = need_met(dependent.on, needed, job.spec.when)
    if met:
        meet_need(turn, job, dependent.needed)
    elif met is False:
        _fail_need(turn, job, need_failed(dependent.on, needed))


def _fail_need(turn: Turn, job: Job, failed: ev.NeedFailed) -> None:
    """A failure decides at once; one that harms nothing does so with the last need, as another one may still fail."""
    if failed.reason is Reason.DEPENDENCY:
        turn.step(job.id, failed)  # the row of this need stays, so that a retry of the needed job finds this one
    elif job.needs_open > 1:
        turn.meet_need(job.id, failed.needed)
        turn.step(job.id, ev.Unneeded())
    else:
        turn.keep_needs(job)
        turn.step(job.id, failed)


def meet_need(turn: Turn, job: Job, needed: int) -> None:
    """One need of a job is met; with the last all are judged together."""
    if job.needs_open == 1 and (failed := failed_together(turn, job, needed)) is not None:
        turn.keep_needs(job)
        turn.step(job.id, failed)
    else:
        turn.meet_need(job.id, needed)
        turn.step(job.id, ev.NeedMet())


def failed_together(turn: Turn, job: Job, last: int) -> ev.NeedFailed | None:
    """The event for a job whose needs have all ended, if their ends together do not let it start; `last` was one."""
    if job.not_needed:
        return ev.NeedFailed(needed=last, on=NeedOn.ANY, reason=Reason.NOT_NEEDED)
    if job.workflow_id is None or job.spec.when not in OVER_ALL:
        return None
    run = turn.memory.workflows.runs[job.workflow_id]
    ends = [NeedStanding(run.states[edge.step], run.reasons[edge.step]) for edge in run.steps[job.id].needs]
    return None if all_met(job.spec.when, ends) else all_failed(job.spec.when, last, ends)


def apply_command(turn: Turn, job_id: int, event: ev.Event) -> Job:
    """Apply a person's command to a job. An open attempt is stopped first, so its job keeps its needs."""
    if isinstance(event, (ev.Retry, ev.Restart)) and job_id not in turn.memory.runs:
        _check_inputs(turn, job_id)
        superseding.check_newest(turn, turn.job(job_id))
        conditions.check_paths(turn, [turn.job(job_id)])
        return run_again(turn, job_id, event)
    return turn.step(job_id, event)


def _check_inputs(turn: Turn, job_id: int) -> None:
    """Raises NotAllowed if a needed job was purged: this job would start without its outputs."""
    purged = [need.job for need in turn.job(job_id).spec.needs if turn.find(need.job) is None]
    if purged:
        raise NotAllowed(
            f"job {job_id} needs job {purged[0]}, which was removed together with its outputs", hint="submit both again"
        )


def run_again(turn: Turn, job_id: int, event: ev.Retry | ev.Restart | ev.Reset, resetting: Collection[int] = ()) -> Job:
    """Let a job run again once its open needs are met: those that have not ended, or are reset in the same turn.

    After a reset `judge_needs` decides about needs that ended otherwise; a person's retry ignores them.
    """
    spec = turn.job(job_id).spec
    counts = (None, False) if isinstance(event, ev.Reset) else (None,)
    pending = [
        need
        for need in spec.needs
        if need.job in resetting or need_now(turn, need, spec.when) in counts or is_closed_gate(turn, need, job_id)
    ]
    job = turn.step(job_id, replace(event, needs_open=len(pending)))
    turn.set_needs(job_id, pending)
    if job.workflow_id is not None:
        turn.memory.workflows.runs[job.workflow_id].count_anew(job.step or "")
    superseding.remember(turn, job)
    return job


def is_closed_gate(turn: Turn, need: Need, job_id: int) -> bool:
    """Whether it is the gate of a handler, and a step before it has not ended."""
    if need.job != job_id:
        return False
    workflow_id = turn.job(job_id).workflow_id
    run = None if workflow_id is None else turn.memory.workflows.runs[workflow_id]
    return run is not None and run.is_early(run.steps[job_id])


def run_dependents_again(turn: Turn, job: Job, event: ev.Event) -> Generator[None, None, list[int]]:
    """Queue jobs again that were skipped because of `job`, at any distance, and its handlers. Returns their ids."""
    if not isinstance(event, QUEUES_DEPENDENTS):
        return []
    queued = yield from _run_skipped_again(turn, job, event)
    return queued + (yield from _run_handlers_again(turn, job, queued, event))


def _run_skipped_again(turn: Turn, job: Job, event: ev.Event) -> Generator[None, None, list[int]]:
    behind: dict[int, list[int]] = {}
    for each in turn.loaded.skipped_behind:
        behind.setdefault(each.needed, []).append(each.job_id)
    queued: dict[int, None] = {}
    ahead = deque([job.id])
    while ahead:
        for job_id in behind.pop(ahead.popleft(), ()):
            dependent = turn.job(job_id)
            if job_id not in queued and _can_run_again(turn, dependent, queued):
                queued[job_id] = None
                ahead.append(job_id)
    for job_id in queued:
        dependent = turn.job(job_id)
        turn.withdraw_cancel(dependent, "taken_up", event.actor)
        run_again(turn, job_id, ev.Reset(actor=event.actor, floor=dependent.checkpoint_floor), queued)
        yield
    for job_id in queued:
        judge_needs(turn, job_id)
        yield
    return list(queued)


def _run_handlers_again(
    turn: Turn, job: Job, queued: Collection[int], event: ev.Event
) -> Generator[None, None, list[int]]:
    """Let the handlers of the steps that run again wait for the new ends."""
    if job.workflow_id is None:
        return []
    run = turn.memory.workflows.runs[job.workflow_id]
    again = [*queued] if isinstance(event, ev.Skip) else [job.id, *queued]
    names = run.handlers({run.steps[job_id].name for job_id in again if job_id in run.steps})
    reset = sorted(job_id for name in names if not _is_overdue(turn, turn.job(job_id := run.jobs[name])))
    for job_id in reset:
        run_again(turn, job_id, ev.Reset(actor=event.actor, floor=run.head.seq), reset)
        yield
    for job_id in reset:
        judge_needs(turn, job_id)
        yield
    return reset


def check_handlers(turn: Turn, job_id: int, event: ev.Event) -> None:
    """Raises NotAllowed while a handler of a step that is to run again runs itself."""
    job = turn.job(job_id)
    if job.workflow_id is None or not isinstance(event, QUEUES_DEPENDENTS):
        return
    run = turn.memory.workflows.runs[job.workflow_id]
    again = {each.job_id for each in turn.loaded.skipped_behind}
    if not isinstance(event, ev.Skip):
        again.add(job_id)
    for name in sorted(run.handlers({run.steps[each].name for each in again if each in run.steps})):
        if run.jobs[name] in turn.memory.runs:
            raise NotAllowed(
                f"step {name}, which runs because of the end of step {job.step}, has an open attempt",
                hint=f"stoker wait {run.jobs[name]}, or stoker cancel {run.jobs[name]}",
                step=name,
            )


def judge_needs(turn: Turn, job_id: int) -> None:
    """Judge the needs of a job that was just reset or added, of those that have ended and stay so."""
    job = turn.job(job_id)
    for need in job.spec.needs:
        if turn.still_needs(job_id, need.job):
            _release(turn, Dependent(need.job, job_id, need.on))
    job, needs = turn.job(job_id), job.spec.needs
    if needs and not job.needs_open and (failed := failed_together(turn, job, needs[-1].job)) is not None:
        turn.keep_needs(job)
        turn.step(job_id, failed)


def _is_overdue(turn: Turn, job: Job) -> bool:
    return job.spec.deadline is not None and job.spec.deadline <= turn.now.wall


def _can_run_again(turn: Turn, job: Job, queued: Collection[int]) -> bool:
    """Whether none of its needs has failed for good; `queued` run again, too."""
    hopeless = any(need.job not in queued and has_failed(turn, need, job.spec.when) for need in job.spec.needs)
    key = job.supersedes
    replaced = key is not None and any(turn.job(other).supersedes == key for other in queued)
    replaced = replaced or bool(superseding.unfinished(turn, key))
    return skipped_for_need(job.state, job.reason) and not _is_overdue(turn, job) and not hopeless and not replaced


def has_failed(turn: Turn, need: Need, when: When | None) -> bool:
    """Whether a job with this need cannot start, and that is a failure. A need of a purged job is one."""
    needed = turn.find(need.job)
    if needed is None or need_met(need.on, needed, when) is not False:
        return needed is None
    return need_failed(need.on, needed).reason is Reason.DEPENDENCY


def need_now(turn: Turn, need: Need, when: When | None) -> bool | None:
    """As `need_met`. The end of a purged job is unknown, so a need of it is not met."""
    needed = turn.find(need.job)
    return False if needed is None else need_met(need.on, needed, when)
