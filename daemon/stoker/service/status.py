"""The state of the daemon for clients: status, queues, resources, launchers.

Owns the fields of these views, which combine several parts of the engine and are read from memory.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stoker.core.access import Viewer
from stoker.core.clock import Now
from stoker.core.job.admission import paused
from stoker.core.job.model import State
from stoker.core.shortage import Shortage
from stoker.core.workflow import strategies
from stoker.engine.memory import LiveState
from stoker.service.engine import Engine
from stoker.service.rates import queue_tokens, rate_views

if TYPE_CHECKING:
    from stoker.core.daemon_views import EngineStatus, LauncherView, OverflowView, QueueView, ResourceView
    from stoker.core.host_views import ShortageView


def queue_views(engine: Engine) -> list[QueueView]:
    memory, throttled, now = engine.memory, engine.throttle.pressure.throttled, engine.clock.now()
    backends = engine.config.backends
    return [
        {
            "name": queue.name,
            "class": queue.queue_class,
            "max_running": queue.max_running,
            "min_running": queue.min_running,
            "backend": "slurm" if queue.name in backends else None,
            "backend_away": engine.cluster_away if queue.name in backends else None,
            "overflow": _overflow(engine, queue.name),
            "narrowed_to": memory.narrowed[queue.name].limit if queue.name in memory.narrowed else None,
            "max_queued": queue.max_queued,
            "rate": queue_tokens(memory, queue.name, now.steady),
            "paused": queue.paused,
            "throttled": not queue.paused and paused(queue, throttled=throttled),
            "defaults": queue.defaults,
            "queued": memory.counts[queue.name, State.QUEUED],
            "waiting": memory.counts[queue.name, State.WAITING],
            "held": memory.counts[queue.name, State.HELD],
            "running": memory.running[queue.name],
        }
        for queue in sorted(memory.queues.values(), key=lambda queue: queue.name)
    ]


def _overflow(engine: Engine, queue: str) -> OverflowView | None:
    rule = engine.overflow.rules.get(queue)
    if rule is None:
        return None
    surplus = engine.overflow.surplus(queue)
    return {"to": rule.to, "above": rule.above, "jobs_now": 0 if surplus is None else surplus.jobs}


def jobs_seen(memory: LiveState, viewer: Viewer) -> set[int] | None:
    """The running jobs that a viewer may list; None: all."""
    if viewer.sees is None:
        return None
    return {job_id for job_id, run in memory.runs.items() if run.job.owner_uid == viewer.sees}


def resource_views(memory: LiveState, viewer: Viewer) -> list[ResourceView]:
    """All resources; of the jobs that hold some those that the viewer may list."""
    seen = jobs_seen(memory, viewer)
    return [
        {
            "name": name,
            "capacity": resource.capacity,
            "used": memory.used[name],
            "holders": [job_id for job_id in memory.holders(name) if seen is None or job_id in seen],
        }
        for name, resource in sorted(memory.resources.items())
    ]


def _mode(engine: Engine) -> str:
    refusal = engine.refusals.current()
    return (engine.dispatcher.closed or "running") if refusal is None else refusal.message


def status_view(engine: Engine, viewer: Viewer) -> EngineStatus:
    """The part of `system.status` that comes from the engine."""
    memory, pressure, safe_mode = engine.memory, engine.throttle.pressure, engine.safe_mode.state
    return {
        "mode": _mode(engine) if safe_mode is None else "safe",
        "safe_mode": None if safe_mode is None else safe_mode.why,
        "safe_mode_next": None if safe_mode is None else safe_mode.next,
        "max_running": engine.dispatcher.slots,
        "running": len(memory.runs),
        "queued": memory.total(State.QUEUED),
        "waiting": memory.total(State.WAITING),
        "held": memory.total(State.HELD),
        "queues": queue_views(engine),
        "resources": resource_views(memory, viewer),
        "rates": rate_views(memory, engine.clock.now().steady),
        "memory": memory_view(engine),
        "slow_turns": engine.stalls.turns,
        "slow_callbacks": engine.stalls.callbacks,
        "pressure": {
            "levels": {gauge.value: round(level, 1) for gauge, level in pressure.levels.items()},
            "throttled": pressure.throttled,
            "causes": [cause.value for cause in pressure.causes],
            "since": pressure.since,
            "throttle_events": pressure.events,
        },
        "host": engine.condition_watch.host.view(),
        "files": engine.condition_watch.files.view(),
        "strategies": strategies.all_names(),
        "launchers": launcher_views(engine, viewer),
        "host_shortage": shortage_view(memory.shortage, engine.clock.now()),
        "history": engine.subscriptions.history.id,
        "last_seq": engine.subscriptions.seq,  # of the newest committed change, not of memory
    }


def shortage_view(shortage: Shortage, now: Now) -> ShortageView | None:
    """The reason why the host can start no process; None while it can."""
    if not shortage.lasts:
        return None
    next_try_ms = max(0, shortage.try_at - now.steady)
    return {"error": shortage.error, "since": shortage.since, "next_try_in_ms": next_try_ms}


def memory_view(engine: Engine) -> dict[str, int]:
    """The number of objects of each kind in memory: live ones, and a bounded front of the queues."""
    memory = engine.memory
    return {
        "attempts": len(memory.runs),
        "ready_jobs": sum(ready.held for ready in memory.ready.values()),
        "workflows": len(memory.workflows.runs),
        "workers_heard": len(memory.worker_status),
        "alarms": len(engine.timers),
        "needed_jobs": len(memory.needed),
    }


def launcher_views(engine: Engine, viewer: Viewer) -> list[LauncherView]:
    """The launchers that a viewer may see: those of other users tell who has jobs, and how many run."""
    launchers = engine.local.launchers
    running = Counter(run.attempt.launcher for run in engine.memory.runs.values())
    return [
        {
            "id": client.launcher,
            "pid": client.pid,
            "state": "stuck" if launchers.silent(client.launcher) else "ok",
            "running": running[client.launcher],
            "leaked": client.leaked,
        }
        for client in launchers.all
        if client.uid is None or viewer.sees in (None, client.uid)
    ]
