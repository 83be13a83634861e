"""Ending a run without the help of a launcher: because there is none any more, or because it does not answer.

Owns what is proof enough. Refuses to believe in an end that it cannot prove: a run whose launch was never confirmed may
still be started by its launcher when that wakes up, and what sleeps in the kernel may wake up too. A run that is to go
on elsewhere is `Unproven` then, and its job held. Invariant: `Ended` is said only of a run that began, whose main
process is gone and of which a fresh look at /proc finds nothing.
"""

from __future__ import annotations

import asyncio

from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Identity, Outcome, OutcomeKind
from stoker.executors.environment import WorkerContext
from stoker.process.identity import IdentityVerdict, left_in_session, verdict
from stoker.process.tree import Sweep

PATIENCE_S = 10.0  # for a cgroup whose last process has been killed


async def stop_all(
    context: WorkerContext, sweep: Sweep, run_id: str, identity: Identity | None, grace_ms: int
) -> ev.Stuck | None:
    """Stop whoever is proven to be of a run that no launcher owns; returns when nothing of that is left.

    The attempt stays open while something is: in an uninterruptible sleep, or of a user whom we may not signal; and it
    is Unproven that it is over while somebody is in its session.
    """
    result = await sweep.stop(grace_ms)
    while result.left:
        result = await sweep.stop(0)
    await context.cgroups.empty(run_id)
    return await _look_into_session(identity)


async def _look_into_session(identity: Identity | None) -> ev.Stuck | None:
    left = await asyncio.to_thread(left_in_session, identity)
    if not left:
        return None
    return _stuck(f"pid {', '.join(map(str, left))} is in the session of its worker, which has ended")


async def take_away(
    context: WorkerContext, sweep: Sweep, run_id: str, identity: Identity | None, grace_ms: int
) -> ev.Ended | ev.Stuck:
    """Stop whoever is proven to be of a run whose launcher is silent, and say whether it is proven to be over."""
    if identity is None:
        return _stuck("its launcher does not answer, and may still start what it was told to start")
    swept = await sweep.stop(grace_ms)
    if swept.left:
        return _stuck(f"pid {', '.join(map(str, swept.left))} cannot be brought to an end")
    try:
        await asyncio.wait_for(context.cgroups.empty(run_id), PATIENCE_S)
    except TimeoutError:
        return _stuck("its control group does not become empty")
    if await asyncio.to_thread(verdict, identity, context.instance, run_id) is IdentityVerdict.UNPROVABLE:
        return _stuck(f"nobody can tell whether pid {identity.pid} is still its worker")
    stuck = await _look_into_session(identity)
    return stuck or ev.Ended(outcome=Outcome(kind=OutcomeKind.UNSEEN, stopped=True, ended_at=wall_ms()))


def _stuck(why: str) -> ev.Stuck:
    return ev.Stuck(actor=Actor(note=why))
