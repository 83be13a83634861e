"""Signals: what a stop reaches, what it must never reach, and whether it came before the exit."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stoker.process import identity as identities
from tests.support.facts import until_async
from tests.support.launcher import alive

if TYPE_CHECKING:
    from tests.support.launcher import DaemonSide

TERM, KILL, STOP, USR1 = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1


async def end_of_tree(side: DaemonSide, run_id: str) -> None:
    if (await side.exited(run_id)).left:
        await side.gone(run_id)


def pids_of(side: DaemonSide, run_id: str) -> list[int]:
    return identities.scan(side.instance).runs.get(run_id, [])


async def test_term_when_the_worker_obeys_then_it_was_delivered_and_the_exit_is_a_stop(side: DaemonSide) -> None:
    started = await side.begin("sleep", "60")

    delivered = await side.client.signal(started.run_id, TERM)

    exited = await side.exited(started.run_id)
    assert delivered
    assert (exited.signal, exited.stopped) == (TERM, True)


async def test_signal_when_the_worker_has_ended_then_nothing_was_delivered(side: DaemonSide) -> None:
    exited = await side.complete("/bin/true")

    assert not await side.client.signal(exited.run_id, KILL)
    assert not exited.stopped


async def test_signal_when_sent_right_behind_the_launch_then_delivery_and_exit_agree(side: DaemonSide) -> None:
    for _ in range(100):
        run_id = side.launch("/bin/true")
        delivered = await side.client.signal(run_id, TERM)
        exited = await side.exited(run_id)

        assert exited.stopped == delivered
        assert delivered or exited.exit_code == 0


async def test_signal_when_the_run_is_unknown_then_nothing_was_delivered(side: DaemonSide) -> None:
    assert not await side.client.signal("1.1.unknown", KILL)


async def test_signal_when_its_number_is_none_then_only_this_connection_suffers(side: DaemonSide) -> None:
    started = await side.begin("sleep", "60")

    with pytest.raises(ConnectionError):
        await side.client.signal(started.run_id, 12_345)

    await side.connect()
    assert [run.run_id for run in await side.client.list_runs()] == [started.run_id]


async def test_signal_when_it_does_not_ask_for_the_end_then_the_exit_is_the_workers_own(side: DaemonSide) -> None:
    run_id = side.launch("sh", "-c", "trap 'exit 3' USR1; echo up; while :; do sleep 0.01; done")
    await side.log_says(run_id, "up")

    delivered = await side.client.signal(run_id, USR1, "main")

    exited = await side.exited(run_id)
    assert delivered
    assert (exited.exit_code, exited.stopped) == (3, False)


async def test_signal_when_its_scope_is_main_then_children_do_not_get_it(side: DaemonSide) -> None:
    run_id = side.launch("sh", "-c", "trap 'kill $!; exit 5' TERM; sleep 60 & echo up; wait")
    await side.log_says(run_id, "up")

    await side.client.signal(run_id, TERM, "main")

    assert (await side.exited(run_id)).exit_code == 5


async def test_term_when_the_worker_stopped_itself_then_it_ends(side: DaemonSide) -> None:
    run_id = side.launch("sh", "-c", "kill -STOP $$; sleep 60")
    started = await side.started(run_id)
    await until_async(lambda: (s := identities.read_stat(started.pid)) is not None and s.state == "T")

    await side.client.signal(run_id, TERM)

    assert (await side.exited(run_id)).signal == TERM


async def test_stop_when_delivered_then_the_worker_is_not_woken(side: DaemonSide) -> None:
    started = await side.begin("sleep", "60")

    await side.client.signal(started.run_id, STOP)

    await until_async(lambda: (s := identities.read_stat(started.pid)) is not None and s.state == "T")
    assert alive(started.pid)


async def test_kill_when_the_worker_ignores_term_then_it_ends(side: DaemonSide) -> None:
    run_id = side.launch("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await side.log_says(run_id, "up")
    assert await side.client.signal(run_id, TERM)
    assert [run.exit for run in await side.client.list_runs()] == [None]

    await side.client.signal(run_id, KILL)

    exited = await side.exited(run_id)
    assert (exited.signal, exited.stopped) == (KILL, True)


HIDING = {
    "child": "sleep 61 & echo up; wait",
    "other session": "setsid sleep 61 & setsid setsid sleep 61 & echo up; wait",
    "emptied environment": "env -i setsid sleep 61 & env -i sleep 61 & echo up; wait",
    "daemon": "(setsid sh -c 'sleep 61 & sleep 61' &) ; (env -i setsid sleep 61 &) ; echo up; sleep 61",
    "job control": "set -m; sleep 61 & sleep 61 & echo up; wait",
    "stopped": "setsid sh -c 'kill -STOP $$; sleep 61' & echo up; wait",
}


@pytest.mark.parametrize("signum", [TERM, KILL], ids=["TERM", "KILL"])
@pytest.mark.parametrize("script", HIDING.values(), ids=HIDING.keys())
async def test_signal_when_the_tree_hides_then_every_process_of_it_ends(
    side: DaemonSide, script: str, signum: int
) -> None:
    run_id = side.launch("sh", "-c", script)
    await side.log_says(run_id, "up")
    below = await until_async(lambda: side.launcher.children(recursive=True))

    await side.client.signal(run_id, signum)
    await end_of_tree(side, run_id)

    assert len(below) > 1
    assert side.launcher.children(recursive=True) == []


async def test_term_when_the_tree_is_hit_then_each_process_gets_it_once(side: DaemonSide) -> None:
    counting = "trap 'echo got' TERM; echo up; i=0; while [ $i -lt 30 ]; do sleep 0.02; i=$((i+1)); done"
    run_id = side.launch("sh", "-c", f"setsid sh -c \"{counting}\" & ({counting}) & {counting}; wait")
    await until_async(lambda: side.log(run_id).exists() and side.log(run_id).read_text().count("up") == 3)

    await side.client.signal(run_id, TERM)
    await end_of_tree(side, run_id)

    assert side.log(run_id).read_text().count("got") == 3


# Each process lives for a moment and leaves a child in a session of its own: no pid stays long enough to be listed.
RUNNER = "import os\nfor _ in range(4): os.fork()\nprint('up', flush=True)\nwhile True:\n if os.fork(): os._exit(0)\n os.setsid()"


async def test_kill_when_the_tree_runs_away_by_forking_then_all_of_it_ends(side: DaemonSide) -> None:
    run_id = side.launch(sys.executable, "-I", "-S", "-c", RUNNER)
    await side.log_says(run_id, "up")

    async def insist() -> None:
        while await side.client.signal(run_id, KILL):
            pass

    await asyncio.wait_for(insist(), 20)
    await end_of_tree(side, run_id)

    assert side.launcher.children(recursive=True) == []


async def test_signal_when_somebody_runs_the_same_command_then_they_never_get_it(side: DaemonSide) -> None:
    decoy = subprocess.Popen(["sleep", "60.125"], start_new_session=True)
    started = await side.begin("sleep", "60.125")
    other = await side.begin("sleep", "60.125")

    await side.client.signal(started.run_id, KILL)
    await side.exited(started.run_id)
    await side.client.list_runs()

    assert decoy.poll() is None
    assert alive(other.pid)
    decoy.kill()
    decoy.wait()
