"""Real launchers over a temporary state directory, and their reports.

Owns the directory, the clients and every report in the order in which it came. Launchers are started as the daemon
starts them. After `end()` no process of this instance is left, not even one that emptied its environment. A worker that
is to stay opens the FIFO `never`, to which nothing is ever written.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stoker.process.client import LauncherClient
from stoker.process.connection import dial
from stoker.process.identity import read_stat
from stoker.process.launchers import start_launcher
from stoker.process.messages import Exited, Gone, LauncherReport, LaunchOrder, LaunchRefused, RunState, Setup, Started
from stoker.process.run_roots import RunRoots
from tests.support.facts import DEADLINE_S, until, until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

R = TypeVar("R", bound=LauncherReport)
PROC = Path("/proc")


class LauncherHost:
    """One instance: its launchers, their clients, and all that was reported."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="stoker-"))
        self.state_dir = self.home / "state"
        self.state_dir.mkdir()
        self.roots = RunRoots(self.state_dir)
        self.instance = secrets.token_hex(8)
        self.never = self.home / f"never-{self.instance}"
        os.mkfifo(self.never)
        self.reports: list[tuple[str, LauncherReport]] = []
        self.clients: list[LauncherClient] = []
        self.launchers: list[int] = []
        self.children: list[int] = []
        self._wires: list[Wire] = []
        self._jobs = 0

    # --- launchers ---

    async def start(self, epoch: int = 1, **options: Any) -> LauncherClient:
        client = await start_launcher(self.state_dir, epoch, self.instance, self.hear, **options)
        self.clients.append(client)
        self.launchers.append(client.facts.pid)
        return client

    async def reconnect(self, launcher: str, epoch: int, **options: Any) -> LauncherClient:
        client = LauncherClient(self.state_dir, launcher, self.hear, **options)
        self.clients.append(client)
        await client.connect()
        await client.hello(epoch, self.instance)
        return client

    def wire(self, launcher: str) -> Wire:
        """A connection without a client."""
        self._wires.append(Wire(dial(self.state_dir, launcher)))
        return self._wires[-1]

    def hear(self, launcher: str, reports: list[LauncherReport]) -> None:
        self.reports += [(launcher, report) for report in reports]

    # --- runs ---

    def order(self, *argv: str, epoch: int = 1, ordinal: int = 1, **fields: Any) -> LaunchOrder:
        """An order for a new job, or of a later attempt of the newest one."""
        self._jobs += ordinal == 1
        run_id = f"{self._jobs}.{ordinal}.{secrets.token_hex(8)}"
        values: dict[str, Any] = {
            "env": {"PATH": os.environ["PATH"], "STOKER_RUN_ID": run_id, "STOKER_INSTANCE": self.instance},
            "working_dir": str(self.home),
            "log": str(self.state_dir / "logs" / "0" / str(self._jobs) / f"{ordinal}.log"),
            "max_log_bytes": 1 << 26,
            "umask": 0o077,
        }
        return LaunchOrder(epoch=epoch, run_id=run_id, argv=argv, **(values | fields))

    def shell(self, script: str, **fields: Any) -> LaunchOrder:
        """A shell script. `$0` is a FIFO: a process that is to stay reads from it, and it marks the process as ours."""
        return self.order("/bin/sh", "-c", script, str(self.never), **fields)

    def staying(self, **fields: Any) -> LaunchOrder:
        """One process that stays until it is signalled."""
        return self.shell("read _ < $0", **fields)

    def deaf(self, **fields: Any) -> LaunchOrder:
        """One process that ignores SIGTERM once it has printed `up`, and stays until it is killed."""
        return self.shell("trap '' TERM; echo up; read _ < $0", **fields)

    def python(self, script: str, **fields: Any) -> LaunchOrder:
        return self.order(sys.executable, "-I", "-S", "-c", script, str(self.never), **fields)

    async def run(self, client: LauncherClient, order: LaunchOrder) -> Exited:
        """Launch and wait for the exit."""
        client.launch([order])
        return await self.heard(Exited, order)

    async def running(self, client: LauncherClient, order: LaunchOrder, *words: str) -> Started:
        """Launch and wait until its log has `said`."""
        client.launch([order])
        started = await self.heard(Started, order)
        for word in words:
            await until_async(lambda word=word: word in log_of(order), why=f"{word!r} in the log of {order.argv}")  # type: ignore[misc]
        return started

    def first_report(self, kind: type[R], order: LaunchOrder) -> R | None:
        """The first report of that kind on this run."""
        return next((r for _, r in self.reports if isinstance(r, kind) and r.run_id == order.run_id), None)  # type: ignore[union-attr]

    async def heard(self, kind: type[R], order: LaunchOrder) -> R:
        report = await until_async(lambda: self.first_report(kind, order), why=f"{kind.__name__} of {order.argv}")
        assert report is not None
        return report

    async def gone(self, order: LaunchOrder) -> Gone:
        return await self.heard(Gone, order)

    async def gone_from_proc(self, pid: int) -> None:
        await until_async(lambda: not (PROC / str(pid)).exists(), why=f"the end of {pid}")

    async def refused(self, client: LauncherClient, order: LaunchOrder) -> LaunchRefused:
        client.launch([order])
        return await self.heard(LaunchRefused, order)

    async def state(self, client: LauncherClient, order: LaunchOrder) -> RunState:
        runs = await client.list_runs([order.run_id])
        return next(run.state for run in runs if run.run_id == order.run_id)

    def count(self, kind: type[LauncherReport]) -> int:
        return sum(isinstance(report, kind) for _, report in self.reports)

    # --- the end ---

    def processes(self) -> Iterator[int]:
        """Every living process that shows the id of this instance, and all descendants of its launchers."""
        children: dict[int, list[int]] = {}
        pids = set()
        for entry in PROC.iterdir():
            if entry.name.isdecimal() and (stat := read_stat(int(entry.name))) is not None and not stat.ended:
                children.setdefault(stat.parent, []).append(int(entry.name))
                with contextlib.suppress(OSError):
                    shown = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                    if self.instance.encode() in shown:
                        pids.add(int(entry.name))
        todo = list(pids - {os.getpid()})
        while todo:
            pid = todo.pop()
            yield pid
            todo += [child for child in children.get(pid, ()) if child not in pids]

    def workers(self) -> list[int]:
        return [pid for pid in self.processes() if pid not in self.launchers]

    async def end(self) -> None:
        for client in self.clients:
            client.close()
        for wire in self._wires:
            wire.close()
        await until_async(self._all_killed, why="the end of every process of this instance")
        shutil.rmtree(self.home)

    def _all_killed(self) -> bool:
        left = list(self.processes())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self.children:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):  # it lives, so its pid was not used again
                    os.kill(pid, signal.SIGKILL)
        # Launchers are reaped by the loop, where start_launcher asked it to.
        return not left and not any((PROC / str(pid)).exists() for pid in self.launchers)


