"""Six jobs, one for each policy, that meet the same fault: their specs, their states, and their ends.

Owns the six policies, the worker (writes START with its pid, waits at the gate, exits 3) and the short form of an end,
as in `held orphaned 1`: state, reason, number of STARTs. Tests cause the faults. Invariant: no two workers of one job
live at once; this is checked at every START.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import alive, lines, running, shell, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.work import Gate

POLICIES: dict[str, dict[str, Any]] = {
    "fail": {"on_orphan": "fail"},
    "fail+survive": {"on_orphan": "fail", "survive": True},
    "requeue": {"on_orphan": "requeue"},
    "requeue+survive": {"on_orphan": "requeue", "survive": True},
    "hold": {"on_orphan": "hold"},
    "hold+survive": {"on_orphan": "hold", "survive": True},
}
LIVE = ("waiting", "queued", "running")


class Start(NamedTuple):
    job: int
    pid: int

    @property
    def lives(self) -> bool:
        """Whether its worker lives. The pid alone is no proof, as another process may have it."""
        try:
            shown = Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        except (
            FileNotFoundError,
            ProcessLookupError,
            PermissionError,
        ):  # of another user, or ending: only root may look
            return False
        return f"STOKER_JOB_ID={self.job}".encode() in shown and alive(self.pid)


def identities_on_disk(of: DaemonProcess) -> list[int]:
    """The pids that are on disk: they are stored with a later commit than their attempts."""
    return sorted(pid for (pid,) in of.rows("SELECT pid FROM attempts WHERE ended_at IS NULL AND pid > 0"))


class Six:
    """The six jobs, by policy."""

    def __init__(self, daemon: DaemonProcess, gate: Gate) -> None:
        self.daemon = daemon
        self.gate = gate
        self._ledger = daemon.home / "starts"
        self._script = f"echo $STOKER_JOB_ID $$ >> {self._ledger}; read _ < {gate.path}; exit 3"
        self.jobs: dict[str, int] = {}
        self.moved = ExitStack()

    def submit(self, client: stoker.Client, **options: Any) -> None:
        for policy, asked in POLICIES.items():
            self.jobs[policy] = submit(client, shell(self._script), grace_ms=2_000, **asked, **options)

    def run(self) -> None:
        """Submit all and wait until each has written START."""
        with self.daemon.client() as client:
            self.submit(client)
            running(client, *self.jobs.values())
        until(lambda: len(self.starts()) == len(POLICIES), why="six STARTs")

    def starts(self) -> list[Start]:
        """The START lines of workers; a decoy with the same command line writes none."""
        records = [line.split() for line in lines(self._ledger)]
        return [Start(int(words[0]), int(words[1])) for words in records if len(words) == len(Start._fields)]

    def workers(self) -> list[int]:
        """The workers that wrote START and still live."""
        return [start.pid for start in self.starts() if start.lives]

    def standings(self, client: stoker.Client) -> dict[str, str]:
        """State, reason and number of STARTs of each."""
        starts = self.starts()
        by_policy = {}
        for policy, job in self.jobs.items():
            view = client.get(job)
            own = [start for start in starts if start.job == job]
            assert not any(start.lives for start in own[:-1]), f"{policy}: two workers at once"
            by_policy[policy] = f"{view['state']} {view['reason']} {len(own)}"
        return by_policy

    def argv(self) -> tuple[str, ...]:
        """The command line of a worker."""
        return ("/bin/sh", "-c", self._script)

    def move(self) -> None:
        """Copy the directory; later starts use the copy."""
        original, copy = self.daemon, DaemonProcess(self.daemon.config.read_text())
        shutil.copytree(original.state_dir, copy.state_dir, ignore=shutil.ignore_patterns("*.sock"))
        copy.state_dir.chmod(0o700)
        self.daemon = copy
        self.moved.callback(copy.end)

    def launcher(self) -> int:
        with self.daemon.client() as client:
            pid: int = client.call("system.status")["launchers"][0]["pid"]
            return pid

    def fates(self) -> dict[str, str]:
        """Wait for the jobs that must not go on, open the gate, then wait for the end of all jobs and workers."""
        with self.daemon.client() as client:
            until(lambda: self._settled(client), why="the ends of those that may not survive")
            for pid in self.workers():
                os.kill(pid, signal.SIGCONT)
            self.gate.open()
            until(lambda: self._ended(client), why="six ends")
            until(lambda: not self.workers(), why="the end of every worker")
            return self.standings(client)

    def _settled(self, client: stoker.Client) -> bool:
        """Whether surviving jobs run, safe jobs run again, and all others have ended."""
        views = [client.get(job) for job in self.jobs.values()]
        return all(
            one["state"] not in LIVE or (one["state"] == "running" and (one["survive"] or one["attempts"] == 2))
            for one in views
        )

    def _ended(self, client: stoker.Client) -> bool:
        return not any(standing.startswith(LIVE) for standing in self.standings(client).values())
