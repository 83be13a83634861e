"""Jobs whose worker is tests/support/hostile.py, and the checks during and after their deeds.

Owns how such a job is submitted, how a test sees that its deed is done, and which of its processes still live.
Invariant: a process counts as alive if it works anywhere below the directory of the job, whatever its environment and
its parent are.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.process.attempt_logs import log_path
from tests.support import hostile
from tests.support.descriptors import count_fds
from tests.support.facts import until
from tests.support.torture import launchers, zombies_of
from tests.support.work import end_of, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

MIB = 1024 * 1024
MAX_LOG_BYTES = MIB
COMMON = {"grace_ms": 300, "max_log_bytes": MAX_LOG_BYTES}


class Harm:
    """One job, in a directory of its own."""

    def __init__(self, daemon: DaemonProcess, client: stoker.Client, deed: str, then: str, **options: Any) -> None:
        self.deed = deed
        self._state_dir = daemon.state_dir
        self.directory = daemon.home / f"harm.{deed}.{then}.{options.get('timeout_ms', 0)}"
        self.directory.mkdir()
        args = ["-I", "-S", hostile.__file__, deed, then]
        spec: dict[str, Any] = {"command": sys.executable, "args": args, "working_dir": str(self.directory)}
        self.job = submit(client, {**spec, **COMMON, **options})

    def await_deed(self) -> None:
        until(lambda: list(self.directory.glob("ready.*")), why=f"the deed of {self.deed}")

    def open_log(self) -> int:
        """The log as its launcher has it open, even if its name is gone. Closed at the end of the test's process."""
        log = until(self._open_log, why="a log")
        assert log is not None
        return log

    def _open_log(self) -> int | None:
        for pid in launchers(self._state_dir).values():
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                if str(fd.readlink()).startswith(f"{log_path(self._state_dir, self.job, 1)}"):
                    return os.open(fd, os.O_RDONLY)
        return None

    def end(self, client: stoker.Client) -> tuple[str, str | None]:
        return end_of(client, self.job, 60)

    def alive(self) -> list[str]:
        """Its living processes: pid and command."""
        return [worker for pid, worker in living(self.directory)]


def living(directory: Path) -> list[tuple[int, str]]:
    """Processes that work below `directory` and are no zombies."""
    workers = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(directory):
                    workers.append((int(entry.name), f"{entry.name} {(entry / 'cmdline').read_bytes()[:200]!r}"))
    return workers


def tally(daemon: DaemonProcess) -> dict[str, int]:
    """The numbers of descriptors and zombies of the daemon, and of all its launchers together."""
    pids = {"daemon": [daemon.pid], "launchers": list(launchers(daemon.state_dir).values())}
    descriptors = {f"descriptors of {name}": sum(map(count_fds, of)) for name, of in pids.items()}
    return descriptors | {f"zombies of {name}": sum(len(zombies_of(pid)) for pid in of) for name, of in pids.items()}


def grown(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """The numbers that have grown. They may shrink: a daemon that just worked may have had a file open."""
    return {name: count for name, count in now.items() if count > before[name]}


def disk_bytes(log: int) -> int:
    return os.fstat(log).st_blocks * 512
