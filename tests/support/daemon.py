"""A real stokerd over a temporary state directory, to be started, stopped and killed as often as a test likes.

Owns one home directory: state, socket, settings, and everything that the daemon ever wrote to stderr. Refuses
fakes: the program is the installed `stokerd`, readiness is its own READY=1. Invariant: after `end()` no process
of this instance is left, whatever the test did to it. Every test asks of its daemon that nothing kept the loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stoker
from tests.support.facts import DEADLINE_S, until, until_empty
from tests.support.load import slowness
from tests.support.log_relay import LogRelay

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

BIN = Path(sys.executable).parent


# The daemon's own limit is 100 ms of its thread's CPU time, in which waiting for a processor is not counted. On a slow
# or busy machine the same work costs a multiple, so the tests' limit grows with what a known piece of work costs there.
SLOW_CPU_MS = 100

EVENT = '{"event":'  # the beginning of each line of the log


class LoopKept(AssertionError):
    """A turn or a callback of the daemon computed for too long, so that all clients waited."""


class DaemonDied(AssertionError):
    """The daemon ended before it was ready, or does not run."""


class DaemonProcess:
    """One instance. Its paths are short, because the path of a socket may have 107 bytes."""

    def __init__(self, settings: str = "", environ: Mapping[str, str] | None = None, programs: Path = BIN) -> None:
        self.programs = programs
        self.home = Path(tempfile.mkdtemp(prefix="stoker-"))
        self.state_dir = self.home / "state"
        self.socket = self.home / "sock"
        self.stderr = self.home / "stderr"
        self.relay: LogRelay | None = None
        self.config = self.home / "stoker.toml"
        self.config.write_text(settings)
        self.environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            **(environ or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.may_be_slow = False
        self.slowness = slowness

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.end()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.may_be_slow = True  # the test has failed already, and says why
        self.end()

    def add_module(self, name: str, text: str) -> None:
        """Put a Python module where the daemon finds it, for `[daemon] handlers`."""
        (self.home / f"{name}.py").write_text(text)
        self.environ["PYTHONPATH"] = str(self.home)

    @property
    def pid(self) -> int:
        if self.process is None:
            raise DaemonDied("not started")
        return self.process.pid

    def start(self, *arguments: str, timeout_s: float = DEADLINE_S) -> Self:
        """Start and wait for READY=1, then for an answer."""
        notify_path = self.home / "notify"
        notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(notify_path))
            self.spawn(*arguments, environ={"NOTIFY_SOCKET": str(notify_path)})
            self._await_ready(notify, timeout_s)
        with self.client() as client:
            client.call("system.health")
        return self

    def spawn(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start without waiting: for tests of a start that fails."""
        command = [str(self.programs / "stokerd"), "--config", str(self.config)]
        command += ["--state-dir", str(self.state_dir), "--socket", str(self.socket), *arguments]
        with (self.stderr if self.relay is None else self.pipe).open("ab") as stderr:
            self.process = subprocess.Popen(
                command, env={**self.environ, **(environ or {})}, stdin=subprocess.DEVNULL, stderr=stderr
            )
        return self.process

    def _await_ready(self, notify: socket.socket, timeout_s: float) -> None:
        pidfd = os.pidfd_open(self.pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.register(notify, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                ready = {fd for fd, _ in poller.poll(left_s * 1000)}
                if notify.fileno() in ready and b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
                if pidfd in ready:
                    raise DaemonDied(f"exit {self.wait()} before READY; stderr: {self.tail()}")
        finally:
            os.close(pidfd)
        raise DaemonDied(f"not ready within {timeout_s} s; stderr: {self.tail()}")

    @property
    def pipe(self) -> Path:
        return self.home / "stderr.pipe"

    def relay_stderr(self) -> None:
        """From the next start on the stderr goes through a pipe whose reader can be stopped."""
        self.relay = LogRelay(self.pipe, self.stderr)
        self.relay.start()

    def client(self, timeout_s: float = DEADLINE_S) -> stoker.Client:
        return stoker.Client(str(self.socket), timeout_s=timeout_s)

    @property
    def client_environ(self) -> dict[str, str]:
        """The variables with which any program reaches this daemon."""
        return {**self.environ, "STOKER_SOCKET": str(self.socket)}

    def cli(self, *arguments: str, timeout_s: float = DEADLINE_S, **options: Any) -> subprocess.CompletedProcess[str]:
        """`stoker ARGUMENTS` against this daemon, output captured."""
        command = [str(self.programs / "stoker"), *arguments]
        return subprocess.run(
            command, env=self.client_environ, text=True, capture_output=True, timeout=timeout_s, check=False, **options
        )

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal, unless the daemon has been reaped: then another process may have its pid."""
        if self.process is None:
            raise DaemonDied("not started")
        self.process.send_signal(signum)

    def wait(self, timeout_s: float = 90.0) -> int:
        """Wait for the end of the daemon; returns its exit status."""
        if self.process is None:
            raise DaemonDied("not started")
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = 90.0) -> int:
        """Send SIGTERM and wait until it has drained; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill9(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def kill_and_start(self) -> Self:
        """Kill the daemon and start the next one. Launchers and workers go on."""
        self.kill9()
        return self.start()

    def restart_quietly(self) -> int:
        """Start again after a drain that left no job running, and stop; returns the exit status."""
        self.start()
        return self.stop()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.stderr.read_text(errors="replace").splitlines()[-lines:])

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The structured log so far, as written to stderr; of one event name, if given."""
        whole = self.stderr.read_text().rpartition("\n")[0]  # the last line may be half written
        return [event for event in map(json.loads, _log_lines(whole)) if name in (None, event["event"])]

    def logged(self, name: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """The lines of this event with these fields, once there are `count`: a thread writes them later."""

        def matching() -> list[dict[str, Any]]:
            events = [event for event in self.events(name) if fields.items() <= event.items()]
            return events if len(events) >= count else []

        return until(matching, why=f"{count} lines of the event {name} with {fields}")

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query of the database, read beside the daemon."""
        database = self.state_dir / "stoker.db"
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def processes(self) -> Iterator[int]:
        """Daemon, launchers and workers: all processes that have this home in their environment or command line."""
        marks = (f"STOKER_SOCKET={self.socket}\0".encode(), f"--state-dir\0{self.state_dir}\0".encode())
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    text = (entry / "environ").read_bytes() + b"\0" + (entry / "cmdline").read_bytes()
                    if any(mark in text for mark in marks):
                        yield int(entry.name)

    def kill_all(self) -> None:
        """SIGKILL for daemon, launchers and workers, until none is left."""
        until_empty(self._kill_left, why="the end of every process of this instance")

    def end(self) -> None:
        """Kill what is left, and remove the home. Raises LoopKept, unless the test has set `may_be_slow`."""
        self.kill_all()
        if self.relay is not None:
            self.relay.finish()
        slow = [] if self.may_be_slow else self.slow_lines()
        shutil.rmtree(self.home, ignore_errors=True)
        if slow:
            raise LoopKept("\n".join(slow))

    def slow_lines(self) -> list[str]:
        """The lines of the log about turns and callbacks that computed for too long, also for a slow machine."""
        lines = _log_lines(self.stderr.read_text(errors="replace") if self.stderr.is_file() else "")
        slow = {line: json.loads(line)["cpu_ms"] for line in lines if _is_about_slowness(line)}
        limit = SLOW_CPU_MS * self.slowness() if slow else SLOW_CPU_MS
        return [line for line, cpu_ms in slow.items() if cpu_ms > limit]

    def _kill_left(self) -> list[str]:
        """Kill the processes that live; returns the state and the command line of each."""
        left = list(self.processes())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        return [_description(pid) for pid in left]


def _description(pid: int) -> str:
    directory = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
        return f"{pid} {state} {(directory / 'cmdline').read_bytes()[:200]!r}"
    return f"{pid} has ended"


def _log_lines(text: str) -> Iterator[str]:
    """The lines of the structured log. Where a kill cut one off, the first line of the next daemon stands behind it."""
    return (line[max(line.rfind(EVENT), 0) :] for line in text.splitlines() if line.startswith("{"))


def _is_about_slowness(line: str) -> bool:
    """Whether it is a complete line about slowness: the daemon may have been killed while it wrote one."""
    return line.endswith("}") and ('"turn_slow"' in line or '"callback_slow"' in line)
