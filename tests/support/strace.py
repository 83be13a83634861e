"""strace as a fault tool: a daemon whose N-th write kills it, or whose disk fails, and the points for such faults.

Owns how strace is started around a stokerd (whose pid stays its own, and whose children run untraced) or attached to a
running process, and the reading of the trace. Tests choose the points. Invariant: a fault counts only if the trace
shows that it was injected.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.support.daemon import BIN
from tests.support.facts import until

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.support.daemon import DaemonProcess

# Syscalls that change files or send something; a fault at another one (memory, clocks, signals) would show nothing.
SYSCALLS = [
    "accept4",
    "bind",
    "chdir",
    "clone3",
    "vfork",
    "close",
    "connect",
    "dup2",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "fallocate",
    "fchmod",
    "fcntl",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "io_uring_enter",
    "kill",
    "listen",
    "mkdir",
    "openat",
    "pidfd_open",
    "pidfd_send_signal",
    "pipe2",
    "pread64",
    "pwrite64",
    "read",
    "recvfrom",
    "recvmsg",
    "rename",
    "sendmsg",
    "sendto",
    "setsid",
    "socket",
    "unlink",
    "wait4",
    "write",
    "writev",
]
CALL = re.compile(r"^(\d+) +(\w+)\((?:\d+<([^>]*)>)?")
COUNTED = re.compile(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) .*?(\w+)$", re.MULTILINE)
INJECTED = "(INJECTED)"  # printed behind a syscall with an injected error, and not behind one with an injected signal
LEAVES_S = 10
OPTIONS = ("-f", "-y", "-b", "execve")


class Point(NamedTuple):
    """The `number`-th call of a syscall in one thread: strace counts for each thread on its own."""

    syscall: str
    number: int

    def kill(self) -> str:
        return f"inject={self.syscall}:signal=KILL:when={self.number}"


def why_not() -> str | None:
    """Why strace cannot be used here; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", *OPTIONS, "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {tried.stderr.strip()}" if tried.returncode else None


class Strace:
    """Traces each later start of one daemon. `expressions` are those of strace; without any no fault is injected."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.trace = daemon.home / "trace"
        self._programs = daemon.home / "bin"
        self._programs.mkdir()
        (self._programs / "stoker").symlink_to(BIN / "stoker")
        self.set()
        daemon.programs = self._programs

    def set(self, *expressions: str) -> Self:
        """Set the faults for the next start."""
        self.trace.unlink(missing_ok=True)
        asked = " ".join(f"-e {expression}" for expression in expressions)
        command = f"strace -D --seccomp-bpf {' '.join(OPTIONS)} -o {self.trace} {asked} {BIN}/stokerd"
        program = self._programs / "stokerd"
        program.unlink(missing_ok=True)
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
        return self

    def calls(self) -> list[Call]:
        """The calls that were traced since the last start, in order."""
        return calls_of(self.trace)

    def injected(self) -> int:
        """The number of faults that were injected since the last start."""
        return sum(call.injected for call in self.calls())


class Call(NamedTuple):
    """One line of a trace; `file` is the path behind its first argument."""

    syscall: str
    file: str
    injected: bool


def calls_of(trace: Path) -> list[Call]:
    """All traced calls, in order."""
    lines = trace.read_text(errors="replace").splitlines() if trace.exists() else []
    matches = [(call, line) for line in lines if (call := CALL.match(line))]
    return [Call(call[2], PurePath(call[3] or "").name, INJECTED in line) for call, line in matches]


def injected(trace: Path) -> int:
    """The number of injected faults so far."""
    return sum(call.injected for call in calls_of(trace))


def counts_in(table: Path) -> dict[str, int]:
    """How often each syscall was made, by the table of `strace -c`."""
    return {name: int(calls) for calls, name in COUNTED.findall(table.read_text()) if name != "total"}


class Attached:
    """strace attached to a running process, until `detach` or its end. `path`: only calls about that file.

    `counted`: the trace is the table of `strace -c`, written at the end, for `counts_in`.
    """

    def __init__(
        self, pid: int, trace: Path, *expressions: str, path: Path | None = None, counted: bool = False
    ) -> None:
        asked = [word for expression in expressions for word in ("-e", expression)]
        asked += [] if path is None else ["-P", str(path)]
        asked += ["-c"] if counted else []
        command = ["strace", *OPTIONS, "-o", str(trace), *asked, "-p", str(pid)]
        self._pid = pid
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `detach` closes it
        self._process = subprocess.Popen(command, stderr=self._output)
        until(lambda: self._ended() or self._holds_all(), why=f"strace on {pid}")

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _holds_all(self) -> bool:
        """Whether each thread is traced. The kernel names the tracer earlier, when calls may still pass it by."""
        return b" attached" in os.pread(self._output.fileno(), 4096, 0)

    def detach(self) -> None:
        """End strace. May be called twice, and after the process has ended."""
        if not self._ended():
            self._process.terminate()
        if self._output.closed:
            return
        self._output.close()
        try:
            self._process.wait(LEAVES_S)
        except subprocess.TimeoutExpired:
            # If its process is killed meanwhile, strace waits for the main thread, which ends after the others.
            self._process.kill()
            self._process.wait()
        until(lambda: _rests(self._pid), why=f"rest for {self._pid}")


def is_held(pid: int) -> bool:
    """Whether strace keeps its main thread from going on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "t"


def _rests(pid: int) -> bool:
    """Whether it has ended or every thread sleeps: a signal that strace left pending arrives before that."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return not Path(f"/proc/{pid}").exists()
    return all(stat.rpartition(")")[2].split()[0] in "STZX" for stat in stats)


def points(trace: Path, after: str, syscalls: Sequence[str] = SYSCALLS, before: str | None = None) -> list[Point]:
    """Every place behind the first line with `after`, and ahead of the first with `before`, each once."""
    calls: dict[tuple[str, str], int] = {}
    seen_points: set[Point] = set()
    begun = False
    for line in trace.read_text(errors="replace").splitlines():
        if before is not None and before in line:
            break
        begun = begun or after in line
        call = CALL.match(line)
        if call is not None and call[2] in syscalls:
            calls[call[1], call[2]] = number = calls.get((call[1], call[2]), 0) + 1
            if begun:
                seen_points.add(Point(call[2], number))
    return sorted(seen_points)


def some_of_each(every: Sequence[Point], syscalls: Sequence[str], most: int) -> list[Point]:
    """Of many points of one syscall about `most`, evenly chosen, with the first and the last."""
    chosen = []
    for syscall in syscalls:
        numbers = [point.number for point in every if point.syscall == syscall]
        step = max(1, len(numbers) // most)
        chosen += [Point(syscall, number) for number in sorted({*numbers[::step], *numbers[-1:]})]
    return chosen


def draw(every: Sequence[Point], most: int, dice: random.Random) -> list[Point]:
    """Draw a syscall first and then one of its calls: else most faults would hit a read."""
    rounds = defaultdict(list)
    for point in dice.sample(every, len(every)):
        rounds[point.syscall].append(point)
    dealt = [point for round_ in zip_longest(*rounds.values()) for point in round_ if point is not None]
    return dealt[:most]