class Wire:
    """A raw connection to a launcher, for messages that our client never sends."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE_S)
        self._sock = sock
        self._stream = sock.makefile("rb")

    def say(self, *messages: dict[str, Any]) -> None:
        body = json.dumps(messages).encode()
        self._sock.sendall(struct.pack(">I", len(body)) + body)

    def send_raw(self, data: bytes) -> None:
        self._sock.sendall(data)

    def hello(self, instance: str, epoch: int = 1) -> dict[str, Any]:
        self.say({"op": "hello", "version": 1, "epoch": epoch, "instance": instance})
        return self.hear()[0]

    def hear(self) -> list[dict[str, Any]]:
        """The messages of the next frame; none at the end of the connection."""
        try:
            head = self._stream.read(4)
        except ConnectionResetError:
            return []
        if not head:
            return []
        messages: list[dict[str, Any]] = json.loads(self._stream.read(struct.unpack(">I", head)[0]))
        return messages

    def close(self) -> None:
        self._stream.close()
        self._sock.close()


class Stranger:
    """A child of the test itself: a process that only looks like a worker, or a worker without a launcher."""

    def __init__(self, host: LauncherHost, *argv: str, **environ: str) -> None:
        self.pid = os.posix_spawn(argv[0], [*argv], environ)
        host.children.append(self.pid)
        until(lambda: shows_itself(self.pid, environ) or self.ended(), why="the end of an exec")

    def ended(self) -> bool:
        stat = read_stat(self.pid)
        return stat is None or stat.ended


def shows_itself(pid: int, environ: Mapping[str, str]) -> bool:
    """Whether its exec is over: before, a process shows neither arguments nor environment, then only the arguments."""
    shown = PROC / str(pid)
    return bool((shown / "cmdline").read_bytes() and (not environ or (shown / "environ").read_bytes()))


def log_of(order: LaunchOrder) -> str:
    """The log of the run so far."""
    path = Path(order.log)
    return path.read_text() if path.exists() else ""


def pid_of(order: LaunchOrder, name: str) -> int:
    """The pid that a process of the run printed."""
    return next(int(line.split()[1]) for line in log_of(order).splitlines() if line.startswith(f"{name} "))


def ended(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.ended


def end_of(pid: int) -> Callable[[], bool]:
    """Whether this process has ended. Tests that set back the pids of the host may give its number to another one."""
    born = read_stat(pid)
    assert born is not None, f"process {pid} has ended already"

    def has_ended() -> bool:
        stat = read_stat(pid)
        return stat is None or stat.ended or stat.start_ticks != born.start_ticks

    return has_ended


def with_setup(**fields: Any) -> dict[str, Any]:
    return {"setup": Setup(**fields)}


def children_of(pid: int) -> list[int]:
    """Its living children, from /proc."""
    return [int(child) for child in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
