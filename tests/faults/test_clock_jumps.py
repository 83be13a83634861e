"""A wall clock that is set, a host that sleeps, a daemon or a launcher that stands still: no limit early, none late.

Owns the jobs that wait and run while it happens. Durations (ttl, backoff, timeout) must not change; times of the wall
clock (run_at, deadline) must follow it. No time is measured: a limit that followed the wrong clock is an hour or a
month off, and the test then waits in vain. A jump counts when the daemon's own log shows it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import time
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.clock import wall_ms
from stoker.core.errors import JobNotFound
from tests.support.clocks import Shift, set_sleep, set_wall_clock, why_no_compiler
from tests.support.daemon import DaemonProcess
from tests.support.facts import DEADLINE_S, scales, until
from tests.support.torture import launchers
from tests.support.work import Gate, alive, changes, end_of, job_view, running, shell, state, submit, submit_many

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import stoker

HOUR_S = 3_600
MONTH_S = 30 * 24 * HOUR_S
HOUR_MS = HOUR_S * 1_000
JUMPS = [HOUR_S, -MONTH_S, -HOUR_S, MONTH_S] if "STOKER_FAULTS" in os.environ else [HOUR_S, -MONTH_S]
SETTINGS = """
[daemon]
max_running = 20
[cpu]
throttle_threshold = 100
[queues.shut]
paused = true
"""
needs_compiler = pytest.mark.skipif(bool(why_no_compiler()), reason=str(why_no_compiler()))
NEGATIVE = re.compile(r"(?<![\w-])-\d")


class Waits:
    """Jobs with running durations: some end soon, some must not end during the test."""

    def __init__(self, client: stoker.Client, *, run: bool) -> None:
        # If the daemon is killed late, the second attempt may run already.
        again = shell("[ $STOKER_ATTEMPT != 1 ]", max_attempts=2, base_delay_ms=2_000, on_orphan="requeue")
        self.soon = {
            submit(client, shell(":", queue="shut", ttl_ms=3_000)): ("expired", "ttl"),
            submit(client, again): ("succeeded", "exit"),
        }
        if run:
            self.soon |= {
                submit(client, shell("exec sleep 600", timeout_ms=3_000)): ("failed", "timeout"),
                submit(client, shell("exec sleep 2", timeout_ms=HOUR_MS)): ("succeeded", "exit"),
            }
        self.late = {
            submit(client, shell(":", queue="shut", ttl_ms=HOUR_MS // 2)): "queued",
            submit(client, shell("exit 1", max_attempts=2, base_delay_ms=HOUR_MS // 2)): "waiting",
        }
        until(lambda: self.states(client) == self.late, why="the first failure of what waits")

    def states(self, client: stoker.Client) -> dict[int, str]:
        return {job: state(client, job) for job in self.late}

    def check(self, client: stoker.Client) -> None:
        """Check that the short durations end and that the long ones still run then."""
        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
        assert {job: end_of(client, job) for job in self.soon} == self.soon
        assert self.states(client) == self.late


def seen_jump(daemon: DaemonProcess, seconds: int) -> bool:
    """Whether two lines of the daemon's log show a jump of about that size."""
    times = [datetime.fromisoformat(event["ts"]).timestamp() for event in daemon.events()]
    return any(abs(later - before - seconds) < HOUR_S / 4 for before, later in pairwise(times))


def shown(daemon: DaemonProcess, *jobs: int) -> str:
    """The text of `stoker why` for these jobs."""
    commands: list[tuple[str, ...]] = [("ls", "--all")]
    for job in jobs:
        commands += [("show", str(job)), ("history", str(job))]
    return "\n".join(daemon.cli(*command).stdout for command in commands)


# --- the wall clock -----------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("jump", JUMPS)
def test_durations_when_the_wall_clock_is_set_then_they_do_not_change(stopped_daemon: DaemonProcess, jump: int) -> None:
    wall = set_wall_clock(stopped_daemon)
    with stopped_daemon.start().client() as client:
        waits = Waits(client, run=True)

        wall.jump(jump)

        waits.check(client)
        assert not NEGATIVE.findall(shown(stopped_daemon, *list(waits.soon)[1:3]))
    assert seen_jump(stopped_daemon, jump), stopped_daemon.tail(100)


