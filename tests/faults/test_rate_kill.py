"""Rates under SIGKILL at the syscalls of starts, and under a wall clock that jumps: no token is given twice or lost."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from tests.engine.test_rates import keeps, of_key, set_rate, started, starts
from tests.support import strace
from tests.support.clocks import set_wall_clock, why_no_compiler
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.facts import until
from tests.support.strace import Attached, draw, points
from tests.support.work import alive, end_of, submit, submit_many

if TYPE_CHECKING:
    from pathlib import Path

MISSING = strace.why_not()
OF_A_START = ["fdatasync", "pwrite64", "write", "sendmsg", "sendto", "writev", "epoll_pwait"]
KILLS = 6

pytestmark = pytest.mark.timeout(600)


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_starts_when_the_daemon_is_killed_at_any_syscall_of_one_then_the_rate_holds(
    daemon: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    with daemon.client() as client:
        rate = set_rate(client, "k", "5/s", 2)
        submit_many(client, [of_key("k", on_orphan="requeue", max_orphanings=99) for _ in range(400)])
    attached = Attached(daemon.pid, tmp_path / "trace")
    started(daemon, "k", len(starts(daemon, "k")) + 3)
    attached.detach()
    killed = 0
    for number, point in enumerate(draw(points(tmp_path / "trace", "", OF_A_START), KILLS, random.Random(seed))):
        pid = daemon.pid
        attached = Attached(pid, tmp_path / f"trace.{number}", f"trace={point.syscall}", point.kill())
        until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        attached.detach()
        killed += 1
        with contextlib.suppress(DaemonDied):
            daemon.wait()
        daemon.start()

    before = len(starts(daemon, "k"))
    started(daemon, "k", before + 3)
    assert killed == KILLS
    assert keeps(rate, starts(daemon, "k"))


@pytest.mark.skipif(bool(why_no_compiler()), reason=str(why_no_compiler()))
def test_starts_when_the_wall_clock_jumps_then_jobs_neither_starve_nor_flood(stopped_daemon: DaemonProcess) -> None:
    wall = set_wall_clock(stopped_daemon)
    with stopped_daemon.start().client() as client:
        set_rate(client, "slow", "1/d")
        set_rate(client, "fast", "50/s")
        end_of(client, submit(client, of_key("slow")))
        waits = submit(client, of_key("slow"))
        for jump in (400 * 86_400, 0):
            wall.jump(jump)
            assert end_of(client, submit(client, of_key("fast"))) == ("succeeded", "exit")
            assert client.why(waits)["code"] == "rate"
        stopped_daemon.kill9()
        wall.jump(400 * 86_400)
        stopped_daemon.start()
    with stopped_daemon.client() as client:
        assert end_of(client, submit(client, of_key("fast"))) == ("succeeded", "exit")
        assert client.why(waits)["code"] == "rate"
