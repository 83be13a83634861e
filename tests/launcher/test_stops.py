"""Signals: the processes that a stop reaches, those it must not reach, and whether it came before the exit."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.raw_bytes import native
from stoker.process.identity import read_stat
from stoker.process.messages import Exited, RunState, Started
from tests.support import strace
from tests.support.facts import DEADLINE_S, until_async
from tests.support.instance import Stranger, children_of, ended, log_of
from tests.support.strace import Attached

if TYPE_CHECKING:
    from stoker.process.client import LauncherClient
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

TERM, KILL, STOP = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP


async def end_of_tree(host: LauncherHost, order: LaunchOrder) -> None:
    if (await host.heard(Exited, order)).left:
        await host.gone(order)


def is_stopped(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


async def test_signal_when_it_races_with_the_exit_then_delivery_and_outcome_agree(host: LauncherHost) -> None:
    client = await host.start()
    seen: set[bool] = set()
    for number in itertools.count():
        if number >= 200 and seen == {True, False}:  # both sides of the race were seen
            break
        order = host.order("/bin/true")
        client.launch([order])
        for _ in range(number % 8 * (1 + number // 100)):  # each round gives the launcher a little more time
            await client.list_runs()

        delivered = await client.signal(order.run_id, TERM)

        exited = await host.heard(Exited, order)
        assert exited.stopped == delivered
        assert delivered or exited.exit_code == 0
        seen.add(delivered)


async def test_death_when_the_launcher_got_sigterm_before_then_it_is_part_of_the_shutdown(
    host: LauncherHost,
) -> None:
    client = await host.start()
    killed, crashing, ours = host.staying(), host.staying(), host.staying()
    exiting = host.shell("trap 'exit 3' TERM; echo up; read _ < $0")
    for order in (killed, crashing, ours):
        await host.running(client, order)
    await host.running(client, exiting, "up")

    os.kill(client.facts.pid, TERM)
    later = host.staying()
    await host.running(client, later)
    await client.signal(ours.run_id, TERM)
    for order, signum in ((killed, TERM), (crashing, signal.SIGSEGV), (exiting, TERM), (later, TERM)):
        os.kill((await host.heard(Started, order)).pid, signum)

    in_shutdown = [(await host.heard(Exited, order)).shutdown for order in (killed, crashing, ours, exiting, later)]
    assert in_shutdown == [True, False, False, False, False]


async def test_signal_when_its_scope_is_main_then_children_do_not_get_it(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("sh -c 'echo up; read _ < $0' $0 & wait")
    await host.running(client, order, "up")

    await client.signal(order.run_id, TERM, "main")

    exited = await host.heard(Exited, order)
    assert (exited.signal, exited.left) == (TERM, 1)
    assert len(host.workers()) == 1


async def test_signal_when_its_scope_is_main_and_that_has_ended_then_nothing_is_delivered(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("sh -c 'echo up; read _ < $0' $0 & exit 0")
    await host.running(client, order, "up")
    await host.heard(Exited, order)

    assert not await client.signal(order.run_id, TERM, "main")
    assert await client.signal(order.run_id, TERM, "tree")


async def test_term_when_the_worker_stopped_itself_then_it_ends(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("kill -STOP $$; read _ < $0")
    started = await host.running(client, order)
    await until_async(lambda: is_stopped(started.pid), why="the worker's own stop")

    await client.signal(order.run_id, TERM)

    assert (await host.heard(Exited, order)).signal == TERM


async def test_stop_when_delivered_then_the_worker_is_not_woken_again(host: LauncherHost) -> None:
    client = await host.start()
    order = host.staying()
    started = await host.running(client, order)

    await client.signal(order.run_id, STOP)
    await until_async(lambda: is_stopped(started.pid), why="the stop")
    await client.signal(order.run_id, signal.SIGCONT)

    await until_async(lambda: not is_stopped(started.pid), why="the continuation")


async def test_kill_when_the_worker_ignores_term_then_it_ends(host: LauncherHost) -> None:
    client = await host.start()
    order = host.deaf()
    started = await host.running(client, order, "up")
    await client.signal(order.run_id, TERM)
    await client.list_runs()
    lived = not ended(started.pid)

    await client.signal(order.run_id, KILL)

    exited = await host.heard(Exited, order)
    assert lived
    assert (exited.signal, exited.stopped) == (KILL, True)


STAY = "sh -c 'read _ < $0' $0"
HIDING = {
    "children": f"{STAY} & {STAY} & echo up; wait",
    "other sessions": f"setsid {STAY} & setsid setsid {STAY} & echo up; wait",
    "emptied environments": f"env -i setsid {STAY} & env -i {STAY} & echo up; wait",
    "daemons": f"(setsid {STAY} &); (env -i setsid {STAY} &); echo up; wait; read _ < $0",
    "other groups": f"set -m; {STAY} & {STAY} & echo up; wait",
    "stopped ones": "setsid sh -c 'kill -STOP $$; read _ < $0' $0 & echo up; wait",
    "nested sessions": f"setsid sh -c 'setsid {STAY.replace(chr(39), chr(34))} & wait' $0 & echo up; wait",
}


@pytest.mark.parametrize("signum", [TERM, KILL], ids=["TERM", "KILL"])
@pytest.mark.parametrize("kind", HIDING)
async def test_signal_when_the_tree_hides_then_every_process_of_it_ends(
    host: LauncherHost, kind: str, signum: int
) -> None:
    client = await host.start()
    order = host.shell(HIDING[kind])
    await host.running(client, order, "up")
    await until_async(lambda: len(host.workers()) > 1, why="a tree")

    await client.signal(order.run_id, signum)
    await end_of_tree(host, order)

    assert await until_async(lambda: not host.workers(), why="the end of the tree")


async def test_signal_when_a_thread_started_the_child_then_it_is_found_too(host: LauncherHost) -> None:
    script = (
        "import os, sys, threading\n"
        "def start():\n"
        "    os.posix_spawn('/bin/sh', ['sh', '-c', 'echo up; read _ < $0', sys.argv[1]], {}, setsid=True)\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=start).start()\n"
    )
    client = await host.start()
    order = host.python(script)
    started = await host.running(client, order, "up")
    (child,) = [pid for pid in host.workers() if pid != started.pid]

    await client.signal(order.run_id, TERM)

    await until_async(lambda: ended(child), why="the end of the thread's child")


async def test_term_when_a_tree_has_many_sessions_then_each_process_gets_it_once(host: LauncherHost) -> None:
    counting = host.home / "counting"
    counting.write_text(f"trap 'echo got' TERM; echo up; while :; do read _ < {host.never}; done 2> /dev/null\n")
    client = await host.start()
    order = host.shell(f"setsid sh {counting} & sh {counting} & exec sh {counting}")
    await host.running(client, order)
    await until_async(lambda: log_of(order).count("up") == 3, why="three processes")

    for number in (1, 2):  # a process that got the first twice has printed so by the time that all got the second
        await client.signal(order.run_id, TERM)
        await until_async(lambda number=number: log_of(order).count("got") >= 3 * number, why="it")  # type: ignore[misc]
    await client.signal(order.run_id, KILL)
    await end_of_tree(host, order)

    assert log_of(order).count("got") == 6


# Each process lives for a moment and leaves a child in a session of its own, so no pid lasts until it is listed.
RUNNERS = """\
import os
for _ in range(4):
    os.fork()