@needs_compiler
@pytest.mark.parametrize("jump", [HOUR_S, -MONTH_S])
def test_durations_when_the_wall_clock_is_set_without_a_daemon_then_they_stay(
    stopped_daemon: DaemonProcess, jump: int
) -> None:
    wall = set_wall_clock(stopped_daemon)
    with stopped_daemon.start().client() as client:
        waits = Waits(client, run=False)
    stopped_daemon.kill9()

    wall.jump(jump)
    stopped_daemon.start()

    with stopped_daemon.client() as client:
        waits.check(client)
    assert seen_jump(stopped_daemon, jump)


@needs_compiler
@pytest.mark.parametrize("running_daemon", [True, False])
def test_wall_promises_when_the_wall_clock_is_set_forward_then_they_are_due(
    stopped_daemon: DaemonProcess, *, running_daemon: bool
) -> None:
    wall = set_wall_clock(stopped_daemon)
    at = wall_ms() + HOUR_MS // 2
    with stopped_daemon.start().client() as client:
        due = {
            submit(client, shell(":", run_at=at)): ("succeeded", "exit"),
            submit(client, shell(":", run_at=at, queue="shut", ttl_ms=500)): ("expired", "ttl"),
            submit(client, shell(":", queue="shut", deadline=at)): ("expired", "deadline"),
        }
        late = submit(client, shell("exec sleep 600", deadline=at, survive=True))
        not_due = submit(client, shell(":", run_at=at + HOUR_MS))
        running(client, late)

    if not running_daemon:
        stopped_daemon.kill9()
    wall.jump(HOUR_S)
    if not running_daemon:
        stopped_daemon.start()

    with stopped_daemon.client() as client:
        assert {job: end_of(client, job) for job in due} == due
        assert end_of(client, late) == ("failed", "deadline")
        assert state(client, not_due) == "waiting"


@needs_compiler
@pytest.mark.parametrize("jump", [jump for jump in JUMPS if jump < 0])
def test_wall_promises_when_the_wall_clock_is_set_back_then_they_wait_for_it(
    stopped_daemon: DaemonProcess, jump: int
) -> None:
    wall = set_wall_clock(stopped_daemon)
    with stopped_daemon.start().client() as client:
        for margin_ms in (3_000, 20_000, 60_000):
            at = wall_ms() + margin_ms
            planned = submit(client, shell(":", run_at=at))
            brief = submit(client, shell(":", run_at=at, ttl_ms=1_500))
            late = submit(client, shell("exec sleep 600", deadline=at))
            until(lambda late=late: client.get(late)["pid"] or client.get(late)["finished_at"])  # type: ignore[misc]
            wall.jump(jump)
            if wall_ms() < at:
                break
            wall.jump(0)  # this machine took too long: the limit that was to be late is over already
        # Longer than all of them would have taken.
        hourglass = submit(client, shell(":", queue="shut", ttl_ms=at - wall_ms() + 3_000))

        assert end_of(client, hourglass) == ("expired", "ttl")
        assert [state(client, job) for job in (planned, brief, late)] == ["waiting", "waiting", "running"]
        blocker = client.why(planned)
        assert blocker["code"] == "run_at"
        wall.jump(0)

        assert end_of(client, planned) == ("succeeded", "exit")
        assert end_of(client, brief) == ("succeeded", "exit")
        assert end_of(client, late) == ("failed", "deadline")
        assert not NEGATIVE.findall(shown(stopped_daemon, late))


# --- a host that sleeps -------------------------------------------------------------------------------------


