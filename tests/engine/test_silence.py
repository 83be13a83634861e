"""When a silence counts against a worker, and when not: real sockets, and a clock that the test sets."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from msgspec.structs import replace

from stoker.core.job.model import Identity
from stoker.engine.heartbeats import BURST, Heartbeats
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.engine.timers import Alarm, Alarms, Limit, Timers
from stoker.process.work_files import WorkFiles
from tests.support.apart import run_apart, spare_descriptors
from tests.support.clocks import SetClock
from tests.support.descriptors import count_fds
from tests.support.facts import until_async
from tests.support.jobs import attempt, job, running, spec
from tests.support.strace import why_not

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stoker.executors.launcher_pool import LauncherPool

ASKED = spec(heartbeat_ms=1_000, unresponsive_warn_ms=30_000, unresponsive_kill_ms=180_000)
START = 1_000_000
OF_THE_LOOP = 1  # asyncio watches the end of a pipe of its own


class Launchers:
    """The launcher of every run is our parent."""

    def pid_of(self, _launcher: str) -> int:
        return os.getppid()


class Room:
    """One run with a socket for reports."""

    def __init__(self, state_dir: Path) -> None:
        self.clock, self.timers, self.inbox = SetClock(START), Timers(), Inbox()
        self.memory = LiveState({}, {}, 0, 0)
        self.work_files = WorkFiles(state_dir)
        self.work_files.prepare(())
        self.job, self.attempt = running(ASKED)
        self.run_id = self.attempt.run_id
        self.memory.open(self.job, self.attempt)
        self.heartbeats = Heartbeats(
            self.memory, self.work_files, self.timers, self.clock, self.inbox, cast("LauncherPool", Launchers())
        )  # fmt: skip

    def name_worker(self, pid: int) -> None:
        """From now on the worker has that pid."""
        identity = Identity(pid=pid, start_ticks=1, boot_id="b", pid_namespace=1)
        self.attempt = replace(self.attempt, identity=identity)
        self.memory.open(self.job, self.attempt)

    def begin(self) -> None:
        self.heartbeats.open(self.run_id)
        self.timers.arm(self.job, self.attempt, self.clock.steady)
        self.heartbeats.began(self.job, self.attempt, self.clock.steady)

    def pass_ms(self, milliseconds: int) -> list[Alarm]:
        """Let time pass; returns the alarms that follow."""
        self.clock.steady += milliseconds
        due = self.timers.take_due(self.clock.now())
        judged = [self.heartbeats.judge(alarm, self.clock.now()) for alarm in due if alarm.limit is Limit.HEARTBEAT]
        return [alarm for alarm in judged if alarm is not None]

    def say(self, words: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(words, self.work_files.notice_address(self.run_id))

    def unresponsive(self) -> bool:
        return self.memory.worker_status[self.run_id].unresponsive


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    opened = Room(tmp_path)
    yield opened
    opened.heartbeats.stop()


async def test_silence_when_nothing_comes_then_the_warning_and_the_stop_come_in_their_time(room: Room) -> None:
    room.begin()

    assert room.pass_ms(29_999) == []
    assert not room.unresponsive()
    assert room.pass_ms(1) == []
    assert room.unresponsive()
    assert room.heartbeats.silent_ms(room.run_id) == 30_000
    assert room.pass_ms(149_999) == []
    (stop,) = room.pass_ms(1)
    assert (stop.limit, stop.run_id, stop.job_id) == (Limit.UNRESPONSIVE, room.run_id, room.job.id)
    assert room.pass_ms(10**9) == []


async def test_silence_when_a_heartbeat_lies_in_the_socket_then_it_is_read_before_judging(
    room: Room,
) -> None:
    room.begin()
    room.say(b"WATCHDOG=1")

    assert room.pass_ms(10**9) == []

    assert not room.unresponsive()
    assert room.memory.worker_status[room.run_id].last_heartbeat == room.clock.steady


def test_silence_when_no_descriptor_is_left_to_look_at_the_sender_then_it_is_heard(tmp_path: Path) -> None:
    assert run_apart(heard_without_descriptors, str(tmp_path)) == [0, False, True]


async def heard_without_descriptors(state_dir: str) -> tuple[int, bool, bool]:
    room = Room(Path(state_dir))
    room.name_worker(os.getpid() + 1)
    room.begin()
    room.say(b"WATCHDOG=1")
    with spare_descriptors(0):
        alarms = room.pass_ms(10**9)
    unresponsive = room.unresponsive()
    heard = room.memory.worker_status[room.run_id].last_heartbeat == room.clock.steady
    room.heartbeats.stop()
    return len(alarms), unresponsive, heard


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_open_when_the_kernel_has_no_room_to_watch_a_socket_then_it_is_heard_later(tmp_path: Path) -> None:
    fault = f"epoll_ctl:error=ENOMEM:when={OF_THE_LOOP + 1}"

    assert run_apart(heard_after_a_failed_watch, str(tmp_path), fault=fault) == "half"


async def heard_after_a_failed_watch(state_dir: str) -> str | None:
    room = Room(Path(state_dir))
    room.begin()
    room.say(b"STATUS=half")
    status = room.memory.worker_status[room.run_id]
    await until_async(lambda: status.status, why="what the worker says")
    room.heartbeats.stop()
    return status.status


async def test_silence_when_we_did_not_run_ourselves_then_it_begins_anew(room: Room) -> None:
    room.begin()
    room.clock.steady += 10**9
    room.heartbeats.restart_silence()

    assert room.pass_ms(29_999) == []
    assert not room.unresponsive()
    assert room.pass_ms(180_001 - 29_999)[0].limit is Limit.UNRESPONSIVE


async def test_silence_when_we_froze_the_worker_then_it_owes_nothing_until_it_runs_again(room: Room) -> None:
    room.begin()
    room.memory.frozen.freeze([room.run_id], room.clock.steady)
    room.heartbeats.restart_silence([room.run_id])
    for _ in range(20):
        assert room.pass_ms(30_000) == []
    room.memory.frozen.thaw([room.run_id], room.clock.steady)
    room.heartbeats.restart_silence([room.run_id])

    assert room.pass_ms(29_999) == []
    assert not room.unresponsive()
    assert room.pass_ms(1) == []
    assert room.unresponsive()


async def test_silence_when_the_worker_began_late_then_it_counts_from_there(room: Room) -> None:
    room.heartbeats.open(room.run_id)
    room.clock.steady += 500_000
    room.timers.arm(room.job, room.attempt, room.clock.steady)
    room.heartbeats.began(room.job, room.attempt, room.clock.steady)

    assert room.pass_ms(29_999) == []
    assert not room.unresponsive()


async def test_silence_when_the_run_has_no_socket_then_it_is_not_silent(room: Room) -> None:
    Path(room.work_files.notice_address(room.run_id)).mkdir()
    room.begin()

    assert room.pass_ms(10**9) == []
    assert room.heartbeats.silent_ms(room.run_id) is None


async def test_close_when_the_run_is_settled_then_nothing_of_it_is_left(room: Room) -> None:
    room.begin()
    before = count_fds()

    room.heartbeats.close([room.run_id, "8.1.0000000000000000"])

    assert not Path(room.work_files.notice_address(room.run_id)).exists()
    assert count_fds() == before - 1
    assert room.pass_ms(10**9) == []


async def test_trigger_when_a_worker_calls_itself_hung_then_there_is_an_alarm_at_once(room: Room) -> None:
    room.begin()
    room.say(b"WATCHDOG=trigger")

    await until_async(lambda: len(room.inbox), why="the alarm")
    (message,) = room.inbox.take(1)

    assert isinstance(message, Alarms)
    assert [(alarm.limit, alarm.run_id) for alarm in message.alarms] == [(Limit.UNRESPONSIVE, room.run_id)]


async def test_flood_when_it_comes_then_it_is_read_in_bursts_and_the_last_notice_counts(
    room: Room,
) -> None:
    room.begin()
    status = room.memory.worker_status[room.run_id]
    for number in range(3 * BURST):
        words = b"STATUS=%d" % number if number % 2 else b"nonsense"
        sent = status.ignored + 1
        room.say(words)
        if number % 2 == 0:
            await until_async(lambda sent=sent: status.ignored == sent, why="it to be counted")  # type: ignore[misc]

    await until_async(lambda: room.memory.worker_status[room.run_id].status == str(3 * BURST - 1), why="the last word")

    assert room.memory.worker_status[room.run_id].ignored == 3 * BURST // 2


def test_notice_address_when_a_path_would_be_too_long_then_it_is_abstract(tmp_path: Path) -> None:
    of = attempt(job())
    short, long = WorkFiles(tmp_path), WorkFiles(tmp_path / ("x" * 90))

    assert short.notice_address(of.run_id) == f"{tmp_path}/work/{of.run_id}.notify"
    assert long.notice_address(of.run_id) == f"@stoker-{of.run_id}"
