"""The output of workers arrives in their log, with any way to open it, any reader, and any fault of the disk."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from msgspec.structs import replace

from stoker.launcher import outputs
from stoker.process.messages import Exited, OrphanLog, Setup, Started
from tests.support import disks, strace
from tests.support.facts import until, until_async
from tests.support.instance import ended, log_of
from tests.support.strace import Attached, calls_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.process.messages import LaunchOrder
    from tests.support.instance import LauncherHost

MIB = 1 << 20
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else, or mount")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
# Writes numbered lines of 64 bytes, then makes a file.
LINES = "import sys; [sys.stdout.write(f'{n:063d}\\n') for n in range(%d)]; sys.stdout.flush(); open(sys.argv[2], 'w')"


def numbered(count: int) -> str:
    return "".join(f"{number:063d}\n" for number in range(count))


def writing(host: LauncherHost, count: int) -> tuple[LaunchOrder, Path]:
    """An order for a worker that writes that many lines, and the file that it makes afterwards."""
    done = host.home / "done"
    order = host.python(LINES % count)
    return replace(order, argv=(*order.argv, str(done))), done


def orphan_log(order: LaunchOrder) -> OrphanLog:
    return OrphanLog(run_id=order.run_id, log=order.log, max_log_bytes=order.max_log_bytes)


def pipe_is_full(pid: int) -> bool:
    """Whether it sleeps in a write to a pipe."""
    return "pipe_write" in Path(f"/proc/{pid}/wchan").read_text()


@pytest.mark.parametrize(
    "script",
    [
        "echo one; echo two > /dev/stderr; echo three",
        "echo one; echo two > /dev/stdout; echo three",
        "echo one; echo two | tee /dev/stderr > /dev/null; echo three",
        "echo one >&2; echo two > /proc/self/fd/2; echo three >&2",
        "echo one; (exec > /dev/fd/2; echo two); echo three",
        "echo one; echo two >> /dev/stderr; echo three",
        "echo one; echo two 1<> /dev/stderr; echo three",
    ],
)
@pytest.mark.parametrize(
    ("setup", "prefix"),
    [(None, ()), (Setup(nice=1), ()), pytest.param(None, NOBODY, marks=ROOT_ONLY)],
    ids=["plain", "prepared", "another user"],
)
async def test_output_when_a_worker_opens_it_anew_then_nothing_is_lost(
    host: LauncherHost, script: str, setup: Setup | None, prefix: tuple[str, ...]
) -> None:
    client = await host.start()
    order = host.order(*prefix, "sh", "-c", script, setup=setup, working_dir="/")

    exited = await host.run(client, order)

    assert log_of(order) == "one\ntwo\nthree\n"
    assert exited.exit_code == 0
    assert exited.log_bytes == len("one\ntwo\nthree\n")


async def test_output_when_its_directory_is_removed_meanwhile_then_nothing_is_lost(host: LauncherHost) -> None:
    client = await host.start()
    for _ in range(100):
        order = host.shell("echo said")
        with ImpatientReader(Path(order.log).parent) as reader:
            await host.run(client, order)
            await until_async(lambda: log_of(order) == "said\n", why="the log")  # noqa: B023
        assert reader.removed > 0


class ImpatientReader(threading.Thread):
    """Makes the directory of a log and removes it, like a reader that leaves before the log exists."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.removed = 0
        self._directory = directory
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        until(lambda: self.removed > 0, why="the first removal")
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self.join()

    def run(self) -> None:
        while not self._closed.is_set():
            self._directory.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # the log is in it
                self._directory.rmdir()
                self.removed += 1