@needs_compiler
def test_durations_when_the_host_has_slept_then_they_are_over_when_it_wakes(stopped_daemon: DaemonProcess) -> None:
    slept = set_sleep(stopped_daemon)
    with stopped_daemon.start().client() as client:
        ttl = submit(client, shell(":", queue="shut", ttl_ms=HOUR_MS // 2))
        backoff = submit(client, shell("exit 1", max_attempts=2, base_delay_ms=HOUR_MS // 2))
        late = submit(client, shell("exec sleep 600", timeout_ms=HOUR_MS // 2))
        untouched = submit(client, shell(":", queue="shut", ttl_ms=2 * HOUR_MS))
        running(client, late)
        until(lambda: state(client, backoff) == "waiting", why="the first failure")

        slept.jump(HOUR_S)

        assert end_of(client, ttl) == ("expired", "ttl")
        assert end_of(client, backoff) == ("failed", "exit")
        assert end_of(client, late) == ("failed", "timeout")
        assert state(client, untouched) == "queued"


# --- a process that stands still ----------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", ["daemon", "launcher", "both"])
def test_limits_when_processes_stand_still_past_them_then_a_timely_end_succeeds(
    stopped_daemon: DaemonProcess, tmp_path: Path, stopped: str
) -> None:
    """With STOKER_FAULTS the gap lasts a minute."""
    stopped_daemon.config.write_text(SETTINGS + "[launcher]\nstuck_ms = 2000\n")
    with stopped_daemon.start().client() as client:
        for limit_ms in scales(30_000 if "STOKER_FAULTS" in os.environ else 2_500):
            gate = Gate(tmp_path / f"gate.{limit_ms}")
            submitted_s = boot_time_s()
            in_time = [submit(client, gate.spec(timeout_ms=limit_ms)) for _ in range(5)]
            failing = submit(client, gate.spec("exit 3", timeout_ms=limit_ms))
            too_long = submit(client, shell("exec sleep 600", timeout_ms=limit_ms, grace_ms=300))
            workers = [worker_of(client, job) for job in (*in_time, failing, too_long)][:-1]
            victims = [stopped_daemon.pid] if stopped != "launcher" else []
            victims += launchers(stopped_daemon.state_dir).values() if stopped != "daemon" else []

            with standing_still(victims, 2 * limit_ms / 1_000):
                gate.open()
                until(lambda: not any(pid and alive(pid) for pid in workers), why="the end of all but one")  # noqa: B023
                ended_s = boot_time_s()

            if ended_s - submitted_s < limit_ms / 1_000:
                break

        assert [end_of(client, job) for job in in_time] == [("succeeded", "exit")] * 5
        assert end_of(client, failing) == ("failed", "exit")
        assert end_of(client, too_long) == ("failed", "timeout")
        assert not any(attempts_stopped(client, job) for job in in_time)
        assert not changes(client, too_long, "launcher_lost")


def all_gone(pids: Iterable[int | None]) -> None:
    for pid in pids:
        until(lambda pid=pid: pid is None or not alive(pid), why="its end")  # type: ignore[misc]


def boot_time_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def worker_of(client: stoker.Client, job: int) -> int | None:
    """The pid of the worker, once it runs; None if it has ended."""
    until(lambda: client.get(job)["attempts"] and (client.get(job)["pid"] or client.get(job)["finished_at"]))
    return client.get(job)["pid"]


@contextlib.contextmanager
def standing_still(pids: Iterable[int], gap_s: float) -> Iterator[None]:
    """Stop these processes for at least `gap_s`; the body of the `with` runs meanwhile."""
    began_s = boot_time_s()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    until(lambda: boot_time_s() - began_s >= gap_s, gap_s + DEADLINE_S, why="the gap")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def attempts_stopped(client: stoker.Client, job: int) -> list[Any]:
    """The attempts whose workers were signalled by Stoker."""
    return [attempt for attempt in client.history(job)["attempts"] if attempt["stopped"]]


# --- retention ----------------------------------------------------------------------------------------------

KEEP_A_MONTH = """
[queues.shut]
paused = true
[retention]
keep = "30d"
keep_failed = "30d"
keep_changes = "30d"
keep_last = 0
every_ms = 200
"""
MANY = 1_100  # changes: fewer would not be removed at once
CENTURY_DAYS = 100 * 365
CENTURY_S = CENTURY_DAYS * 24 * HOUR_S


def pass_over(client: stoker.Client) -> None:
    """Return when two passes of retention have begun and ended from now on."""
    for _ in range(2):
        before = client.status()["usage"]["measured_at"]
        until(lambda before=before: client.status()["usage"]["measured_at"] != before, why="a pass")  # type: ignore[misc]


@needs_compiler
@pytest.mark.parametrize("jump_s", [-int(time.time()), CENTURY_S], ids=["1970", "a century ahead"])
def test_retention_when_the_wall_clock_is_wrong_then_nothing_recent_goes(
    stopped_daemon: DaemonProcess, jump_s: int
) -> None:
    stopped_daemon.config.write_text(KEEP_A_MONTH)
    clock = set_wall_clock(stopped_daemon)
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        ended = submit(client, shell("exit 0"))
        assert end_of(client, ended) == ("succeeded", "exit")
        waiting = submit_many(client, [shell(":", queue="shut")] * MANY)
        clock.jump(jump_s)
        pass_over(client)

        assert state(client, ended) == "succeeded"
        assert {change["cause"] for change in changes(client, ended)} >= {"submitted", "dispatched", "ended"}
        assert changes(client, waiting[0]["id"], "submitted")


def boot_ahead(daemon: DaemonProcess, clock: Shift, seconds: int) -> None:
    """Stop, and start again in what seems another boot, with the wall clock ahead."""
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = 'another boot' WHERE key = 'boot_id'")
    clock.jump(seconds)
    daemon.start()


@needs_compiler
@pytest.mark.parametrize(("keep", "stays"), [("25h", True), ("12h", False)])
def test_retention_when_a_clock_is_hours_ahead_then_it_goes_a_day_early_at_most(
    stopped_daemon: DaemonProcess, keep: str, *, stays: bool
) -> None:
    stopped_daemon.config.write_text(KEEP_A_MONTH.replace("30d", keep))
    clock = set_wall_clock(stopped_daemon)
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        ended = submit(client, shell("exit 0"))
        assert end_of(client, ended) == ("succeeded", "exit")
    boot_ahead(stopped_daemon, clock, 23 * HOUR_S)

    with stopped_daemon.client() as client:
        pass_over(client)

        left = [job["id"] for job in client.list()["jobs"]]

        assert left == [ended] * stays


@needs_compiler
def test_retention_when_the_clock_is_ahead_at_boot_then_nothing_recent_goes(stopped_daemon: DaemonProcess) -> None:
    """Steady time begins at the wall clock of the boot, so it is ahead too."""
    stopped_daemon.config.write_text(KEEP_A_MONTH)
    clock = set_wall_clock(stopped_daemon)
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        ended = submit(client, shell("exit 0"))
        assert end_of(client, ended) == ("succeeded", "exit")
        waiting = submit_many(client, [shell(":", queue="shut")] * MANY)
    boot_ahead(stopped_daemon, clock, CENTURY_S)

    with stopped_daemon.client() as client:
        pass_over(client)
        assert stopped_daemon.events("retention_waits")[0]["not_counted_days"] in (CENTURY_DAYS - 1, CENTURY_DAYS)
        assert "is not counted as age" in stopped_daemon.cli("status").stdout
        assert state(client, ended) == "succeeded"
        assert changes(client, waiting[0]["id"], "submitted")
        assert stopped_daemon.cli("purge", "--before", "30d", "--yes").returncode == 0
        with pytest.raises(JobNotFound):
            state(client, ended)


@needs_compiler
def test_event_when_the_wall_clock_is_set_back_then_it_reaches_no_later_job(stopped_daemon: DaemonProcess) -> None:
    wall = set_wall_clock(stopped_daemon)
    with stopped_daemon.start().client() as client:
        client.call("event.emit", {"name": "past", "data": 1})
        wall.jump(-HOUR_S)

        late = submit(client, shell(":", wait_for="event:past"))

        (event,) = client.call("event.list", {"name": "past"})["events"]
        assert job_view(client, late)["created_at"] < event["emitted_at"]
        assert state(client, late) == "waiting"
