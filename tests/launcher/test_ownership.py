"""The owner of a process in hard cases: pids that are used again, other users, a Stoker inside a Stoker."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from stoker.launcher.runs import CLOSING, ENDED, Run, Runs
from stoker.process.messages import Exited, RunState
from tests.support import foreign, reuse
from tests.support.facts import until, until_async
from tests.support.instance import end_of, ended, log_of, pid_of, with_setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.process.client import LauncherClient
    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

FAR = "setsid sh -c 'echo far $$; read _ < $0' $0"
UNMARKED = "prlimit --rttime=unlimited"
CGROUPS = Path("/sys/fs/cgroup/unified")
needs_pids = pytest.mark.skipif(reuse.why_not() is not None, reason=str(reuse.why_not()))
needs_users = pytest.mark.skipif(foreign.why_not() is not None, reason=str(foreign.why_not()))
needs_cgroups = pytest.mark.skipif(
    not (CGROUPS / "cgroup.procs").exists() or not os.access(CGROUPS, os.W_OK),
    reason=f"{CGROUPS} is not ours to divide",
)


async def start_with_pid(host: LauncherHost, client: LauncherClient, pid: int) -> LaunchOrder:
    """A run whose main process has that pid, which another process had before."""
    while True:
        until(lambda: not (reuse.PROC / str(pid)).exists(), why="a free pid")
        elsewhere = reuse.NS_LAST_PID.read_text()
        reuse.NS_LAST_PID.write_text(str(pid - 1))
        order = host.staying()
        started = await host.running(client, order)
        reuse.NS_LAST_PID.write_text(elsewhere)
        if started.pid == pid:
            return order
        await client.signal(order.run_id, signal.SIGKILL)
        await host.heard(Exited, order)


@needs_pids
async def test_signal_when_a_later_run_has_the_pid_of_a_closing_one_then_it_goes_on(host: LauncherHost) -> None:
    client = await host.start()
    closing = host.shell(f"( {FAR} & ) ; exit 0")
    main = (await host.running(client, closing, "far")).pid
    await host.heard(Exited, closing)
    far_has_ended = end_of(pid_of(closing, "far"))
    later = await start_with_pid(host, client, main)

    await client.signal(closing.run_id, signal.SIGTERM)
    await client.signal(closing.run_id, signal.SIGKILL)

    await host.gone(closing)
    assert far_has_ended()
    assert not ended(main)
    assert await host.state(client, later) is RunState.RUNNING


def test_session_when_two_runs_had_its_pid_then_it_is_the_newer_ones() -> None:
    runs, older, newer = Runs(), *(Run(run_id, 4_000, None, None) for run_id in ("1.1.00", "2.1.00"))
    for run in (older, newer):
        runs.hold(run)
        del runs.mains[run.pid]
        run.state = CLOSING

    assert runs.of_session(4_000) is newer
    newer.state = ENDED
    assert runs.of_session(4_000) is None
    assert runs.acknowledge(["2.1.00"]) == [newer]
    assert runs.of_session(4_000) is None


async def test_stray_when_it_is_a_job_of_another_stoker_then_no_end_of_others_stops_it(host: LauncherHost) -> None:
    client = await host.start()
    unrelated = host.staying()
    inner = f"STOKER_INSTANCE=0123456789abcdef STOKER_RUN_ID={unrelated.run_id}"
    outer = host.shell(f"( {inner} {UNMARKED} {FAR} & ) ; read _ < $0")
    await host.running(client, outer, "far")
    await host.running(client, unrelated)
    await client.list_runs()

    await client.signal(unrelated.run_id, signal.SIGKILL)
    await host.heard(Exited, unrelated)
    await client.list_runs()

    assert not ended(pid_of(outer, "far"))
    assert await host.state(client, outer) is RunState.RUNNING


@contextmanager
def leaf_of(host: LauncherHost) -> Iterator[Path]:
    """A cgroup with another one below it."""
    leaf = CGROUPS / f"stoker-test-{host.instance}"
    (leaf / "below").mkdir(parents=True)
    try:
        yield leaf
    finally:
        (leaf / "cgroup.kill").write_text("1")
        until(lambda: "populated 0" in (leaf / "cgroup.events").read_text(), why="an empty cgroup")
        (leaf / "below").rmdir()
        leaf.rmdir()


@needs_cgroups
async def test_stray_when_it_is_in_a_cgroup_below_the_leaf_then_its_run_is_not_over(host: LauncherHost) -> None:
    client = await host.start()
    await host.running(client, host.staying())  # a second run that might own it
    nameless = "echo $$ > $1/below/cgroup.procs; echo nameless $$; read _ < $0"
    script = f"( {UNMARKED} setsid env -i sh -c '{nameless}' $0 $1 & ); until grep -qs nameless $2; do :; done; exit 3"
    with leaf_of(host) as leaf:
        order = host.order("/bin/sh", "-c", script, str(host.never), str(leaf), **with_setup(cgroup=str(leaf)))
        order = replace(order, argv=(*order.argv, order.log))
        exited = await host.run(client, order)

        assert (exited.exit_code, exited.left) == (3, 1)
        assert await host.state(client, order) is RunState.CLOSING
        nameless_has_ended = end_of(pid_of(order, "nameless"))
        await client.signal(order.run_id, signal.SIGKILL)
        await host.gone(order)
        assert nameless_has_ended()


async def test_stray_when_it_is_nameless_then_it_is_the_runs_whose_mark_it_has(host: LauncherHost) -> None:
    client = await host.start()
    await host.running(client, host.staying())  # a second run that might own it
    nameless = "setsid env -i sh -c 'echo nameless $$; : > $0.up; read _ < $0' $0"
    order = host.shell(f"( {nameless} & ) ; until [ -e $0.up ]; do :; done; exit 3")

    exited = await host.run(client, order)
    listed = await client.list_runs()

    assert exited.exit_code == 3
    assert [run.state for run in listed] == [RunState.RUNNING, RunState.CLOSING]
    await until_async(lambda: "nameless" in log_of(order), why="the child's pid")
    nameless_has_ended = end_of(pid_of(order, "nameless"))
    await client.signal(order.run_id, signal.SIGKILL)
    await host.gone(order)
    assert nameless_has_ended()
    assert client.leaked == 0


# --- other users


@contextmanager
def as_another_user(host: LauncherHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start launchers as another user; gives the program by which their workers become root."""
    program = foreign.become_root(host.home)
    python = foreign.wrapper(host.home / "python", sys.executable)
    for name in ("launchers", "outcomes"):
        (host.state_dir / name).mkdir()
    foreign.give(host.home)
    os.chown(program, 0, 0)
    program.chmod(0o4755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        yield str(program)


@needs_users
async def test_stray_when_it_became_root_then_its_run_is_not_over(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_another_user(host, monkeypatch) as become_root:
        client = await host.start()
    await host.running(client, host.staying())
    child = f"{UNMARKED} {become_root} /bin/sh -c 'echo rooted $$; echo > go; read _ < $0' $0"
    order = host.shell(f"mkfifo go; ( {child} & ) ; read _ < go; exit 3")
    exited = await host.run(client, order)
    rooted = pid_of(order, "rooted")

    answer = await client.signal(order.run_id, signal.SIGKILL)

    assert foreign.uids(rooted) == {0}
    assert (exited.left, answer, ended(rooted)) == (1, False, False)
    assert await host.state(client, order) is RunState.CLOSING
    os.kill(rooted, signal.SIGKILL)
    await host.gone(order)


@needs_users
async def test_signal_when_the_main_process_became_root_then_it_is_not_called_stopped(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_another_user(host, monkeypatch) as become_root:
        client = await host.start()
    order = host.shell(f"exec {become_root} /bin/sh -c 'echo up; read _ < $0; exit 4' $0")
    main = (await host.running(client, order, "up")).pid

    answers = [await client.signal(order.run_id, signum) for signum in (signal.SIGTERM, signal.SIGKILL)]
    state = await host.state(client, order)
    os.kill(main, signal.SIGHUP)

    exited = await host.heard(Exited, order)
    assert (answers, state) == ([False, False], RunState.RUNNING)
    assert (exited.signal, exited.stopped) == (signal.SIGHUP, False)
