"""Why a job does not run, or why it ended as it did.

Owns gathering the facts, from memory and from the database; `core.explain` draws the conclusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.core.explain import Scene, explain
from stoker.core.job.dependencies import UNMET, need_met
from stoker.core.job.model import Attempt, Job, State
from stoker.core.units import instant
from stoker.process.identity import is_asleep
from stoker.service.assembly import Engine
from stoker.store import attempts, jobs

if TYPE_CHECKING:
    from stoker.core.views import Explanation


async def explanation_of(engine: Engine, job: Job) -> Explanation:
    blocker = explain(job, await _scene(engine, job))
    return {
        "id": job.id,
        "state": job.state.value,
        "code": blocker.code,
        "message": blocker.message + _origin(job),
        "hint": blocker.hint,
        "details": blocker.details,
    }


def _origin(job: Job) -> str:
    if job.spec.schedule is None or job.spec.scheduled_for is None:
        return ""
    return f"; submitted by schedule {job.spec.schedule} for {instant(job.spec.scheduled_for)}"


async def _scene(engine: Engine, job: Job) -> Scene:
    memory = engine.memory
    run = memory.runs.get(job.id)
    narrowing = memory.narrowed.get(job.spec.queue)
    return Scene(
        now=engine.clock.now(),
        queue=memory.queues[job.spec.queue],
        queue_running=memory.running[job.spec.queue],
        narrowed=None if narrowing is None else narrowing.limit,
        running=len(memory.runs),
        slots=engine.dispatcher.slots,
        ahead=await _ahead(engine, job) if job.state is State.QUEUED else 0,
        throttled_by=[cause.value for cause in engine.throttle.pressure.causes],
        capacity=memory.capacities(),
        free=memory.free(),
        reserved=engine.dispatcher.reservations() if job.state is State.QUEUED else {},
        holders={name: memory.holders(name) for name in job.spec.resources},
        open_needs=await engine.queries.run(jobs.open_needs, job.id) if job.needs_open else (),
        unmet=await _unmet(engine, job) if job.reason in UNMET else (),
        attempt=None if run is None else run.attempt,
        ended=await _newest_end(engine, job) if run is None else None,
        closed=engine.dispatcher.closed,
        shortage=memory.shortage,
        silent=run is not None and engine.local.launchers.silent(run.attempt.launcher),
        stale_ms=(await engine.staleness.ages([job.id])).get(job.id),
        unheard_ms=None if run is None else engine.heartbeats.silent_ms(run.attempt.run_id),
        asleep=run is not None and run.attempt.identity is not None and is_asleep(run.attempt.identity),
        unstoppable=() if run is None else engine.local.unstoppable(run.attempt.run_id),
        frozen=run is not None and run.attempt.run_id in memory.frozen,
        intent=memory.workflows.intent_of(job),
    )


async def _ahead(engine: Engine, job: Job) -> int:
    return await engine.queries.run(jobs.ahead, job, list(engine.memory.ready[job.spec.queue].lanes))


async def _unmet(engine: Engine, job: Job) -> Sequence[int]:
    """The needs for which a job was skipped: those that still exist and did not end as required."""
    needed = await engine.queries.run(jobs.by_ids, [need.job for need in job.spec.needs])
    needs = [need for need in job.spec.needs if need.job in needed]
    return [need.job for need in needs if need_met(need.on, needed[need.job]) is False]


async def _newest_end(engine: Engine, job: Job) -> Attempt | None:
    """The attempt that ended last, if it explains more than the job does."""
    explains = bool(job.spec.limits) or job.state in (State.HELD, State.WAITING, State.FAILED)
    return await engine.queries.run(attempts.newest_end, job.id) if explains else None
