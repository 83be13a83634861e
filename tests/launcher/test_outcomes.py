"""Without a daemon: outcomes are kept, written to disk and reported again, and an idle launcher leaves."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.process.launchers import find_launchers
from stoker.process.messages import Exited, RunState
from stoker.process.outcomes import read_outcomes
from tests.support import strace
from tests.support.facts import until_async
from tests.support.strace import Attached, calls_of

if TYPE_CHECKING:
    from stoker.process.client import LauncherClient
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

# Ends with code 4 as soon as the test writes to the FIFO.
ON_CALL = "read _ < {}; exit 4"


def call(fifo: Path) -> None:
    fifo.write_text("now\n")


def on_call(host: LauncherHost, name: str) -> tuple[LaunchOrder, Path]:
    """A worker that ends once the test writes to its FIFO."""
    fifo = host.home / name
    os.mkfifo(fifo)
    return host.shell(ON_CALL.format(fifo)), fifo


def written(host: LauncherHost) -> dict[str, Exited]:
    return {exited.run_id: exited for _, outcomes in read_outcomes(host.roots) for exited in outcomes}


async def ended_without_daemon(host: LauncherHost) -> tuple[LauncherClient, LaunchOrder, LaunchOrder]:
    """The next daemon, a run that goes on, and one that ended while no daemon was connected."""
    client = await host.start(epoch=1)
    staying, (order, fifo) = host.staying(), on_call(host, "a")
    await host.running(client, staying)
    await host.running(client, order)
    client.close()
    call(fifo)
    await until_async(lambda: order.run_id in written(host))
    return await host.reconnect(client.launcher, epoch=2), staying, order


async def test_outcome_when_no_daemon_is_there_then_it_is_written_and_the_next_gets_it(host: LauncherHost) -> None:
    again, staying, order = await ended_without_daemon(host)

    runs = {run.run_id: run for run in await again.list_runs()}
    assert runs[order.run_id].exit == written(host)[order.run_id]
    assert written(host)[order.run_id].exit_code == 4
    assert runs[staying.run_id].state is RunState.RUNNING


async def test_outcome_when_a_worker_put_a_fifo_in_place_of_the_log_then_it_is_kept(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    order, fifo = on_call(host, "a")
    await host.running(client, order)
    errors = host.state_dir / "launchers" / f"{client.launcher}.err"
    os.mkfifo(host.state_dir / "outcomes" / f"{client.launcher}.log")

    client.close()
    call(fifo)
    await until_async(lambda: "outcomes are not written" in errors.read_text())

    again = await host.reconnect(client.launcher, epoch=2)
    (run,) = await again.list_runs()
    assert run.exit is not None
    assert (run.run_id, run.exit.exit_code) == (order.run_id, 4)


async def test_outcome_when_the_daemon_goes_before_it_acknowledged_then_it_is_written(host: LauncherHost) -> None:
    client = await host.start()
    settled, unsettled = host.order("/bin/true"), host.order("/bin/false")
    await host.run(client, settled)
    await host.run(client, unsettled)
    client.acknowledge([settled.run_id])

    client.close()

    await until_async(lambda: find_launchers(host.roots).alive == [])
    assert list(written(host)) == [unsettled.run_id]


async def test_outcome_when_its_ack_waits_behind_many_orders_then_it_is_not_written(
    host: LauncherHost,
) -> None:
    client = await host.start()
    settled, orders = host.order("/bin/true"), [host.order("/bin/true") for _ in range(100)]
    await host.run(client, settled)
    client.launch(orders)
    client.acknowledge([settled.run_id])

    client.close()

    await until_async(lambda: find_launchers(host.roots).alive == [])
    assert set(written(host)) == {order.run_id for order in orders}


async def test_outcome_when_a_daemon_is_there_then_nothing_is_written(host: LauncherHost) -> None:
    client = await host.start()

    await host.run(client, host.order("/bin/true"))
    await client.list_runs()

    assert read_outcomes(host.roots) == []


async def test_outcome_when_its_tree_still_lives_then_it_is_written_once_that_is_gone(host: LauncherHost) -> None:
    client = await host.start()
    fifo = host.home / "b"
    os.mkfifo(fifo)
    order = host.shell(f"sh -c 'read _ < {fifo}' $0 & exit 6")
    await host.run(client, order)
    (host.state_dir / "outcomes").rmdir()  # a write would now fail, with an error on stderr

    client.close()
    await until_async(lambda: client.lost)
    assert not (host.state_dir / "launchers" / f"{client.launcher}.err").read_text()
    (host.state_dir / "outcomes").mkdir()
    call(fifo)

    await until_async(lambda: order.run_id in written(host))
    assert (written(host)[order.run_id].exit_code, written(host)[order.run_id].left) == (6, 0)


async def test_outcome_when_acknowledged_after_it_was_written_then_the_launcher_forgets_it(
    host: LauncherHost,
) -> None:
    again, staying, order = await ended_without_daemon(host)

    again.acknowledge([order.run_id])

    assert [run.run_id for run in await again.list_runs()] == [staying.run_id]


async def test_outcome_when_the_disk_does_not_take_it_then_it_is_tried_again(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("/bin/false")
    await host.run(client, order)
    directory = host.state_dir / "outcomes"
    directory.rmdir()

    client.close()
    errors = host.state_dir / "launchers" / f"{client.launcher}.err"
    await until_async(lambda: "outcomes are not written" in errors.read_text())
    alive = find_launchers(host.roots).alive
    directory.mkdir()

    await until_async(lambda: order.run_id in written(host))
    assert alive == [client.launcher]


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
async def test_outcome_when_it_is_written_then_file_and_directory_are_synced(host: LauncherHost) -> None:
    client = await host.start()
    await host.run(client, host.order("/bin/false"))
    trace = host.home / "trace"
    attached = Attached(client.facts.pid, trace, "trace=fsync,write")

    client.close()
    await host.gone_from_proc(client.facts.pid)
    attached.detach()

    log = f"{client.launcher}.log"
    calls = [(call.syscall, call.file) for call in calls_of(trace) if call.file in {log, "outcomes"}]
    assert calls == [("write", log), ("fsync", log), ("fsync", "outcomes")]


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
@pytest.mark.parametrize(
    "fault",
    ["openat:error=ENOSPC:when=1", "write:error=ENOSPC:when=1", "fsync:error=EIO:when=1", "fsync:error=EIO:when=2"],
    ids=["no room for the file", "no room for the line", "no sync of the file", "no sync of the directory"],
)
async def test_outcome_when_the_disk_fails_then_it_is_written_before_the_launcher_leaves(
    host: LauncherHost, fault: str
) -> None:
    client = await host.start()
    order, trace = host.order("/bin/false"), host.home / "trace"
    await host.run(client, order)
    attached = Attached(client.facts.pid, trace, f"trace={fault.partition(':')[0]}", f"inject={fault}")

    client.close()

    await host.gone_from_proc(client.facts.pid)
    attached.detach()
    assert [call.injected for call in calls_of(trace)].count(True) == 1
    ((_, outcomes),) = read_outcomes(host.roots)
    assert set(outcomes) == {host.first_report(Exited, order)}


async def test_outcome_when_a_line_is_read_then_it_equals_the_message_on_the_socket(host: LauncherHost) -> None:
    client = await host.start()
    order = host.order("no-such-command")
    await host.run(client, order)

    client.close()
    await until_async(lambda: order.run_id in written(host))

    (path, outcomes), *others = read_outcomes(host.roots)
    assert (path.stem, others) == (client.launcher, [])
    assert outcomes == [host.first_report(Exited, order)]
    assert json.loads(path.read_text())["op"] == "exit"


# --- leaving


async def test_launcher_when_the_daemon_goes_and_nothing_runs_then_it_leaves_no_trace(
    host: LauncherHost,
) -> None:
    client = await host.start()
    order = host.order("/bin/true")
    await host.run(client, order)
    client.acknowledge([order.run_id])

    client.close()

    await host.gone_from_proc(client.facts.pid)
    assert [path.name for path in (host.state_dir / "launchers").iterdir()] == [f"{client.launcher}.err"]
    assert not Path(order.log).exists()


async def test_launcher_when_a_daemon_is_connected_then_it_stays_though_nothing_runs(host: LauncherHost) -> None:
    client = await host.start()

    os.kill(client.facts.pid, signal.SIGTERM)

    assert await client.list_runs() == []
    assert find_launchers(host.roots).alive == [client.launcher]


async def test_launcher_when_it_gets_sigterm_then_it_stays_until_its_workers_have_ended(host: LauncherHost) -> None:
    client = await host.start()
    order, fifo = on_call(host, "d")
    await host.running(client, order)
    client.close()

    os.kill(client.facts.pid, signal.SIGTERM)
    state = Path(f"/proc/{client.facts.pid}/status")
    await until_async(lambda: "SigPnd:\t0000000000000000" in state.read_text())
    call(fifo)

    await host.gone_from_proc(client.facts.pid)
    assert written(host)[order.run_id].exit_code == 4


async def test_launcher_when_daemons_come_and_go_while_workers_end_then_no_outcome_is_lost(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    staying, pairs = host.staying(), [on_call(host, f"e{number}") for number in range(20)]
    client.launch([staying, *(order for order, _ in pairs)])
    await client.list_runs()

    for number, (_, fifo) in enumerate(pairs):
        client.close()
        call(fifo)
        client = await host.reconnect(client.launcher, epoch=2 + number)

    over: dict[str, int | None] = {}
    while len(over) < len(pairs):
        runs = await client.list_runs()
        over = {run.run_id: run.exit.exit_code for run in runs if run.exit is not None and run.state is RunState.ENDED}
    assert over == {order.run_id: 4 for order, _ in pairs}
