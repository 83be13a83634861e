"""Why a job does not run, or why it ended as it did.

Owns gathering the facts, from memory and from the database; `core.explain` draws the conclusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stoker.core.access import Viewer
from stoker.core.explain import explain
from stoker.core.job.dependencies import OVER_ALL, UNMET, need_met
from stoker.core.job.model import Attempt, ExecutionMode, Job, State
from stoker.core.job_facts import ClusterFacts, JobFacts, RateWait
from stoker.core.overflow import why_it_stays
from stoker.core.rate import KEY_PREFIX, QUEUE_PREFIX
from stoker.core.standstill import Standstill
from stoker.core.units import instant
from stoker.engine.memory import LiveState
from stoker.process.identity import is_asleep
from stoker.service.engine import Engine
from stoker.service.ownership import Ownership
from stoker.store import attempts, decisions, jobs, overflow
from stoker.upkeep.housekeeping import LOW

if TYPE_CHECKING:
    from stoker.core.views import Explanation


async def explanation_of(engine: Engine, job: Job, viewer: Viewer, ownership: Ownership) -> Explanation:
    """Jobs of others that are in its way are counted, not named, unless the viewer may list them."""
    facts = await _facts(engine, job)
    if viewer.sees is not None:
        named = {*facts.reserved, *(job_id for ids in facts.holders.values() for job_id in ids)}
        named |= set() if facts.standstill is None else facts.standstill.named
        facts = replace(facts, hidden=frozenset(named - await ownership.jobs_of(viewer.sees, named)))
    blocker = explain(job, facts)
    return {
        "id": job.id,
        "state": job.state.value,
        "code": blocker.code,
        "message": blocker.message + await _moves(engine, job) + _origin(job),
        "hint": blocker.hint,
        "details": blocker.details,
    }


async def _moves(engine: Engine, job: Job) -> str:
    """The move of a job to the cluster, or why it stays when its queue overflows, in words."""
    if job.spec.execution_mode is ExecutionMode.CLUSTER and not job.final:
        move = await engine.queries.run(overflow.last_move, job.id)
        note = "" if move is None or move.note is None else f" ({move.note})"
        return "" if move is None else f"; it was moved here from queue {move.source!r}{note}"
    rule = engine.overflow.rules.get(job.spec.queue)
    if rule is None or job.state is not State.QUEUED:
        return ""
    moved = await engine.queries.run(overflow.last_move, job.id) is not None
    stays = why_it_stays(job.spec, moved=moved)
    return f"; its queue overflows to {rule.to!r}" + ("" if stays is None else f", but this job stays: {stays}")


def _origin(job: Job) -> str:
    """The schedule or hook that submitted it, in words; empty for a client."""
    if job.spec.hook is not None:
        change = "a change that is made up" if job.spec.hook_change is None else f"change {job.spec.hook_change}"
        return f"; submitted by hook {job.spec.hook} for {change}: {job.spec.hook_data['summary']}"
    if job.spec.schedule is None or job.spec.scheduled_for is None:
        return ""
    return f"; submitted by schedule {job.spec.schedule} for {instant(job.spec.scheduled_for)}"


async def _facts(engine: Engine, job: Job) -> JobFacts:
    memory, now = engine.memory, engine.clock.now()
    run = memory.runs.get(job.id)
    narrowing = memory.narrowed.get(job.spec.queue)
    return JobFacts(
        now=now,
        queue=memory.queues[job.spec.queue],
        queue_running=memory.running[job.spec.queue],
        narrowed=None if narrowing is None else narrowing.limit,
        user_running=memory.users.running[job.owner_uid],
        user_most=memory.users.quotas.of(job.owner_uid).max_running,
        running=len(memory.runs),
        slots=engine.dispatcher.slots,
        ahead=await _ahead(engine, job) if job.state is State.QUEUED else 0,
        throttled_by=[cause.value for cause in engine.throttle.pressure.causes],
        capacity=memory.capacities(),
        free=memory.free(now.steady),
        reserved=engine.dispatcher.reservations(now.steady) if job.state is State.QUEUED else {},
        holders={name: memory.holders(name) for name in job.spec.resources},
        rates=_rates(memory, job, now.steady),
        seen=engine.condition_watch.seen(job),
        open_needs=await engine.queries.run(jobs.open_needs, job.id) if job.needs_open else (),
        decision=await _decision(engine, job),
        unmet=await _unmet(engine, job) if job.reason in UNMET else (),
        attempt=None if run is None else run.attempt,
        ended=await _newest_end(engine, job) if run is None else None,
        closed=_closed(engine, job),
        shortage=memory.shortage,
        silent=run is not None and engine.local.launchers.silent(run.attempt.launcher),
        stale_ms=(await engine.staleness.ages([job.id])).get(job.id),
        unheard_ms=None if run is None else engine.heartbeats.silent_ms(run.attempt.run_id),
        asleep=run is not None and run.attempt.identity is not None and is_asleep(run.attempt.identity),
        unstoppable=() if run is None else engine.local.unstoppable(run.attempt.run_id),
        frozen=run is not None and run.attempt.run_id in memory.frozen,
        intent=memory.workflows.intent_of(job),
        goes_after=memory.workflows.goes_after(job),
        standstill=await _standstill(engine, job) if job.state is State.QUEUED else None,
        cluster=_on_cluster(engine, job),
    )


def _on_cluster(engine: Engine, job: Job) -> ClusterFacts | None:
    if job.spec.execution_mode is not ExecutionMode.CLUSTER:
        return None
    if engine.cluster is None:
        return ClusterFacts(away=engine.cluster_away)
    run = engine.memory.runs.get(job.id)
    listed = None if run is None else engine.cluster.listed(run.attempt.run_id)
    full = engine.cluster.full.get(job.spec.queue)
    return ClusterFacts(listed, engine.cluster_away, None if full is None else full.why)


async def _standstill(engine: Engine, job: Job) -> Standstill | None:
    """That of its queue, which is in its way first, or that of the daemon."""
    return await engine.standstills.find(job.spec.queue) or await engine.standstills.find(None)


def _closed(engine: Engine, job: Job) -> str | None:
    """The reason why jobs of its queue do not start. For a low disk it has the free bytes."""
    why = engine.dispatcher.closed_for(job.spec.queue)
    return f"{why}: {engine.housekeeping.shortage}" if why == LOW else why


def _rates(memory: LiveState, job: Job, now_ms: int) -> dict[str, RateWait]:
    """The rates that keep a job from starting now, by what they belong to."""
    names = {f"queue {job.spec.queue!r}": f"{QUEUE_PREFIX}{job.spec.queue}"}
    if job.spec.rate_key is not None:
        names[f"rate_key {job.spec.rate_key!r}"] = f"{KEY_PREFIX}{job.spec.rate_key}"
    return {
        owner: RateWait(str(rate), memory.rates.next_token_ms(name, now_ms))
        for owner, name in names.items()
        if (rate := memory.rates.rate(name)) is not None and memory.rates.tokens(name, now_ms) == 0
    }


async def _ahead(engine: Engine, job: Job) -> int:
    return await engine.queries.run(jobs.ahead, job, engine.memory.ready[job.spec.queue].demands_of(job.owner_uid))


async def _unmet(engine: Engine, job: Job) -> Sequence[int]:
    """The needs for which a job was skipped: those that still exist and did not end as required."""
    if job.spec.when in OVER_ALL:
        return [need.job for need in job.spec.needs]
    needed = await engine.queries.run(jobs.by_ids, [need.job for need in job.spec.needs])
    needs = [need for need in job.spec.needs if need.job in needed]
    return [need.job for need in needs if need_met(need.on, needed[need.job], job.spec.when) is False]


async def _decision(engine: Engine, job: Job) -> str | None:
    """The note of the decision about the `if` of an ended step."""
    if job.spec.run_if is None or job.undecided or not job.final:
        return None
    return (await engine.queries.run(decisions.notes, [job.id])).get(job.id)


async def _newest_end(engine: Engine, job: Job) -> Attempt | None:
    """The attempt that ended last, if it explains more than the job does."""
    explains = bool(job.spec.limits) or job.state in (State.HELD, State.WAITING, State.FAILED)
    return await engine.queries.run(attempts.newest_end, job.id) if explains else None
