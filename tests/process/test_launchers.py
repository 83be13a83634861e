"""Finding and starting launchers: alive by their lock, and by nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.core.errors import CannotCreate
from stoker.files import NotRegular
from stoker.process import launchers
from stoker.process.launchers import find_launchers, remove_remains, start_launcher
from tests.support.apart import fill_descriptors, run_apart, spare_descriptors
from tests.support.descriptors import count_fds
from tests.support.facts import until_async
from tests.support.instance import LauncherHost


async def test_find_when_some_are_dead_then_the_lock_tells_and_the_oldest_come_first(host: LauncherHost) -> None:
    tenth, second, first = [await host.start(epoch=epoch) for epoch in (10, 2, 1)]

    os.kill(second.facts.pid, signal.SIGKILL)
    await host.gone_from_proc(second.facts.pid)

    assert find_launchers(host.roots) == ([first.launcher, tenth.launcher], [second.launcher])


async def test_find_when_a_worker_put_a_fifo_in_place_of_a_lock_then_it_is_named(host: LauncherHost) -> None:
    await host.start()
    lock = host.state_dir / "launchers" / "9-aa.lock"
    os.mkfifo(lock)

    with pytest.raises(NotRegular, match=str(lock)):
        find_launchers(host.roots)


# Attaches to a process as a debugger, and never waits for it.
TRACE = "import ctypes, sys; print(ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0), flush=True); input()"


async def test_launcher_when_its_debugger_does_not_wait_for_it_then_the_loop_goes_on(host: LauncherHost) -> None:
    client = await host.start()
    command = [sys.executable, "-I", "-S", "-c", TRACE, str(client.facts.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as debugger:
        assert debugger.stdout is not None
        if debugger.stdout.readline() != b"0\n":
            pytest.skip("no process may be traced here")

        os.kill(client.facts.pid, signal.SIGKILL)

        await until_async(lambda: client.lost)
        unreaped = Path(f"/proc/{client.facts.pid}").exists()
    assert unreaped
    await host.gone_from_proc(client.facts.pid)


async def test_find_when_it_is_frozen_then_it_is_alive(host: LauncherHost) -> None:
    client = await host.start()
    os.kill(client.facts.pid, signal.SIGSTOP)

    assert find_launchers(host.roots).alive == [client.launcher]


async def test_find_when_only_a_worker_outlived_it_then_it_is_dead(host: LauncherHost) -> None:
    client = await host.start()
    await host.running(client, host.staying())

    os.kill(client.facts.pid, signal.SIGKILL)
    await host.gone_from_proc(client.facts.pid)

    assert host.workers()
    assert find_launchers(host.roots) == ([], [client.launcher])


async def test_find_when_there_is_no_directory_yet_then_no_launcher_is_found(host: LauncherHost) -> None:
    assert find_launchers(host.roots) == ([], [])


async def test_remains_when_they_are_removed_then_only_last_words_stay(host: LauncherHost) -> None:
    silent, speaking = await host.start(), await host.start()
    for client in (silent, speaking):
        os.kill(client.facts.pid, signal.SIGKILL)
        await host.gone_from_proc(client.facts.pid)
    words = host.state_dir / "launchers" / f"{speaking.launcher}.err"
    words.write_text("no space left")

    for client in (silent, speaking, silent):
        remove_remains(host.roots, client.launcher)

    assert list((host.state_dir / "launchers").iterdir()) == [words]


async def test_start_when_the_launcher_cannot_begin_then_its_own_words_are_the_error(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = host.home / "broken.py"
    program.write_text("raise SystemExit('it is broken')\n")
    monkeypatch.setattr(launchers, "PROGRAM", program)

    with pytest.raises(CannotCreate, match="it is broken"):
        await start_launcher(host.state_dir, 1, host.instance, host.hear)

    assert find_launchers(host.roots).alive == []


async def test_start_when_we_hold_descriptors_then_the_launcher_does_not_inherit_them(host: LauncherHost) -> None:
    secret = os.open(host.home, os.O_RDONLY)
    fcntl.fcntl(secret, fcntl.F_SETFD, 0)
    try:
        client = await host.start()
    finally:
        os.close(secret)

    open_files = {str(entry.readlink()) for entry in Path(f"/proc/{client.facts.pid}/fd").iterdir()}

    assert str(host.home) not in open_files
    assert f"{host.state_dir}/launchers/{client.launcher}.lock" in open_files


async def test_start_when_our_environment_is_full_then_the_launcher_gets_little_of_it(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "AWS_SECRET", "STOKER_TOKEN"):
        monkeypatch.setenv(name, "1")

    client = await host.start()

    environ = Path(f"/proc/{client.facts.pid}/environ").read_bytes().decode().split("\0")
    names = {variable.partition("=")[0] for variable in environ if variable}
    assert names <= {
        "PATH",
        "LD_LIBRARY_PATH",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "STOKER_INSTANCE",
        "STOKER_LAUNCHER",
    }
    assert "LD_LIBRARY_PATH=/opt/python/lib" in environ  # its interpreter may not start without them
    assert {f"STOKER_INSTANCE={host.instance}", f"STOKER_LAUNCHER={client.launcher}"} <= set(environ)


async def test_launcher_when_its_daemon_never_says_hello_then_it_waits_and_holds_its_lock(host: LauncherHost) -> None:
    client = await host.start(epoch=1)
    wire = host.wire(client.launcher)
    wire.close()

    await client.list_runs()

    assert find_launchers(host.roots).alive == [client.launcher]


async def test_launcher_when_it_dies_then_its_zombie_is_reaped_while_we_live(host: LauncherHost) -> None:
    client = await host.start()

    os.kill(client.facts.pid, signal.SIGKILL)

    await until_async(lambda: not Path(f"/proc/{client.facts.pid}").exists())


async def test_start_when_the_launcher_hangs_then_it_is_given_up_and_nothing_of_it_is_left(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import signal\nsignal.pause()\n")
    monkeypatch.setattr(launchers, "PROGRAM", hanging)
    monkeypatch.setattr(launchers, "START_S", 0.3)
    before = count_fds()

    with pytest.raises(CannotCreate, match="was not ready within"):
        await host.start()

    await until_async(lambda: not list(host.processes()), why="the end of a launcher that hangs")
    await until_async(lambda: count_fds() == before, why="its descriptors, closed")
    assert list((host.state_dir / "launchers").iterdir()) == []


async def test_start_when_no_process_can_be_had_then_nothing_stays_open(
    host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = count_fds()

    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            await host.start()

    assert count_fds() == before
    assert list((host.state_dir / "launchers").iterdir()) == []


def test_start_when_a_descriptor_is_lacking_at_any_point_then_nothing_stays_open() -> None:
    failures, locks = run_apart(start_until_it_succeeds)

    assert failures >= len(["ready", "its end", "lock", "pidfd", "pidfd", "directory", "socket"]) - 2
    assert locks == 1


async def start_until_it_succeeds() -> tuple[int, int]:
    """With one descriptor more for each try. How often it failed without one, and how many locks there are."""
    host = LauncherHost()
    fill_descriptors()
    before, failures = count_fds(), 0
    while True:
        with spare_descriptors(failures), contextlib.suppress(OSError):
            await host.start()
        if host.clients:
            break
        failures += 1
        await until_async(lambda: count_fds() == before, why="its descriptors, closed")
        await until_async(lambda: not list(host.processes()), why="the end of a launcher that was given up")
    locks = len(list((host.state_dir / "launchers").glob("*.lock")))
    await host.end()
    return failures, locks