print("up", flush=True)
while True:
    os.getcwd()  # raises once the test removes the directory, which ends them
    if os.fork():
        os._exit(0)
    os.setsid()
"""
# A bound, so that a launcher that lets zombies pile up does not use up the host's pids.
LINKS = 4_000
CHAIN = f"""\
import os, sys
print("up", flush=True)
for _ in range({LINKS}):
    if os.fork():
        os._exit(0)
    os.setsid()
open(sys.argv[1]).read()
"""


async def insist(host: LauncherHost, client: LauncherClient, order: LaunchOrder) -> None:
    """SIGKILL again and again until the run is over, as the ladder does."""
    while await host.state(client, order) is not RunState.ENDED:
        await client.signal(order.run_id, KILL)


async def test_kill_when_the_tree_runs_away_by_forking_then_all_of_it_ends(host: LauncherHost) -> None:
    client = await host.start()
    order = host.python(RUNNERS)
    await host.running(client, order, "up")

    await asyncio.wait_for(insist(host, client, order), DEADLINE_S)

    assert await until_async(lambda: not host.workers(), why="the end of all of them")


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
async def test_kill_when_a_tree_forks_faster_than_it_is_read_then_no_zombies_pile_up(
    host: LauncherHost,
) -> None:
    client = await host.start()
    order, trace, most = host.python(CHAIN), host.home / "trace", 0
    slow = Attached(client.facts.pid, trace, "trace=openat", "inject=openat:delay_enter=2ms")
    await host.running(client, order, "up")

    killing = asyncio.ensure_future(insist(host, client, order))
    while not killing.done():
        most = max(most, len(children_of(client.facts.pid)))
        await asyncio.sleep(0)
    slow.detach()

    await killing
    assert trace.read_text().count("(DELAYED)") > 10
    assert most < LINKS * 3 // 4  # some are normal while the launcher waits for a processor; nearly LINKS are not


async def test_signal_when_others_run_the_same_command_then_they_never_get_it(host: LauncherHost) -> None:
    client = await host.start()
    order, other = host.staying(), host.staying()
    await host.running(client, order)
    neighbour = await host.running(client, other)
    decoy = Stranger(host, *map(native, order.argv))
    await until_async(lambda: same_command(decoy.pid, neighbour.pid), why="the decoy")

    await client.signal(order.run_id, TERM)
    await client.signal(order.run_id, KILL)
    await host.heard(Exited, order)
    await client.list_runs()

    assert not decoy.ended()
    assert not ended(neighbour.pid)


def same_command(pid: int, other: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes() == Path(f"/proc/{other}/cmdline").read_bytes()
