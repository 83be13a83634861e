"""Connections that break or do not read: the launcher never waits for one nor takes it for another."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from stoker.process.outcomes import read_outcomes
from tests.support import strace
from tests.support.facts import until, until_async
from tests.support.instance import ended, log_of
from tests.support.strace import Attached, calls_of

if TYPE_CHECKING:
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost


def frame(order: LaunchOrder, epoch: int) -> dict[str, object]:
    return {**msgspec.to_builtins(order), "epoch": epoch}


def sockets(pid: int) -> int:
    return sum(entry.is_socket() for entry in Path(f"/proc/{pid}/fd").iterdir())


async def test_peer_when_it_hangs_up_behind_its_hello_then_no_daemon_counts_as_connected(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    launcher = client.facts.pid
    busy, hasty = host.wire(client.launcher), host.wire(client.launcher)
    busy.hello(host.instance, epoch=2)
    os.kill(launcher, signal.SIGSTOP)
    busy.say(*(frame(host.order("/bin/true"), 2) for _ in range(100)))
    hasty.say({"op": "hello", "version": 1, "epoch": 3, "instance": host.instance})
    hasty.close()
    os.kill(launcher, signal.SIGCONT)

    assert await until_async(lambda: ended(launcher), why="the end of a launcher that nobody needs")


async def test_peer_when_it_never_reads_then_runs_go_on_and_every_outcome_is_kept(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    orders = [host.shell("echo said; exit 1") for _ in range(300)]
    deaf = host.wire(client.launcher)
    deaf.hello(host.instance, epoch=2)
    answered_beyond_any_buffer = [{"op": "list", "tag": tag, "run_ids": ["x" * 60_000]} for tag in range(40)]

    deaf.say(*answered_beyond_any_buffer, *(frame(order, 2) for order in orders))
    await until_async(lambda: log_of(orders[-1]), why="the last run")
    deaf.close()

    await until_async(lambda: ended(client.facts.pid), why="the end of the launcher")
    ((_, outcomes),) = read_outcomes(host.roots)
    assert {outcome.run_id for outcome in outcomes} == {order.run_id for order in orders}
    assert {outcome.exit_code for outcome in outcomes} == {1}


async def test_peer_when_its_number_is_used_again_then_its_late_words_do_not_harm_the_next(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    order = host.staying()
    await host.running(client, order)
    talker = host.wire(client.launcher)
    talker.hello(host.instance, epoch=2)
    talking = sockets(client.facts.pid)
    host.wire(client.launcher)  # takes the descriptor number of the first connection, so that the talker gets the next
    until(lambda: sockets(client.facts.pid) > talking, why="a silent connection")

    talker.say(*(frame(host.order("/bin/true"), 2) for _ in range(300)), {"op": "signal"})
    talker.close()
    until(lambda: sockets(client.facts.pid) == talking, why="the end of the talker, with its words still to be obeyed")
    again = await host.reconnect(client.launcher, epoch=3)

    held = {run.run_id for run in await again.list_runs()}
    assert order.run_id in held
    assert len(held) == 301


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
async def test_peer_when_the_epoll_has_no_room_for_it_then_it_is_hung_up_on_and_runs_go_on(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    order, trace = host.staying(), host.home / "trace"
    await host.running(client, order)
    attached = Attached(client.facts.pid, trace, "trace=epoll_ctl", "inject=epoll_ctl:error=ENOSPC:when=1")

    refused = host.wire(client.launcher)
    assert refused.hear() == []

    attached.detach()
    assert [call.injected for call in calls_of(trace)].count(True) == 1
    assert host.wire(client.launcher).hello(host.instance, epoch=2)["op"] == "hello"
    assert not ended(client.facts.pid)


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM"])
async def test_peer_when_a_frame_cannot_be_sent_then_it_is_hung_up_on_and_may_ask_again(
    host: LauncherHost, error: str
) -> None:
    client = await host.start(epoch=1)
    order, trace = host.shell("(setsid sh -c 'read _ < $0' $0 &); exit 3"), host.home / "trace"
    daemon = host.wire(client.launcher)
    daemon.hello(host.instance, epoch=2)
    attached = Attached(client.facts.pid, trace, "trace=sendto", f"inject=sendto:error={error}:when=1")

    daemon.say(frame(order, 2))
    assert daemon.hear() == []

    attached.detach()
    assert [call.injected for call in calls_of(trace)].count(True) == 1
    again = await host.reconnect(client.launcher, epoch=3)
    (run,) = await again.list_runs([order.run_id])
    assert run.started is not None
