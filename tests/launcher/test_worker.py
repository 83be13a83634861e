"""The start of a worker, the same on both routes (posix_spawn, and fork + set-up + exec), and its errors."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.process.messages import Setup, Started
from tests.support import strace
from tests.support.descriptors import count_fds
from tests.support.instance import log_of
from tests.support.strace import Attached, calls_of

if TYPE_CHECKING:
    from tests.support.instance import LauncherHost

ROUTES = pytest.mark.parametrize("setup", [None, Setup(nice=1)], ids=["plain", "prepared"])
# Signals 32 and 33: the C library lets no program set them, so workers inherit them from the tests.
OF_THE_C_LIBRARY = 0b11 << 31


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@ROUTES
async def test_worker_when_started_then_it_has_three_descriptors_and_its_own_session(
    host: LauncherHost, setup: Setup | None
) -> None:
    client = await host.start()
    order = host.shell("ls /proc/$$/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$", setup=setup)

    await host.run(client, order)

    *descriptors, group_and_session, pid = log_of(order).splitlines()
    assert descriptors == ["0", "1", "2"]
    assert group_and_session == f"{pid} {pid}"


@ROUTES
async def test_worker_when_started_then_no_signal_is_blocked_or_ignored(
    host: LauncherHost, setup: Setup | None
) -> None:
    client = await host.start()
    order = host.order("grep", "^Sig[BI]", "/proc/self/status", setup=setup)

    await host.run(client, order)

    masks = {line[:6]: int(line[8:], 16) for line in log_of(order).splitlines()}
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & ~OF_THE_C_LIBRARY == 0


@ROUTES
async def test_worker_when_started_then_its_environment_is_the_ordered_one(
    host: LauncherHost, setup: Setup | None
) -> None:
    client = await host.start()
    order = host.shell("env; readlink /proc/self/fd/1", env={"ONE": "1", "UMLAUT": "ä"}, setup=setup)

    await host.run(client, order)

    *variables, pipe = log_of(order).splitlines()
    of_the_shell = {"PWD", "SHLVL", "_"}
    shown = {line for line in variables if line.partition("=")[0] not in of_the_shell}
    assert shown == {"ONE=1", "UMLAUT=ä", f"STOKER_LOG_PIPE={pipe}"}


@ROUTES
async def test_worker_when_it_has_stdin_then_it_reads_that_and_else_nothing(
    host: LauncherHost, setup: Setup | None
) -> None:
    client = await host.start()
    given, nothing = host.order("cat", stdin="a line\n" * 10_000, setup=setup), host.order("cat", setup=setup)

    await host.run(client, given)
    exited = await host.run(client, nothing)

    assert log_of(given) == "a line\n" * 10_000
    assert exited.log_bytes == 0


@ROUTES
async def test_worker_when_started_then_the_oom_killer_prefers_it_to_the_launcher(
    host: LauncherHost, setup: Setup | None
) -> None:
    client = await host.start()
    started = await host.running(client, host.staying(setup=setup))

    ours, its = (int(proc(pid, "oom_score_adj")) for pid in (client.facts.pid, started.pid))

    assert its == min(1000, ours + 500)


@ROUTES
async def test_worker_when_named_without_a_slash_then_it_is_searched_in_its_own_terms(
    host: LauncherHost, setup: Setup | None
) -> None:
    client = await host.start()
    for name in ("bin", "earlier", "directory/tool"):
        (host.home / name).mkdir(parents=True)
    (host.home / "bin" / "tool").write_text("#!/bin/sh\npwd\n")
    (host.home / "bin" / "tool").chmod(0o755)
    (host.home / "earlier" / "tool").write_text("not executable")
    order = host.order("tool", env={"PATH": "/nowhere:directory:earlier:bin"}, setup=setup)

    exited = await host.run(client, order)

    assert exited.exit_code == 0
    assert log_of(order) == f"{host.home}\n"


async def test_started_when_compared_with_proc_then_it_names_the_same_process(host: LauncherHost) -> None:
    client = await host.start()
    for _ in range(40):  # so that some start at the edge of a tick
        started = await host.running(client, host.staying())

        pidfd = os.pidfd_open(started.pid)
        inode = os.fstat(pidfd).st_ino
        os.close(pidfd)
        assert started.start_ticks == int(proc(started.pid, "stat").rpartition(")")[2].split()[19])
        assert started.pidfs_inode in {inode, None}


# --- what cannot be executed ------------------------------------------------------------------------------


@ROUTES
@pytest.mark.parametrize(
    ("argv", "changes", "number", "word"),
    [
        (("no-such-command",), {}, errno.ENOENT, "no-such-command"),
        (("/etc/passwd",), {}, errno.EACCES, "/etc/passwd"),
        (("passwd",), {"env": {"PATH": "/etc"}}, errno.EACCES, "passwd"),
        (("/bin/true",), {"working_dir": "/no/such/dir"}, errno.ENOENT, "/no/such/dir"),
        (("/bin/true", "x" * 200_000), {}, errno.E2BIG, "/bin/true"),
        (("/bin/true", "a\0b"), {}, errno.EINVAL, "null"),
        (("/bin/true",), {"env": {"A=B": "1"}}, errno.EINVAL, "environment"),
    ],
    ids=["not found", "not executable", "found, not executable", "no working dir", "too big", "nul", "bad variable"],
)
async def test_launch_when_it_cannot_be_executed_then_it_ends_with_the_reason(
    host: LauncherHost, setup: Setup | None, argv: tuple[str, ...], changes: dict[str, Any], number: int, word: str
) -> None:
    client = await host.start()

    exited = await host.run(client, host.order(*argv, **({"setup": setup} | changes)))

    assert exited.spawn_error is not None
    assert exited.spawn_error.errno == number
    assert word in exited.spawn_error.error
    assert not exited.spawn_error.transient
    assert (exited.exit_code, exited.signal) == (None, None)
    assert host.count(Started) == 0


@ROUTES
@pytest.mark.parametrize("spare", [0, 1, 2, 3])
async def test_launch_when_descriptors_run_out_then_it_runs_or_the_error_is_transient(
    host: LauncherHost, setup: Setup | None, spare: int
) -> None:
    client = await host.start()
    in_use = count_fds(client.facts.pid)
    _, hard = resource.prlimit(client.facts.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(client.facts.pid, resource.RLIMIT_NOFILE, (in_use + spare, hard))

    exited = await host.run(client, host.order("/bin/true", setup=setup))

    if exited.spawn_error is None:
        assert spare
        assert exited.exit_code == 0
    else:
        assert exited.spawn_error.errno == errno.EMFILE
        assert exited.spawn_error.transient
    assert len(await client.list_runs()) == 1, "the launcher lives and answers"


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
@pytest.mark.parametrize("fault", ["chdir:error=ENOMEM:when=2", "newfstatat:error=EIO:when=3"])
async def test_worker_when_a_call_after_its_start_fails_then_it_counts_as_started(
    host: LauncherHost, fault: str
) -> None:
    client = await host.start()
    trace, syscall = host.home / "trace", fault.partition(":")[0]
    attached = Attached(client.facts.pid, trace, f"trace={syscall}", f"inject={fault}")

    exited = await host.run(client, host.shell("exit 7"))

    attached.detach()
    assert any(call.injected for call in calls_of(trace))
    assert (exited.exit_code, exited.spawn_error) == (7, None)


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
@pytest.mark.parametrize("from_last", [0, 1, 2])
async def test_worker_when_a_limit_cannot_be_restored_then_it_counts_as_started(
    host: LauncherHost, from_last: int
) -> None:
    client = await host.start()
    attached = Attached(client.facts.pid, whole := host.home / "whole", "trace=prlimit64")
    await host.run(client, host.shell("exit 7"))
    attached.detach()
    number = len(calls_of(whole)) - from_last  # the last three calls of a start restore two limits
    fault = f"inject=prlimit64:error=EPERM:when={number}"
    attached = Attached(client.facts.pid, trace := host.home / "trace", "trace=prlimit64", fault)

    exited = await host.run(client, host.shell("exit 7"))

    attached.detach()
    assert any(call.injected for call in calls_of(trace))
    assert (exited.exit_code, exited.spawn_error) == (7, None)


async def test_launch_when_the_log_directory_cannot_be_made_then_it_ends_with_the_reason(host: LauncherHost) -> None:
    client = await host.start()
    (host.home / "file").touch()

    exited = await host.run(client, host.order("/bin/true", log=str(host.home / "file" / "1.log")))

    assert exited.spawn_error is not None
    assert exited.spawn_error.errno == errno.ENOTDIR
