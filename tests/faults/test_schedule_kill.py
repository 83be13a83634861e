"""Schedules under SIGKILL at the syscalls of a slot, and under a wall clock that jumps: no slot is submitted twice.

Each run writes its slot down, so that a run without a row would be seen as well.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StokerError
from tests.support import strace
from tests.support.clocks import set_wall_clock, why_no_compiler
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.facts import until
from tests.support.strace import Attached, calls_of, draw, points
from tests.support.work import alive, shell

if TYPE_CHECKING:
    from pathlib import Path

    import stoker

MISSING = strace.why_not()
OF_A_SLOT = ["fdatasync", "pwrite64", "write", "sendmsg", "sendto", "writev", "epoll_pwait"]
KILLS = 8
MINUTE_MS = 60_000

pytestmark = pytest.mark.timeout(600)


def add(client: stoker.Client, log: Path) -> None:
    job = shell(f'echo "$STOKER_SCHEDULED_FOR" >> {log}')
    every = {"name": "s", "timing": "every 1s", "overlap": "allow", "misfire": "all", "catch_up_ms": 10 * MINUTE_MS}
    client.call("schedule.add", {**every, "job": job})


def until_dead(pid: int) -> None:
    until(lambda: not alive(pid))


def slots(client: stoker.Client) -> list[int]:
    """The slots of all jobs, in the order in which these were submitted."""
    found: list[int] = []
    after = 0
    while jobs := client.list(after=after, limit=1000)["jobs"]:
        found += [job["scheduled_for"] or 0 for job in jobs]
        after = jobs[-1]["id"]
    return found


def runs(log: Path) -> list[str]:
    """The slots of all runs, in the order in which these started."""
    return log.read_text().split() if log.exists() else []


def twice(found: list[int] | list[str]) -> list[object]:
    return [slot for slot, count in Counter[object](found).items() if count > 1]


@pytest.mark.long
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_slots_when_the_daemon_is_killed_at_any_syscall_of_one_then_each_has_one_job(
    daemon: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    log = tmp_path / "runs"
    with daemon.client() as client:
        add(client, log)
    until(lambda: runs(log))
    attached = Attached(daemon.pid, tmp_path / "trace")  # no client asks meanwhile: its calls would count as the slot's
    first = len(runs(log))
    until(lambda: len(runs(log)) > first + 2)
    attached.detach()
    every = points(tmp_path / "trace", "", OF_A_SLOT)
    killed = 0
    for number, point in enumerate(draw(every, KILLS, random.Random(seed))):
        pid = daemon.pid
        attached = Attached(pid, tmp_path / f"trace.{number}", f"trace={point.syscall}", point.kill())
        with contextlib.suppress(StokerError):
            until_dead(pid)
        attached.detach()
        killed += not alive(pid)
        with contextlib.suppress(DaemonDied):
            daemon.wait()
        daemon.start()

    with daemon.client() as client:
        last = max(slots(client))
        until(lambda: max(slots(client)) > last + 1_000)
        client.call("schedule.pause", {"name": "s"})
        found = slots(client)
    assert killed > KILLS // 2
    assert found == list(range(found[0], found[-1] + 1_000, 1_000))
    assert twice(runs(log)) == []
    assert calls_of(tmp_path / "trace")


@pytest.mark.skipif(bool(why_no_compiler()), reason=str(why_no_compiler()))
def test_slots_when_the_wall_clock_is_set_ahead_and_back_then_each_runs_once(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    wall = set_wall_clock(stopped_daemon)
    with stopped_daemon.start().client() as client:
        add(client, tmp_path / "runs")
        until(lambda: slots(client))
        wall.jump(8)
        ahead = max(slots(client)) + 8_000
        until(lambda: max(slots(client)) > ahead)
        for seconds in (7, 6):  # back to before a slot that was submitted a moment ago
            newest = max(slots(client))
            until(lambda newest=newest: max(slots(client)) > newest)  # type: ignore[misc]
            wall.jump(seconds)
        before = len(slots(client))
        highest = max(slots(client))
        wall.jump(0)
        until(lambda: max(slots(client)) > highest)
        client.call("schedule.pause", {"name": "s"})
        found = slots(client)

    assert len(found) > before
    assert twice(found) == []


@pytest.mark.skipif(bool(why_no_compiler()), reason=str(why_no_compiler()))
def test_slots_when_the_clock_was_a_year_ahead_then_they_go_on_at_once(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    wall = set_wall_clock(stopped_daemon)
    wall.jump(365 * 24 * 3_600)
    with stopped_daemon.start().client() as client:
        add(client, tmp_path / "runs")
        until(lambda: slots(client))
        future = len(slots(client))
        wall.jump(0)
        until(lambda: slots(client)[-1] < slots(client)[0])

        assert len(slots(client)) > future
        assert twice(slots(client)) == []


@pytest.mark.skipif(bool(why_no_compiler()), reason=str(why_no_compiler()))
def test_start_when_the_clock_was_set_back_and_a_zone_has_gone_then_it_succeeds(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    zone = tmp_path / "zones" / "Own" / "Zone"
    zone.parent.mkdir(parents=True)
    zone.write_bytes(files("tzdata.zoneinfo.Europe").joinpath("Berlin").read_bytes())
    stopped_daemon.environ["PYTHONTZPATH"] = str(tmp_path / "zones")
    wall = set_wall_clock(stopped_daemon)
    wall.jump(24 * 3_600)
    with stopped_daemon.start().client() as client:
        client.call("schedule.add", {"name": "gone", "timing": "@daily", "zone": "Own/Zone", "job": shell("exit 0")})
    stopped_daemon.stop()
    zone.unlink()
    wall.jump(0)

    with stopped_daemon.start().client() as client:
        until(lambda: client.call("schedule.get", {"name": "gone"})["paused"])
