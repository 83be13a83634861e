"""Launchers that live but cannot be reached: only a free lock proves one dead, whatever its socket does."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from stoker.background.tasks import BackgroundTasks
from stoker.core.tokens import Tokens
from stoker.executors import launcher_pool
from stoker.executors.attempt_cgroups import AttemptCgroups
from stoker.executors.environment import WorkerContext
from stoker.executors.launcher_pool import LauncherPool
from stoker.process.connection import dial
from stoker.process.launchers import LauncherDead
from stoker.process.work_files import WorkFiles
from stoker.telemetry.otel import Telemetry
from tests.support.facts import DEADLINE_S, until_async
from tests.support.instance import LauncherHost

if TYPE_CHECKING:
    import socket


def generations(host: LauncherHost, epoch: int) -> LauncherPool:
    context = WorkerContext(
        state_dir=host.state_dir,
        socket="/nowhere",
        instance=host.instance,
        epoch=epoch,
        base={},
        telemetry=Telemetry(),
        cgroups=AttemptCgroups(),
        tokens=Tokens("00" * 32),
        work_files=WorkFiles(host.state_dir),
        umask=0o022,
    )
    return LauncherPool(context, host.hear, lambda: None, BackgroundTasks(), stuck_ms=5_000)


def fill_backlog(host: LauncherHost, launcher: str) -> list[socket.socket]:
    """Connect until EAGAIN, as a daemon that restarts beside a stuck launcher does."""
    waiting: list[socket.socket] = []
    while True:
        try:
            waiting.append(dial(host.state_dir, launcher))
        except BlockingIOError:
            return waiting


async def test_caught_up_when_a_launcher_is_not_connected_yet_then_it_is_awaited(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_pool, "CATCH_UP_S", DEADLINE_S)  # a busy machine may need longer
    first = await host.start(epoch=1)
    await host.running(first, host.staying())
    os.kill(first.facts.pid, signal.SIGSTOP)
    pool = generations(host, epoch=2)
    taking = asyncio.ensure_future(pool.reconnect(first.launcher))
    await until_async(lambda: pool.silent(first.launcher), why="the first try")

    caught_up = asyncio.ensure_future(pool.caught_up())
    done, _ = await asyncio.wait([caught_up], timeout=0.1)
    os.kill(first.facts.pid, signal.SIGCONT)
    await caught_up

    assert not done
    assert taking.done()
    pool.close()


async def test_reconnect_when_the_backlog_is_full_then_the_launcher_is_silent_and_not_dead(host: LauncherHost) -> None:
    first = await host.start(epoch=1)
    order = host.staying()
    await host.running(first, order)
    os.kill(first.facts.pid, signal.SIGSTOP)
    waiting = fill_backlog(host, first.launcher)
    pool = generations(host, epoch=2)

    taking = asyncio.ensure_future(pool.reconnect(first.launcher))
    await until_async(lambda: pool.silent(first.launcher), why="the first try")
    done, _ = await asyncio.wait([taking], timeout=0.1)
    for sock in waiting:
        sock.close()
    os.kill(first.facts.pid, signal.SIGCONT)
    client = await taking

    assert not done
    assert [run.run_id for run in await client.list_runs()] == [order.run_id]
    pool.close()


async def test_reconnect_when_the_launcher_obeys_a_newer_daemon_then_it_lives_anyway(host: LauncherHost) -> None:
    first = await host.start(epoch=5)
    pool = generations(host, epoch=4)

    taking = asyncio.ensure_future(pool.reconnect(first.launcher))
    await until_async(lambda: pool.silent(first.launcher), why="the first try")
    done, _ = await asyncio.wait([taking], timeout=0.1)

    assert not done
    assert pool.silent(first.launcher)
    os.kill(first.facts.pid, signal.SIGKILL)
    with pytest.raises(LauncherDead):
        await taking


async def test_reconnect_when_its_socket_was_removed_then_it_lives_until_its_lock_is_free(host: LauncherHost) -> None:
    first = await host.start(epoch=1)
    (host.state_dir / "launchers" / f"{first.launcher}.sock").unlink()
    pool = generations(host, epoch=2)

    taking = asyncio.ensure_future(pool.reconnect(first.launcher))
    await until_async(lambda: pool.silent(first.launcher), why="the first try")
    done, _ = await asyncio.wait([taking], timeout=0.1)

    assert not done
    first.close()  # the launcher leaves: nothing runs and no daemon is connected
    with pytest.raises(LauncherDead):
        await taking
    assert not pool.silent(first.launcher)
