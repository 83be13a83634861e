"""Ending a run whose launcher is dead or does not answer.

Owns the proof of an end. A run is `Ended` only if it began, its main process is gone and a fresh search of /proc finds
nothing of it. Otherwise it is `Stuck` and its job is held: a silent launcher may still start a run that it never
confirmed, and a process that sleeps in the kernel may wake up.
"""

from __future__ import annotations

import asyncio

from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Identity, Outcome, OutcomeKind
from stoker.executors.environment import WorkerContext
from stoker.process.identity import IdentityVerdict, left_in_session, verdict
from stoker.process.stopping import Sweep

EMPTY_CGROUP_S = 10.0  # for a cgroup whose last process has been killed


async def stop_orphan(
    context: WorkerContext, sweep: Sweep, run_id: str, identity: Identity | None, grace_ms: int
) -> ev.Stuck | None:
    """Stop the proven processes of a run whose launcher is gone; returns when all of them have ended.

    It waits for processes in uninterruptible sleep, and of users that we may not signal. Returns Stuck if a process
    remains in its session.
    """
    result = await sweep.stop(grace_ms)
    while result.left:
        result = await sweep.stop(0)
    await context.cgroups.empty(run_id)
    return await _check_session(identity)


async def end_without_launcher(
    context: WorkerContext, sweep: Sweep, run_id: str, identity: Identity | None, grace_ms: int
) -> ev.Ended | ev.Stuck:
    """Stop the proven processes of a run whose launcher is silent. Gives Ended only if no other one can be left."""
    if identity is None:
        return _stuck("its launcher does not answer, and may still start it")
    result = await sweep.stop(grace_ms)
    if result.left:
        return _stuck(f"pid {', '.join(map(str, result.left))} does not end")
    try:
        await asyncio.wait_for(context.cgroups.empty(run_id), EMPTY_CGROUP_S)
    except TimeoutError:
        return _stuck("its control group does not become empty")
    if await asyncio.to_thread(verdict, identity, context.instance, run_id) is IdentityVerdict.UNPROVABLE:
        return _stuck(f"it cannot be proven whether pid {identity.pid} is still its worker")
    unseen = Outcome(kind=OutcomeKind.UNSEEN, stopped=True, ended_at=wall_ms())
    return await _check_session(identity) or ev.Ended(outcome=unseen)


async def _check_session(identity: Identity | None) -> ev.Stuck | None:
    left = await asyncio.to_thread(left_in_session, identity)
    if not left:
        return None
    return _stuck(f"pid {', '.join(map(str, left))} is in the session of its worker, which has ended")


def _stuck(reason: str) -> ev.Stuck:
    return ev.Stuck(actor=Actor(note=reason))
