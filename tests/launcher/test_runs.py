"""One run from order to acknowledgement: what the worker gets, what the daemon hears, what is refused."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest

from stoker.process.messages import Exited, Refusal, RunState, Setup, Started

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.launcher import DaemonSide

# Both ways of starting a worker must give it the same: posix_spawn, and fork + set-up + exec.
ROUTES = pytest.mark.parametrize("setup", [None, Setup(nice=1)], ids=["plain", "prepared"])

# Signals 32 and 33: it lets nobody set them, so whoever runs the tests with them ignored hands that down.
OF_THE_C_LIBRARY = 0b11 << 31


@ROUTES
async def test_launch_when_the_command_succeeds_then_start_and_exit_are_told(
    side: DaemonSide, setup: Setup | None
) -> None:
    run_id = side.launch("sh", "-c", "echo out; echo err >&2", setup=setup)

    exited = await side.exited(run_id)
    started = await side.started(run_id)
    assert (exited.exit_code, exited.signal, exited.left, exited.stopped) == (0, None, 0, False)
    assert exited.log_bytes == len("out\nerr\n")
    assert exited.at_boot_ms >= started.at_boot_ms
    assert exited.max_rss_kib > 0
    assert side.log(run_id).read_text() == "out\nerr\n"
    assert side.reports.index(started) < side.reports.index(exited)


async def test_launch_when_the_command_fails_then_its_code_is_told(side: DaemonSide) -> None:
    exited = await side.complete("sh", "-c", "exit 7")

    assert (exited.exit_code, exited.signal) == (7, None)


async def test_launch_when_a_signal_of_others_ends_it_then_it_is_told_and_not_called_a_stop(side: DaemonSide) -> None:
    exited = await side.complete("sh", "-c", "kill -SEGV $$")

    assert (exited.exit_code, exited.signal, exited.stopped) == (None, 11, False)


async def test_launch_when_500_are_ordered_at_once_then_each_starts_and_ends(side: DaemonSide) -> None:
    orders = [side.order("/bin/true") for _ in range(500)]

    side.client.launch(orders)

    for order in orders:
        assert (await side.exited(order.run_id)).exit_code == 0
    assert sum(isinstance(report, Started) for report in side.reports) == 500
    first_exit = next(i for i, report in enumerate(side.reports) if isinstance(report, Exited))
    assert first_exit < 500, "news must not wait for the whole batch"


# --- what the worker gets


@ROUTES
async def test_worker_when_started_then_it_has_three_descriptors_and_its_own_session(
    side: DaemonSide, setup: Setup | None
) -> None:
    exited = await side.complete("sh", "-c", "ls /proc/$$/fd; cut -d' ' -f5,6 /proc/$$/stat; echo $$", setup=setup)

    *descriptors, group_and_session, pid = side.log(exited.run_id).read_text().split("\n")[:-1]
    assert descriptors == ["0", "1", "2"]
    assert group_and_session == f"{pid} {pid}"


@ROUTES
async def test_worker_when_started_then_no_signal_is_blocked_or_ignored(side: DaemonSide, setup: Setup | None) -> None:
    exited = await side.complete("grep", "^Sig[BI]", "/proc/self/status", setup=setup)

    masks = {line[:6]: int(line[8:], 16) for line in side.log(exited.run_id).read_text().splitlines()}
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & ~OF_THE_C_LIBRARY == 0


@ROUTES
async def test_worker_when_started_then_its_environment_is_the_ordered_one(
    side: DaemonSide, setup: Setup | None
) -> None:
    exited = await side.complete("/usr/bin/env", env={"ONE": "1", "UMLAUT": "ä"}, setup=setup)

    assert sorted(side.log(exited.run_id).read_text().splitlines()) == ["ONE=1", "UMLAUT=ä"]


@ROUTES
async def test_worker_when_it_has_stdin_then_it_reads_that_and_else_nothing(
    side: DaemonSide, setup: Setup | None
) -> None:
    given = await side.complete("cat", stdin="a line\n", setup=setup)
    nothing = await side.complete("cat", setup=setup)

    assert side.log(given.run_id).read_text() == "a line\n"
    assert nothing.log_bytes == 0


@ROUTES
async def test_worker_when_started_then_the_oom_killer_prefers_it_to_the_launcher(
    side: DaemonSide, setup: Setup | None
) -> None:
    started = await side.begin("sleep", "60", setup=setup)

    def score(pid: int) -> int:
        with open(f"/proc/{pid}/oom_score_adj") as file:
            return int(file.read())

    assert score(started.pid) == min(1000, score(side.launcher.pid) + 500)


@ROUTES
async def test_worker_when_named_without_a_slash_then_it_is_searched_in_its_own_terms(
    side: DaemonSide, tmp_path: Path, setup: Setup | None
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "bin" / "tool").chmod(0o755)
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "tool").write_text("not executable")
    (tmp_path / "directory" / "tool").mkdir(parents=True)
    env = {"PATH": "/nowhere:directory:earlier:bin"}

    exited = await side.complete("tool", env=env, working_dir=str(tmp_path), setup=setup)

    assert exited.exit_code == 0
    assert side.log(exited.run_id).read_text() == f"{tmp_path}\n"


# --- what cannot be executed


@ROUTES
@pytest.mark.parametrize(
    ("argv", "changes", "number", "word"),
    [
        (("no-such-command",), {}, errno.ENOENT, "no-such-command"),
        (("/etc/passwd",), {}, errno.EACCES, "/etc/passwd"),
        (("/bin/true",), {"working_dir": "/no/such/dir"}, errno.ENOENT, "/no/such/dir"),
        (("/bin/true", "x" * 200_000), {}, errno.E2BIG, "/bin/true"),
        (("/bin/true", "a\0b"), {}, errno.EINVAL, "null"),
    ],
    ids=["not found", "not executable", "no working dir", "too big", "nul"],
)
async def test_launch_when_it_cannot_be_executed_then_it_ends_with_the_reason(
    side: DaemonSide, setup: Setup | None, argv: tuple[str, ...], changes: dict[str, str], number: int, word: str
) -> None:
    exited = await side.complete(*argv, setup=setup, **changes)

    assert exited.spawn_error is not None
    assert exited.spawn_error.errno == number
    assert word in exited.spawn_error.error
    assert not exited.spawn_error.transient
    assert (exited.exit_code, exited.signal) == (None, None)
    assert not any(isinstance(report, Started) for report in side.reports)


@ROUTES
@pytest.mark.parametrize("spare", [0, 1, 2, 3])
async def test_launch_when_descriptors_run_out_then_it_runs_or_the_error_is_transient(
    side: DaemonSide, setup: Setup | None, spare: int
) -> None:
    _, hard = resource.prlimit(side.launcher.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(side.launcher.pid, resource.RLIMIT_NOFILE, (side.launcher.num_fds() + spare, hard))

    exited = await side.complete("/bin/true", setup=setup)

    if exited.spawn_error is None:
        assert spare
        assert exited.exit_code == 0
    else:
        assert exited.spawn_error.errno == errno.EMFILE
        assert exited.spawn_error.transient
    assert len(await side.client.list_runs()) == 1, "the launcher lives and answers"


async def test_launch_when_the_log_directory_cannot_be_made_then_it_ends_with_the_reason(
    side: DaemonSide, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    exited = await side.complete("/bin/true", log=str(tmp_path / "file" / "1.log"))

    assert exited.spawn_error is not None
    assert exited.spawn_error.errno == errno.ENOTDIR


# --- what is refused


async def test_launch_when_the_log_exists_then_nothing_runs_and_the_log_stays(side: DaemonSide, tmp_path: Path) -> None:
    order = side.order("touch", str(tmp_path / "ran"))
    side.log(order.run_id).parent.mkdir(parents=True)
    side.log(order.run_id).write_text("from another life")

    side.client.launch([order])
    refused = await side.refused(order.run_id)
    await side.client.list_runs()

    assert refused.why is Refusal.LOG_EXISTS
    assert not (tmp_path / "ran").exists()
    assert side.log(order.run_id).read_text() == "from another life"


async def test_launch_when_the_log_is_a_dangling_link_then_it_is_refused_and_not_followed(
    side: DaemonSide, tmp_path: Path
) -> None:
    order = side.order("echo", "hello")
    side.log(order.run_id).parent.mkdir(parents=True)
    side.log(order.run_id).symlink_to(tmp_path / "elsewhere")

    side.client.launch([order])

    assert (await side.refused(order.run_id)).why is Refusal.LOG_EXISTS
    assert not (tmp_path / "elsewhere").exists()


async def test_launch_when_it_is_held_already_then_it_is_refused_as_a_duplicate(side: DaemonSide) -> None:
    order = side.order("sleep", "60")

    side.client.launch([order, order])

    assert (await side.refused(order.run_id)).why is Refusal.DUPLICATE
    assert sum(isinstance(report, Started) for report in side.reports) == 1


async def test_launch_when_it_was_once_called_unknown_then_it_is_refused_for_good(side: DaemonSide) -> None:
    order = side.order("/bin/true")

    (unknown,) = await side.client.list_runs([order.run_id])
    side.client.launch([order])

    assert unknown.state is RunState.UNKNOWN
    assert (await side.refused(order.run_id)).why is Refusal.TOMBSTONE


async def test_launch_when_its_epoch_is_older_than_the_daemon_then_it_is_refused(side: DaemonSide) -> None:
    await side.connect(epoch=5)

    run_id = side.launch("/bin/true", epoch=4)

    assert (await side.refused(run_id)).why is Refusal.EPOCH


# --- list and acknowledge


async def test_list_when_asked_behind_orders_then_it_tells_of_all_of_them(side: DaemonSide) -> None:
    running = side.launch("sleep", "60")
    failed = side.launch("no-such-command")
    missing = "99.1.ffff"

    states = {run.run_id: run for run in await side.client.list_runs([running, missing])}

    assert states[running].state is RunState.RUNNING
    assert states[running].started == await side.started(running)
    assert states[failed].state is RunState.ENDED
    assert states[failed].exit == await side.exited(failed)
    assert states[missing].state is RunState.UNKNOWN


async def test_outcome_when_it_is_not_acknowledged_then_it_is_kept_and_forgotten_afterwards(side: DaemonSide) -> None:
    exited = await side.complete("/bin/true")

    before = await side.client.list_runs()
    side.client.acknowledge([exited.run_id])
    after = await side.client.list_runs()

    assert [run.exit for run in before] == [exited]
    assert after == []


async def test_acknowledge_when_the_run_is_not_over_then_nothing_is_forgotten(side: DaemonSide) -> None:
    started = await side.begin("sleep", "60")

    side.client.acknowledge([started.run_id, "7.1.unknown"])

    assert [run.state for run in await side.client.list_runs()] == [RunState.RUNNING]


async def test_started_when_compared_with_proc_then_it_is_the_same_process(side: DaemonSide) -> None:
    for _ in range(20):
        started = await side.begin("sleep", "60")

        with open(f"/proc/{started.pid}/stat") as file:
            start_ticks = int(file.read().rpartition(")")[2].split()[19])
        pidfd = os.pidfd_open(started.pid)
        inode = os.fstat(pidfd).st_ino
        os.close(pidfd)
        assert started.start_ticks == start_ticks
        assert started.pidfs_inode in (inode, None)
