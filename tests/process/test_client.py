"""The client of one launcher: answers, silence, loss."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stoker.core.job.model import OutcomeKind
from stoker.process.messages import (
    MAX_FRAME_BYTES,
    Exited,
    LauncherBack,
    LauncherLost,
    LauncherStuck,
    RunState,
    Started,
)
from stoker.process.outcomes import outcome_of, read_outcomes
from tests.support.facts import until_async
from tests.support.instance import log_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.process.client import LauncherClient
    from tests.support.instance import LauncherHost

STUCK_MS = 200


@contextmanager
def frozen(client: LauncherClient) -> Iterator[None]:
    """Stop the launcher, as if it hung in a dead file system."""
    os.kill(client.facts.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(client.facts.pid, signal.SIGCONT)


async def started(host: LauncherHost, stuck_ms: int) -> LauncherClient:
    """A launcher that owes no answer. Reports from a slow start are dropped."""
    client = await host.start(stuck_ms=stuck_ms)
    await client.list_runs()
    host.reports.clear()
    return client


async def test_client_when_an_awaited_answer_is_late_then_it_is_stuck_and_then_back(host: LauncherHost) -> None:
    client = await started(host, STUCK_MS)
    order = host.order("/bin/true")

    with frozen(client):
        client.launch([order])
        await until_async(lambda: host.count(LauncherStuck))
        stuck = client.stuck

    await host.heard(Exited, order)
    assert stuck
    assert not client.stuck
    kinds = [type(report) for _, report in host.reports]
    assert kinds[:2] == [LauncherStuck, LauncherBack]
    assert [kind for kind in kinds if kind not in kinds[:2]] == [Started, Exited]


async def test_client_when_it_owes_nothing_then_silence_is_no_fault(host: LauncherHost) -> None:
    client = await started(host, 40)

    with frozen(client):
        quiet = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, quiet.set)
        await quiet.wait()

    assert host.reports == []


async def test_client_when_it_stays_silent_then_it_is_reported_once(host: LauncherHost) -> None:
    client = await started(host, 40)

    with frozen(client):
        answer = client.list_runs()
        await until_async(lambda: host.count(LauncherStuck))
        longer = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, longer.set)
        await longer.wait()

    assert await answer == []
    assert host.count(LauncherStuck) == 1


async def test_client_when_the_launcher_is_killed_then_it_is_lost_once_and_answers_fail(
    host: LauncherHost,
) -> None:
    client = await host.start()
    os.kill(client.facts.pid, signal.SIGSTOP)
    answers: list[asyncio.Future[Any]] = [client.list_runs(), client.signal("1.1.aa", signal.SIGTERM)]
    await asyncio.sleep(0)

    os.kill(client.facts.pid, signal.SIGKILL)

    for answer in answers:
        with pytest.raises(ConnectionError):
            await answer
    with pytest.raises(ConnectionError):
        await client.list_runs()
    client.launch([host.order("/bin/true")])
    client.acknowledge(["1.1.aa"])
    assert client.lost
    assert [type(report) for _, report in host.reports] == [LauncherLost]


async def test_client_when_it_is_closed_twice_then_no_loss_is_reported(host: LauncherHost) -> None:
    client = await host.start()

    client.close()
    client.close()

    await host.gone_from_proc(client.facts.pid)
    assert host.reports == []


async def test_client_when_it_closes_behind_an_unread_order_then_that_starts_nothing(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("echo ran")

    with frozen(client):
        client.launch([order])
        client.close()
        await until_async(lambda: client._connection._transport is None, why="the end of the socket")

    (exited,) = await until_async(
        lambda: [exited for _, outcomes in read_outcomes(host.roots) for exited in outcomes],
        why="the outcome, written down",
    )
    assert (exited.run_id, exited.declined, log_of(order)) == (order.run_id, True, "")
    outcome = outcome_of(exited)
    assert (outcome.kind, outcome.transient) == (OutcomeKind.NEVER_STARTED, False)  # no shortage: nothing waits for it


async def test_list_when_it_follows_orders_then_it_is_a_barrier_behind_them(host: LauncherHost) -> None:
    client = await host.start()
    orders = [host.order("/bin/true") for _ in range(100)]

    client.launch(orders)
    listed = await client.list_runs([order.run_id for order in orders])

    assert {run.run_id for run in listed} == {order.run_id for order in orders}
    assert host.count(Started) == 100


async def test_launch_when_500_leave_in_one_batch_then_news_do_not_wait_for_the_last(host: LauncherHost) -> None:
    client = await host.start()
    orders = [host.order("/bin/true") for _ in range(500)]

    client.launch(orders)
    for order in orders:
        assert (await host.heard(Exited, order)).exit_code == 0

    reports = [report for _, report in host.reports]
    first_exit = next(number for number, report in enumerate(reports) if isinstance(report, Exited))
    assert host.count(Started) == host.count(Exited) == 500
    assert first_exit < 400


async def test_launch_when_the_batch_is_larger_than_a_frame_then_it_is_cut_and_all_arrives(
    host: LauncherHost,
) -> None:
    client = await host.start()
    text = "x" * 1_000_000
    orders = [host.order("wc", "-c", stdin=text) for _ in range(20)]

    client.launch(orders)

    for order in orders:
        assert (await host.heard(Exited, order)).exit_code == 0


async def test_launch_when_no_frame_holds_an_order_then_it_is_not_sent_and_the_others_are(host: LauncherHost) -> None:
    client = await host.start()
    staying, other = host.staying(), host.order("/bin/true")
    await host.running(client, staying)
    escaped = {f"V{number}": "\x01" * 60_000 for number in range(50)}  # six bytes each, in JSON

    refused = client.launch([host.order("/bin/true", env=escaped), other])
    await host.heard(Exited, other)

    assert ["bytes; a launcher takes 16777214" in str(error) for error in refused.values()] == [True]
    assert await host.state(client, staying) is RunState.RUNNING
    assert not client.lost


async def test_list_when_it_is_longer_than_an_order_may_be_then_it_is_heard(host: LauncherHost) -> None:
    client = await host.start()
    asked = [str(number) for number in range(450_000)]

    listed = await client.list_runs(asked)

    assert len(listed) == len(asked)
    assert len(msgspec.json.encode(listed)) > MAX_FRAME_BYTES


async def test_identity_when_a_run_began_then_it_is_of_this_boot_and_namespace(host: LauncherHost) -> None:
    client = await host.start()
    started = await host.running(client, host.staying())

    who = client.identity(started)

    assert (who.boot_id, who.pid_namespace) == (client.facts.boot_id, client.facts.pid_namespace)
    assert (who.pid, who.start_ticks, who.pidfs_inode) == (started.pid, started.start_ticks, started.pidfs_inode)
