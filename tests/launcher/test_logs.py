"""Logs of attempts: made by nobody else, bounded while they are written, handed on when nothing is in them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stoker.process.messages import Exited, Refusal, Started
from tests.support.facts import until_async
from tests.support.instance import log_of

if TYPE_CHECKING:
    from stoker.process.client import LauncherClient
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

KIB = 1024
MIB = 1024 * KIB
BOUND = MIB
# Numbered lines of 64 bytes, so that each says at what offset it belongs; then it waits to be called.
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
    """Head and tail say where they stand, between them is nothing."""
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

    assert refused.why is Refusal.LOG_EXISTS
    assert host.count(Started) == 0
    assert path.read_text() == "of a run that the database has forgotten\n"


async def test_log_when_a_worker_floods_it_and_goes_on_then_the_disk_is_bounded_and_offsets_stay(
    host: LauncherHost,
) -> None:
    client = await host.start()
    order = flooding(host, 24 * MIB, stay=True)
    await host.running(client, order)

    await until_async(lambda: Path(order.log).stat().st_size == 24 * MIB)
    await until_async(lambda: disk_bytes(order) <= BOUND)

    assert_offsets_are_valid(order, 24 * MIB)


async def test_log_when_a_short_job_floods_it_then_it_is_bounded_at_the_exit(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, 8 * MIB, stay=False)

    exited = await host.run(client, order)

    assert exited.log_bytes == 8 * MIB
    assert disk_bytes(order) <= BOUND
    assert_offsets_are_valid(order, 8 * MIB)


async def test_log_when_no_daemon_is_there_then_it_is_bounded_all_the_same(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, 24 * MIB, stay=True)
    client.launch([order])
    await client.list_runs()
    client.close()

    await until_async(lambda: Path(order.log).exists() and Path(order.log).stat().st_size == 24 * MIB)

    await until_async(lambda: disk_bytes(order) <= BOUND)


async def test_log_when_it_stays_below_its_bound_then_nothing_is_taken_out(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, BOUND // 2, stay=False)

    await host.run(client, order)

    assert b"\0" not in Path(order.log).read_bytes()


async def test_log_when_another_file_took_its_path_then_that_one_is_left_alone(host: LauncherHost) -> None:
    client = await host.start()
    order = flooding(host, 0, stay=True)
    await host.running(client, order)
    path = Path(order.log)
    path.unlink()
    path.write_bytes(b"x" * 4 * BOUND)

    os.kill(host.workers()[0], 9)

    exited = await host.heard(Exited, order)
    assert exited.log_bytes == 0
    assert path.read_bytes() == b"x" * 4 * BOUND


async def test_log_when_nothing_could_be_executed_then_none_is_left(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("no-such-command")

    await host.run(client, order)

    await until_async(lambda: not Path(order.log).parent.exists())


# --- the shelf: an empty log becomes the next run's


async def settle(host: LauncherHost, client: LauncherClient, order: LaunchOrder) -> int:
    """Run it to its acknowledged end; the inode of its log."""
    client.launch([order])
    await host.heard(Started, order)
    inode = Path(order.log).stat().st_ino
    await host.heard(Exited, order)
    client.acknowledge([order.run_id])
    await client.list_runs()
    return inode


async def test_shelf_when_a_log_is_empty_then_the_next_run_gets_it_by_a_new_name(host: LauncherHost) -> None:
    client = await host.start()
    first, second = host.order("/bin/true"), host.order("echo", "second")

    inode = await settle(host, client, first)
    await host.run(client, second)

    assert Path(second.log).stat().st_ino == inode
    assert log_of(second) == "second\n"
    assert Path(second.log).stat().st_mode & 0o777 == 0o600
    assert not Path(first.log).parent.exists()


async def test_shelf_when_a_run_is_not_acknowledged_then_its_log_stays(host: LauncherHost) -> None:
    client = await host.start()
    first, second = host.order("/bin/true"), host.order("/bin/true")
    await host.run(client, first)

    await host.run(client, second)

    assert Path(first.log).exists()
    assert Path(first.log).stat().st_ino != Path(second.log).stat().st_ino


async def test_shelf_when_a_log_has_something_in_it_then_it_stays(host: LauncherHost) -> None:
    client = await host.start()
    first, second = host.order("echo", "first"), host.order("echo", "second")

    await settle(host, client, first)
    await host.run(client, second)

    assert (log_of(first), log_of(second)) == ("first\n", "second\n")


async def test_shelf_when_the_log_of_another_attempt_is_beside_it_then_that_one_stays(host: LauncherHost) -> None:
    client = await host.start()
    first, again = host.order("echo", "first"), host.order("/bin/true", ordinal=2)
    await settle(host, client, first)
    await settle(host, client, again)
    other = host.order("echo", "other", ordinal=1)
    other = replace(other, log=str(Path(other.log).with_name("2.log")))

    await host.run(client, other)

    assert log_of(first) == "first\n"
    assert log_of(other) == "other\n"
    assert not Path(again.log).exists()


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND], ids=["reads it", "writes to it"])
async def test_shelf_when_somebody_has_it_open_then_the_next_run_gets_another(host: LauncherHost, mode: int) -> None:
    client = await host.start()
    first, second = host.order("/bin/true"), host.order("echo", "second")
    client.launch([first])
    await host.heard(Exited, first)
    late = os.open(first.log, mode)
    inode = os.fstat(late).st_ino
    client.acknowledge([first.run_id])

    await host.run(client, second)

    assert Path(second.log).stat().st_ino != inode
    assert log_of(second) == "second\n"
    assert os.fstat(late).st_size == 0
    os.close(late)


async def test_shelf_when_nobody_comes_for_it_then_it_is_removed(host: LauncherHost) -> None:
    client = await host.start()
    first = host.order("/bin/true")

    await settle(host, client, first)

    await until_async(lambda: not Path(first.log).parent.exists())
    second = host.order("echo", "second")
    await host.run(client, second)
    assert log_of(second) == "second\n"


async def test_shelf_when_the_launcher_was_held_up_then_nothing_is_handed_on(host: LauncherHost) -> None:
    client = await host.start()
    first, second = host.order("/bin/true"), host.order("echo", "second")
    inode = await settle(host, client, first)
    kept = os.open(first.log, os.O_PATH)  # holds no lease up, but keeps the number from being given to a new file
    os.kill(client.facts.pid, signal.SIGSTOP)
    pause_over = asyncio.Event()
    asyncio.get_running_loop().call_later(1.2, pause_over.set)  # longer than anything may lie on the shelf
    await pause_over.wait()

    client.launch([second])
    await asyncio.sleep(0)
    os.kill(client.facts.pid, signal.SIGCONT)
    await host.heard(Exited, second)

    assert Path(second.log).stat().st_ino != inode
    os.close(kept)


async def test_shelf_when_it_hands_on_then_the_new_owner_keeps_no_lease(host: LauncherHost) -> None:
    client = await host.start()
    await settle(host, client, host.order("/bin/true"))
    second = host.staying()
    await host.running(client, second)

    log = os.open(second.log, os.O_RDONLY | os.O_NONBLOCK)

    assert fcntl.fcntl(log, fcntl.F_GETLEASE) == fcntl.F_UNLCK
    os.close(log)


async def test_shelf_when_hundreds_of_short_jobs_follow_one_another_then_each_has_its_own_log(
    host: LauncherHost,
) -> None:
    client = await host.start()
    orders = [host.order("echo", str(number)) if number % 3 else host.order("/bin/true") for number in range(300)]
    for start in range(0, 300, 30):
        batch = orders[start : start + 30]
        client.launch(batch)
        for order in batch:
            await host.heard(Exited, order)
        client.acknowledge([order.run_id for order in batch])

    await until_async(lambda: len(list((host.state_dir / "logs" / "0").iterdir())) == 200)

    for number, order in enumerate(orders):
        assert log_of(order) == (f"{number}\n" if number % 3 else "")
