"""The daemon's memory after many jobs have ended holds as many objects as before them.

Owns the kinds that once stayed: alarms of limits that are far away, reports of workers, workflows that were read for a
verb that was refused. It asks counts of the daemon itself; `make soak` weighs the process after a million jobs.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.clock import wall_ms
from stoker.core.errors import AlreadyFinished
from stoker.core.job.events import Began, Cancel
from stoker.core.job.model import Identity, Queue, State, StopReason
from stoker.engine.memory import LiveState
from stoker.engine.timers import IDLE_KEPT
from stoker.engine.turn import Turn
from stoker.store.loading import Loaded
from tests.support import jobs
from tests.support.facts import until
from tests.support.flows import flow, send, step
from tests.support.work import shell, submit_many

if TYPE_CHECKING:
    import stoker

SETTINGS = "[daemon]\nmax_running = 8\n"
JOBS = 300
FLOWS = 10
DAY_MS = 86_400_000
MONTH_MS = 30 * DAY_MS


def short_job(dice: random.Random) -> dict[str, Any]:
    """A job that ends at once, with limits in the far future, and mostly with a socket for reports."""
    words: dict[str, Any] = {"timeout_ms": MONTH_MS, "notify": dice.random() < 0.7}
    if dice.random() < 0.5:
        words["deadline"] = wall_ms() + MONTH_MS
    if dice.random() < 0.2:
        words |= {"warn_signal": int(signal.SIGUSR1), "warn_before_ms": DAY_MS}
    return shell(f"exit {dice.choice([0, 0, 0, 1])}", **words)


def memory(client: stoker.Client) -> dict[str, int]:
    kept: dict[str, int] = client.status()["memory"]
    return kept


def idle(client: stoker.Client) -> bool:
    status = client.status()
    return not (status["running"] or status["queued"] or status["waiting"])


def refuse_cancel(client: stoker.Client, step: int) -> None:
    """Send a verb that does not apply, as the step and its workflow have ended."""
    with pytest.raises(AlreadyFinished):
        client.call("job.cancel", {"id": step})


def test_memory_when_many_jobs_have_ended_then_the_daemon_keeps_nothing_of_them(client: stoker.Client) -> None:
    dice = random.Random(int(os.environ.get("STOKER_SEED", "1")))
    before = memory(client)

    ids = [answer["id"] for answer in submit_many(client, [short_job(dice) for _ in range(JOBS)])]
    client.wait(*ids)
    asked = flow({"one": step("exit 0"), "two": step("exit 0", "one")})
    flows = [send(client, asked)["steps"] for _ in range(FLOWS)]
    until(lambda: idle(client), why="the end of all workflows")
    for steps in flows:
        refuse_cancel(client, steps["two"])

    after = memory(client)
    assert after.pop("alarms") <= before.pop("alarms") + IDLE_KEPT
    assert after == before


def test_memory_when_steps_of_many_widths_have_ended_then_no_width_is_kept() -> None:
    memory = LiveState({}, {}, 0, 0)
    for ident in range(1, 4):
        running, attempt = jobs.running(jobs.spec(resources={f"w{ident}/fan": 1}), id=ident)
        memory.open(running, attempt)
        ended = jobs.job(State.SUCCEEDED, asked=running.spec, id=ident, attempts=1)
        memory.enter(running, ended, replace(attempt, outcome=jobs.exited(), ended_at=ended.finished_at))

    assert not memory.used


def test_start_of_a_worker_when_it_comes_in_the_turn_of_a_stop_then_both_are_stored() -> None:
    """The turn also stores the starts that waited, so no later one stores this start."""
    job, attempt = jobs.running()
    memory = LiveState({"default": Queue(name="default")}, {}, job.id, 0)
    memory.open(job, attempt)
    turn = Turn(memory, jobs.NOW, Loaded())
    identity = Identity(pid=42, start_ticks=7, boot_id="b", pid_namespace=1)

    turn.step(job.id, Cancel())
    turn.begin(memory.runs[job.id], Began(identity=identity, boot_ms=5), jobs.NOW.wall)
    turn.flush = True
    stored = turn.finish().attempts[attempt.run_id]

    assert stored.stop_reason is StopReason.CANCEL
    assert stored.identity == identity
    assert memory.described == {}