@ROOT_ONLY
async def test_output_when_a_child_becomes_another_user_then_it_may_open_it_too(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("setpriv --reuid 65534 --clear-groups sh -c 'echo said > /dev/stderr'", working_dir="/")

    await host.run(client, order)

    assert log_of(order) == "said\n"


async def test_output_when_the_launcher_is_stopped_then_the_worker_waits_and_loses_no_byte(
    host: LauncherHost,
) -> None:
    client = await host.start()
    order, _ = writing(host, 40_000)
    gate = host.shell('read _ < $0; exec "$@"')
    order = replace(order, argv=(*gate.argv, *order.argv))
    started = await host.running(client, order)
    os.kill(client.facts.pid, signal.SIGSTOP)

    host.never.write_bytes(b"begin\n")
    await until_async(lambda: pipe_is_full(started.pid), why="a full pipe")
    os.kill(client.facts.pid, signal.SIGCONT)

    exited = await host.heard(Exited, order)
    assert exited.exit_code == 0
    assert log_of(order) == numbered(40_000)


async def test_output_when_the_launcher_was_killed_then_the_next_one_reads_on(host: LauncherHost) -> None:
    first = await host.start()
    order, done = writing(host, 40_000)
    gate = host.shell('echo before; read _ < $0; exec "$@"')
    order = replace(order, argv=(*gate.argv, *order.argv))
    started = await host.running(first, order, "before")
    os.kill(first.facts.pid, signal.SIGKILL)
    await until_async(lambda: ended(first.facts.pid), why="the end of the launcher")
    host.never.write_bytes(b"go on\n")
    await until_async(lambda: pipe_is_full(started.pid), why="a full pipe")
    assert not done.exists()

    second = await host.start(epoch=2)
    second.read_logs([orphan_log(order)])

    await until_async(done.exists, why="the end of the worker")
    await until_async(lambda: log_of(order) == "before\n" + numbered(40_000), why="every line")


async def test_output_when_two_launchers_are_asked_to_read_on_then_one_does(host: LauncherHost) -> None:
    first = await host.start()
    order = host.shell('echo before; while read -r line; do echo "$line"; done < $0; read _ < $0')
    await host.running(first, order, "before")
    os.kill(first.facts.pid, signal.SIGKILL)
    await until_async(lambda: ended(first.facts.pid), why="the end of the launcher")
    others = [await host.start(epoch=2), await host.start(epoch=2)]
    for other in others:
        other.read_logs([orphan_log(order)])
        other.read_logs([orphan_log(order)])
        await other.list_runs()

    numbers = "".join(f"{number}\n" for number in range(1_000))
    host.never.write_text(numbers)

    await until_async(lambda: log_of(order) == "before\n" + numbers, why="every line, once")


def test_pipe_when_a_worker_names_a_fifo_instead_then_it_is_not_opened(tmp_path: Path) -> None:
    """Without a writer, opening it to read would wait for ever."""
    fifo, ready = tmp_path / "fifo", tmp_path / "ready"
    os.mkfifo(fifo)
    hold = f"import os, sys; os.open({str(fifo)!r}, os.O_RDONLY | os.O_NONBLOCK); open({str(ready)!r}, 'w')"
    environ = {**os.environ, outputs.RUN_VARIABLE: "7.1.ab", outputs.PIPE_VARIABLE: str(fifo)}
    with subprocess.Popen([sys.executable, "-c", f"{hold}; sys.stdin.read()"], env=environ, stdin=-1) as worker:
        until(ready.exists, why="the FIFO is open")

        found = list(outputs._by_environment([str(worker.pid)], {"7.1.ab": {}}))
        worker.communicate()

    assert found == []


async def test_output_when_its_reader_was_killed_too_then_the_third_launcher_reads_on(host: LauncherHost) -> None:
    order = host.shell('echo before; while read -r line; do echo "$line"; done < $0; read _ < $0')
    client = await host.start()
    await host.running(client, order, "before")
    for epoch in (2, 3):
        os.kill(client.facts.pid, signal.SIGKILL)
        await until_async(lambda: ended(client.facts.pid), why="the end of the launcher")  # noqa: B023
        client = await host.start(epoch=epoch)
        client.read_logs([orphan_log(order)])

    host.never.write_text("after\n")

    await until_async(lambda: log_of(order) == "before\nafter\n", why="the line behind two kills")


async def test_output_when_workers_flood_then_the_others_are_heard_and_read(host: LauncherHost) -> None:
    client = await host.start()
    floods = [replace(host.order("yes"), max_log_bytes=MIB) for _ in range(8)]
    client.launch(floods)
    for order in floods:
        await until_async(lambda order=order: Path(order.log).exists() and Path(order.log).stat().st_size > 4 * MIB)  # type: ignore[misc]

    quiet = host.order("echo", "quiet")
    exited = await host.run(client, quiet)

    assert exited.exit_code == 0
    assert log_of(quiet) == "quiet\n"
    for order in floods:
        assert await client.signal(order.run_id, signal.SIGKILL)
        killed = await host.heard(Exited, order)
        assert killed.log_bytes == Path(order.log).stat().st_size
        assert Path(order.log).stat().st_blocks * 512 <= MIB


async def test_output_when_a_worker_closes_it_then_the_launcher_is_not_kept_awake(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("echo said; exec > /dev/null 2>&1; read _ < $0; exit 3")
    await host.running(client, order, "said")
    await until_async(lambda: "do_epoll_wait" in Path(f"/proc/{client.facts.pid}/wchan").read_text() or None)

    host.never.write_bytes(b"go on\n")

    exited = await host.heard(Exited, order)
    assert (exited.exit_code, exited.log_bytes) == (3, len("said\n"))
    assert open_pipes(client.facts.pid) == 0


def open_pipes(pid: int) -> int:
    return sum(str(fd.readlink()).startswith("pipe:") for fd in Path(f"/proc/{pid}/fd").iterdir())


async def test_output_when_a_child_daemonised_then_its_words_come_too(host: LauncherHost) -> None:
    client = await host.start()
    order = host.shell("(setsid sh -c 'read _ < $0; echo late > /dev/stderr' $0 &); echo main")
    await host.running(client, order, "main")
    exited = await host.heard(Exited, order)
    assert exited.left

    host.never.write_bytes(b"go on\n")

    await host.gone(order)
    assert log_of(order) == "main\nlate\n"
    (run,) = await client.list_runs([order.run_id])
    assert run.exit is not None
    assert run.exit.log_bytes == len("main\nlate\n")


async def test_output_when_runs_need_more_descriptors_than_the_soft_limit_then_all_run(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr("stoker.process.open_files._GIVEN", (128, hard))  # the limit that the daemon was started with
    client = await host.start()
    orders = [host.shell("ulimit -Sn; read _ < $0") for _ in range(80)]  # each takes a pipe and a log

    for order in orders:
        await host.running(client, order, "\n")

    assert {log_of(order) for order in orders} == {"128\n"}


@pytest.fixture
def small_disk(host: LauncherHost) -> Iterator[Path]:
    """A file system of 1 MiB mounted on the directory of logs."""
    with disks.small_disk(host.state_dir / "logs", "1m") as logs:
        yield logs


@ROOT_ONLY
async def test_output_when_the_disk_is_full_then_it_waits_for_room_and_nothing_is_lost(
    host: LauncherHost, small_disk: Path
) -> None:
    client = await host.start()
    order, done = writing(host, 64_000)  # 4 MiB, and a pipe holds one
    started = await host.running(client, order)
    await until_async(lambda: pipe_is_full(started.pid) and os.statvfs(small_disk).f_bavail == 0, why="a full disk")
    refused = await host.run(client, host.order("echo", "another"))

    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)

    exited = await host.heard(Exited, order)
    assert done.exists()
    assert exited.log_bytes == 64_000 * 64
    assert log_of(order) == numbered(64_000)
    assert refused.spawn_error is not None
    assert refused.spawn_error.transient


@ROOT_ONLY
async def test_output_when_no_log_can_be_made_then_nothing_starts_and_it_is_transient(
    host: LauncherHost, small_disk: Path
) -> None:
    client = await host.start()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    exited = await host.run(client, host.order("/bin/true"))

    assert host.count(Started) == 0
    assert exited.spawn_error is not None
    assert exited.spawn_error.transient


@ROOT_ONLY
async def test_output_when_the_disk_is_full_at_the_end_then_it_is_written_later(
    host: LauncherHost, small_disk: Path
) -> None:
    client = await host.start()
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], check=False, capture_output=True)
    order = host.shell("echo last words; exit 3")

    exited = await host.run(client, order)
    assert exited.exit_code == 3
    assert log_of(order) == ""
    filler.unlink()

    await until_async(lambda: log_of(order) == "last words\n", why="what waited in the pipe")


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
async def test_output_when_its_pipe_cannot_be_watched_then_it_is_read_later(host: LauncherHost, error: str) -> None:
    client = await host.start()
    order, trace = host.shell("echo said; read _ < $0"), host.home / "trace"
    # The second failure is that of the retry.
    attached = Attached(client.facts.pid, trace, "trace=epoll_ctl", f"inject=epoll_ctl:error={error}:when=1..2")

    await host.running(client, order, "said")

    attached.detach()
    assert [call.injected for call in calls_of(trace)].count(True) == 2
    assert await client.signal(order.run_id, signal.SIGKILL)
    await host.heard(Exited, order)
    assert open_pipes(client.facts.pid) == 0


@pytest.mark.skipif(strace.why_not() is not None, reason=str(strace.why_not()))
async def test_output_when_one_log_fails_then_other_runs_start_and_are_read(host: LauncherHost) -> None:
    client = await host.start()
    order, trace = host.shell("echo said; read _ < $0"), host.home / "trace"
    attached = Attached(client.facts.pid, trace, "trace=splice", "inject=splice:error=EIO:when=1")
    await host.running(client, order)
    await until_async(lambda: any(call.injected for call in calls_of(trace)), why="a failed write")

    exited = await host.run(client, host.order("echo", "another"))

    attached.detach()
    assert exited.spawn_error is None
    assert exited.exit_code == 0
    await until_async(lambda: log_of(order) == "said\n", why="what waited in the pipe")
