"""Logs of attempts: made by the launcher alone, at the first byte, and bounded while they are written."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stoker.launcher import kernel, outputs
from stoker.launcher.logs import FOLLOWER_WAIT_S, LogFile
from stoker.process.messages import Exited, HelloRefusal, Started
from tests.support.facts import until_async
from tests.support.instance import log_of

if TYPE_CHECKING:
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

KIB = 1024
MIB = 1024 * KIB
BOUND = MIB
# Writes numbered lines of 64 bytes, so that each names its offset; then waits for the FIFO.
FLOOD = """
import sys
line = 0
def write(count):
    global line
    for _ in range(count):
        sys.stdout.write(f"{line:063d}\\n")
        line += 1
    sys.stdout.flush()
write(%d)
if %d:
    open(sys.argv[1])
"""


def disk_bytes(order: LaunchOrder) -> int:
    return Path(order.log).stat().st_blocks * 512


def flooding(host: LauncherHost, size: int, *, stay: bool) -> LaunchOrder:
    return replace(host.python(FLOOD % (size // 64, stay)), max_log_bytes=BOUND)


def assert_offsets_are_valid(order: LaunchOrder, size: int) -> None:
    """Each line of head and tail is at the offset that it names; between them is a hole."""
    data = Path(order.log).read_bytes()
    assert len(data) == size
    for offset in (0, BOUND // 4 - 64, size - BOUND // 4, size - 64):
        assert int(data[offset : offset + 63]) == offset // 64
    assert data[size // 2 : size // 2 + 63] == bytes(63)


async def test_log_when_it_is_made_then_it_and_its_directories_are_private(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("echo", "hello")

    await host.run(client, order)

    path = Path(order.log)
    assert log_of(order) == "hello\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {parent.stat().st_mode & 0o777 for parent in list(path.parents)[:3]} == {0o700}


async def test_log_when_it_is_there_already_then_nothing_is_started_and_it_stays_as_it_is(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("echo", "over it")
    path = Path(order.log)
    path.parent.mkdir(parents=True)
    path.write_text("of a run that the database has forgotten\n")

    refused = await host.refused(client, order)

    assert refused.why is HelloRefusal.LOG_EXISTS
    assert host.count(Started) == 0
    assert path.read_text() == "of a run that the database has forgotten\n"


async def test_log_when_a_worker_floods_it_then_the_disk_is_bounded_and_offsets_stay(
    host: LauncherHost,
) -> None:
    client = await host.start()
    order = flooding(host, 24 * MIB, stay=True)
    await host.running(client, order)

    await until_async(lambda: Path(order.log).exists() and Path(order.log).stat().st_size == 24 * MIB)
    await until_async(lambda: disk_bytes(order) <= BOUND)

    assert_offsets_are_valid(order, 24 * MIB)


async def test_log_when_a_short_job_floods_it_then_it_is_bounded_at_the_exit(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, 8 * MIB, stay=False)

    exited = await host.run(client, order)

    assert exited.log_bytes == 8 * MIB
    assert disk_bytes(order) <= BOUND
    assert_offsets_are_valid(order, 8 * MIB)


async def test_log_when_no_daemon_is_there_then_it_is_bounded_anyway(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, 24 * MIB, stay=True)
    client.launch([order])
    await client.list_runs()
    client.close()

    await until_async(lambda: Path(order.log).exists() and Path(order.log).stat().st_size == 24 * MIB)

    await until_async(lambda: disk_bytes(order) <= BOUND)


class LogFollower:
    """Locks what it has yet to read, as a daemon does for its client."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def read_to(self, offset: int) -> None:
        for kind, start, length in ((fcntl.F_RDLCK, offset, 0), (fcntl.F_UNLCK, 0, offset)):
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, kernel.FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def test_log_when_its_follower_is_stopped_then_its_wait_is_bounded(tmp_path: Path) -> None:
    log = LogFile.new(str(tmp_path / "1.log"), 4 * MIB)
    pipe, worker = os.pipe()
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MIB)

    def is_awaited_after(pieces: int, now: float) -> bool:
        for _ in range(pieces):
            os.write(worker, bytes(MIB))
            log.splice(pipe)
        log.bound(now)
        return log.awaits_follower

    assert not is_awaited_after(4, time.monotonic())
    follower = LogFollower(tmp_path / "1.log")
    follower.read_to(MIB)
    assert is_awaited_after(1, time.monotonic())
    later = time.monotonic() + FOLLOWER_WAIT_S
    assert not is_awaited_after(0, later)
    assert not is_awaited_after(2, later)
    assert Path(log.path).stat().st_blocks * 512 <= 4 * MIB

    follower.read_to(log.size)
    assert not is_awaited_after(2, later)
    assert is_awaited_after(2, later)
    log.close()


def test_followers_when_many_are_awaited_then_looking_takes_a_tenth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = 100.0

    class HeldLog:
        """It takes a millisecond to look at its lock."""

        awaits_follower = True

        def bound(self, _now: float) -> None:
            nonlocal at
            at += 0.001

    monkeypatch.setattr(outputs, "time", SimpleNamespace(monotonic=lambda: at))
    logs = outputs.Outputs()
    for number in range(1_000):
        logs._held[str(number)] = SimpleNamespace(run_id=str(number), log=HeldLog())  # type: ignore[assignment]
    logs._check_at = at

    logs.resume(at)

    assert logs.due == pytest.approx(100 + 10 * 1)


async def test_log_when_it_stays_below_its_bound_then_nothing_is_taken_out(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, BOUND // 2, stay=False)

    await host.run(client, order)

    assert b"\0" not in Path(order.log).read_bytes()


async def test_log_when_another_file_took_its_path_then_that_one_is_left_alone(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("mkdir -p $(dirname $1); echo mine > $1; echo said; echo said >&2")
    order = replace(order, argv=(*order.argv, order.log))

    exited = await host.run(client, order)

    assert exited.exit_code == 0
    assert exited.log_bytes == 0
    assert log_of(order) == "mine\n"


async def test_log_when_its_file_is_removed_then_the_worker_goes_on_without_a_new_one(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("echo one; read _ < $0; echo two")
    await host.running(client, order, "one")
    Path(order.log).unlink()

    host.never.write_bytes(b"go on\n")

    exited = await host.heard(Exited, order)
    assert exited.log_bytes == len("one\ntwo\n")
    assert not Path(order.log).exists()


@pytest.mark.parametrize("command", ["/bin/true", "no-such-command"])
async def test_log_when_nothing_was_written_then_nothing_is_made(host: LauncherHost, command: str) -> None:
    client = await host.start()
    order = host.order(command)

    exited = await host.run(client, order)

    assert exited.log_bytes == 0
    assert not Path(order.log).parent.exists()


async def test_log_when_hundreds_of_short_jobs_write_then_each_has_its_own(host: LauncherHost) -> None:
    client = await host.start()
    orders = [host.order("echo", str(number)) if number % 3 else host.order("/bin/true") for number in range(300)]

    for start in range(0, 300, 30):
        client.launch(orders[start : start + 30])
        for order in orders[start : start + 30]:
            await host.heard(Exited, order)

    assert [log_of(order) for order in orders] == [f"{number}\n" if number % 3 else "" for number in range(300)]
