"""When the loop is woken although no message comes: real timers of the event loop, and a clock that the test sets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stoker.background.tasks import BackgroundTasks
from stoker.core.job.model import Queue
from stoker.core.rate import read_rate
from stoker.engine.deadlines import Deadlines
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.engine.timers import Timers
from stoker.process.work_files import WorkFiles
from tests.support.clocks import SetClock
from tests.support.jobs import job, spec

if TYPE_CHECKING:
    from stoker.executors.launcher_pool import LauncherPool

PATIENCE_S = 60.0
KEY = "rate/api"


async def test_loop_when_a_job_waits_for_a_token_then_it_is_woken_at_its_time(tmp_path: Path) -> None:
    clock, inbox, timers, memory = (
        SetClock(),
        Inbox(),
        Timers(),
        LiveState({"default": Queue(name="default")}, {}, 0, 0),
    )
    launchers = cast("LauncherPool", [])
    heartbeats = Heartbeats(memory, WorkFiles(tmp_path), timers, clock, inbox, launchers)
    deadlines = Deadlines(
        timers, clock, inbox, memory, heartbeats, launchers, BackgroundTasks(), patience_ms=1_000, sample_ms=1_000
    )
    memory.rates.of_keys["api"] = read_rate("1/s", 1)
    memory.rates.take(job(asked=spec(rate_key="api")), clock.steady)
    memory.rates.await_token(KEY, clock.steady)
    deadlines.rearm()
    clock.steady += 1_000

    deadlines.tick()

    await asyncio.wait_for(inbox.news(), PATIENCE_S)
    assert memory.rates.arrived(clock.steady) == [KEY]
    deadlines.stop()
