"""The launcher while the host lacks descriptors or memory: it concludes nothing from that, and goes on later.

Each lack is injected by strace or is a real limit on the launcher; the limits of the tests' own process stay.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.job.limits import Limits
from stoker.process.messages import Exited, OrphanLog, RunState, Setup, Started
from tests.support import strace
from tests.support.descriptors import count_fds
from tests.support.facts import until_async
from tests.support.instance import ended, log_of
from tests.support.strace import Attached, calls_of, injected

if TYPE_CHECKING:
    from stoker.process.client import LauncherClient
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

# A child that shows its run only in its environment and in its mark.
FAR = "setsid sh -c 'echo far $$; read _ < $0' $0"

pytestmark = pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))


def stderr_of(host: LauncherHost, client: LauncherClient) -> str:
    return (host.state_dir / "launchers" / f"{client.launcher}.err").read_text()


def start_or_exit(host: LauncherHost, order: LaunchOrder) -> Started | Exited | None:
    return host.first_report(Started, order) or host.first_report(Exited, order)


def limit_open_files(client: LauncherClient, soft: int, hard: int) -> None:
    """Until it starts a worker: then it raises the soft limit to the hard one, which no process can raise again."""
    resource.prlimit(client.facts.pid, resource.RLIMIT_NOFILE, (soft, hard))


def open_files(client: LauncherClient) -> int:
    return count_fds(client.facts.pid)


# --- processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM"])
async def test_exit_when_the_owner_of_a_child_cannot_be_read_then_its_run_stays_open(
    host: LauncherHost, error: str
) -> None:
    client = await host.start()
    other, order, trace = host.staying(), host.shell(f"{FAR} & read _ < $0"), host.home / "trace"
    await host.running(client, other)
    await host.running(client, order, "far")
    child = int(log_of(order).split()[1])
    attached = Attached(client.facts.pid, trace, "trace=openat", f"inject=openat:error={error}:when=1..2")

    await client.signal(order.run_id, signal.SIGKILL, "main")
    exited = await host.heard(Exited, order)

    attached.detach()
    assert injected(trace) == 2
    assert exited.left
    assert not ended(child)
    await client.signal(order.run_id, signal.SIGKILL)
    await host.gone(order)
    assert ended(child)
    assert await host.state(client, other) is RunState.RUNNING


async def test_signal_when_the_children_cannot_be_read_then_it_is_answered_anyway(host: LauncherHost) -> None:
    client = await host.start()
    order, trace = host.staying(), host.home / "trace"
    await host.running(client, order)
    attached = Attached(client.facts.pid, trace, "trace=pread64", "inject=pread64:error=ENOMEM:when=1..2")

    delivered = await client.signal(order.run_id, signal.SIGTERM)

    exited = await host.heard(Exited, order)
    attached.detach()
    assert injected(trace) == 2
    assert delivered
    assert (exited.signal, exited.stopped) == (signal.SIGTERM, True)


async def test_death_when_its_signal_cannot_be_read_then_it_is_reported_anyway(host: LauncherHost) -> None:
    client = await host.start()
    trace, signalfd = host.home / "trace", Path("anon_inode:[signalfd]")
    attached = Attached(client.facts.pid, trace, "trace=read", "inject=read:error=EIO:when=1", path=signalfd)

    ends = [await host.run(client, host.shell("exit 7")) for _ in range(2)]

    attached.detach()
    assert injected(trace) == 1
    assert [end.exit_code for end in ends] == [7, 7]
    assert "the signal of a death cannot be read" in stderr_of(host, client)


async def test_list_when_the_children_cannot_be_read_then_it_is_answered_anyway(host: LauncherHost) -> None:
    client = await host.start()
    order, trace = host.staying(), host.home / "trace"
    await host.running(client, order)
    attached = Attached(client.facts.pid, trace, "trace=pread64", "inject=pread64:error=ENOMEM:when=1")

    state = await host.state(client, order)

    attached.detach()
    assert injected(trace) == 1
    assert state is RunState.RUNNING


async def test_signal_when_no_descriptor_is_left_for_a_child_then_that_is_reported(host: LauncherHost) -> None:
    client = await host.start()
    order, trace = host.shell(f"{FAR} & read _ < $0"), host.home / "trace"
    await host.running(client, order, "far")
    attached = Attached(client.facts.pid, trace, "trace=pidfd_open", "inject=pidfd_open:error=EMFILE")

    delivered = await client.signal(order.run_id, signal.SIGTERM)

    attached.detach()
    assert injected(trace) > 0
    assert delivered
    assert f"signal 15 reached a part of run {order.run_id}" in stderr_of(host, client)
    assert (await host.heard(Exited, order)).left
    await client.signal(order.run_id, signal.SIGKILL)
    await host.gone(order)


async def test_launch_when_many_runs_have_files_open_then_the_rest_stays_for_their_stop(host: LauncherHost) -> None:
    client = await host.start()
    limit_open_files(client, 64, 64)
    deep = host.shell("setsid sh -c 'setsid sh -c \"echo far $$; read _ < $0\" $0 & read _ < $0' $0 & read _ < $0")
    await host.running(client, deep, "far")
    orders = [host.staying() for _ in range(40)]
    client.launch(orders)
    ends = [await until_async(partial(start_or_exit, host, order)) for order in orders]

    refused = [end.spawn_error for end in ends if isinstance(end, Exited) and end.spawn_error is not None]
    delivered = await client.signal(deep.run_id, signal.SIGTERM)
    await host.heard(Exited, deep)

    assert refused
    assert {(error.errno, error.transient) for error in refused} == {(errno.EMFILE, True)}
    assert delivered
    assert await until_async(lambda: ended(int(log_of(deep).split()[1])), why="the end of the deepest process")
    assert "reached a part" not in stderr_of(host, client)


async def test_start_when_its_report_cannot_be_read_then_the_worker_is_not_denied(host: LauncherHost) -> None:
    client = await host.start()
    order, trace = host.shell("echo ran; exit 3", setup=Setup(nice=1)), host.home / "trace"
    attached = Attached(client.facts.pid, trace, "trace=read", "inject=read:error=EIO:when=1")

    exited = await host.run(client, order)

    attached.detach()
    assert injected(trace) == 1
    assert exited.spawn_error is None
    assert (exited.exit_code, log_of(order)) == (3, "ran\n")


# --- connections ------------------------------------------------------------------------------------------


async def test_listener_when_no_descriptor_is_left_then_it_is_tried_again_after_a_pause(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    trace = host.home / "trace"
    _, hard = resource.prlimit(client.facts.pid, resource.RLIMIT_NOFILE)
    attached = Attached(client.facts.pid, trace, "trace=accept4")
    limit_open_files(client, open_files(client), hard)
    began = time.monotonic()

    waiting = host.wire(client.launcher)
    await until_async(lambda: calls_of(trace), why="a connection that is not accepted")
    for _ in range(100):  # a turn of its loop each
        await client.list_runs()
    tries, seconds = len(calls_of(trace)), time.monotonic() - began

    attached.detach()
    assert tries <= 1 + seconds
    assert "connections wait: Too many open files" in stderr_of(host, client)
    limit_open_files(client, hard, hard)
    assert waiting.hello(host.instance, epoch=2)["op"] == "hello"


# --- output -----------------------------------------------------------------------------------------------


async def test_output_when_the_pipes_cannot_be_searched_then_they_are_later(host: LauncherHost) -> None:
    first = await host.start()
    order, trace = host.shell("echo before; cat $0; read _ < $0"), host.home / "trace"
    await host.running(first, order, "before")
    os.kill(first.facts.pid, signal.SIGKILL)
    await until_async(lambda: ended(first.facts.pid), why="the end of the launcher")
    second = await host.start(epoch=2)
    attached = Attached(second.facts.pid, trace, "trace=openat", "inject=openat:error=EMFILE:when=1")

    second.read_logs([OrphanLog(run_id=order.run_id, log=order.log, max_log_bytes=order.max_log_bytes)])
    await second.list_runs()

    attached.detach()
    assert injected(trace) == 1
    host.never.write_text("after\n")
    await until_async(lambda: log_of(order) == "before\nafter\n", why="the rest of the output")


@pytest.mark.parametrize("number", [1, 2])
async def test_start_when_its_log_or_pipe_cannot_be_examined_then_no_descriptor_stays_open(
    host: LauncherHost, number: int
) -> None:
    client, trace = await host.start(), host.home / "trace"
    await host.run(client, host.shell(":"))
    before = open_files(client)
    attached = Attached(client.facts.pid, trace, "trace=newfstatat", f"inject=newfstatat:error=EIO:when={number}")

    exited = await host.run(client, host.shell(":"))

    attached.detach()
    assert injected(trace) == 1
    assert exited.spawn_error is not None
    assert (exited.spawn_error.errno, exited.spawn_error.transient) == (errno.EIO, True)
    assert open_files(client) == before


# --- limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_start_when_the_launcher_sets_no_limits_then_the_job_is_not_at_fault(
    host: LauncherHost, number: int
) -> None:
    """It reads and sets the limits for the mark of the run and for open files, by the same syscall."""
    client, trace = await host.start(), host.home / "trace"
    order = host.shell("exit 3")
    attached = Attached(client.facts.pid, trace, "trace=prlimit64", f"inject=prlimit64:error=EPERM:when={number}")

    exited = await host.run(client, order)

    attached.detach()
    assert injected(trace) == 1
    assert exited.exit_code == 3 or (exited.spawn_error is not None and exited.spawn_error.transient)


async def test_start_when_a_limit_of_the_job_is_refused_then_it_is_named(
    host: LauncherHost,
) -> None:
    """The child reads and sets the limit of open files first, then it reads its own limit twice: soft and hard."""
    client, trace = await host.start(), host.home / "trace"
    order = host.shell("exit 3", setup=Setup(limits=Limits(processes=20)))
    attached = Attached(client.facts.pid, trace, "trace=prlimit64", "inject=prlimit64:error=EPERM:when=5")

    exited = await host.run(client, order)

    attached.detach()
    assert injected(trace) == 1
    assert exited.spawn_error is not None
    assert (exited.spawn_error.errno, exited.spawn_error.transient) == (errno.EPERM, False)
    assert "limit processes 20" in exited.spawn_error.error
