"""Specs of workers whose progress a test controls, and short reads of a daemon's jobs and history.

Owns the gate (a FIFO on which workers wait until it is opened) and the reads that many tests make. They need only a
client.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from tests.support.facts import DEADLINE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import stoker

SH = "/bin/sh"


class Gate:
    """Workers wait at `path` until it is opened; later ones pass, as it is an empty file then.

    It never goes away: a worker that comes a moment later would complain in its log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._end: int | None = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # a writer, so that readers wait

    def open(self) -> None:
        if self._end is not None:
            empty = self.path.with_name(f"{self.path.name}.opened")
            empty.touch()
            empty.replace(self.path)
            os.close(self._end)
            self._end = None

    def pass_by(self, then: str = "") -> tuple[str, str, str]:
        """Command and arguments of a worker that waits, then does `then`."""
        return SH, "-c", f"read _ < {self.path}; {then or ':'}"

    def spec(self, then: str = "", **options: Any) -> dict[str, Any]:
        command, *args = self.pass_by(then)
        return {"command": command, "args": args, **options}


class DeafWorker:
    """A worker that ignores SIGTERM: it appends its pid to `pids`, then waits at a gate until it is killed."""

    def __init__(self, gate: Gate, pids: Path) -> None:
        self.pids = pids
        self.script = f"trap '' TERM; echo $$ >> {pids}; while :; do read _ < {gate.path}; done"

    def submit(self, client: stoker.Client, **options: Any) -> int:
        """The id of a job with such a worker, which ignores SIGTERM by now."""
        job = submit(client, shell(self.script), **options)
        until(lambda: lines(self.pids), why="a worker that ignores SIGTERM")
        return job


def shell(script: str, **options: Any) -> dict[str, Any]:
    """The spec of a shell script."""
    return {"command": SH, "args": ["-c", script], **options}


def submit(client: stoker.Client, spec: dict[str, Any], **options: Any) -> int:
    """The id of a job that must be accepted."""
    job: int = client.call("job.submit", {**spec, **options})["id"]
    return job


def submit_running(client: stoker.Client, spec: dict[str, Any], **options: Any) -> int:
    """The id of a job that has a worker now."""
    job = submit(client, spec, **options)
    running(client, job)
    return job


def submit_many(
    client: stoker.Client, specs: Iterable[dict[str, Any]], *, atomic: bool = False
) -> list[dict[str, Any]]:
    """The answer for each job, in the order sent."""
    asked: Any = specs
    answers: Any = client.submit_many(asked, atomic=atomic)
    return list(answers)


def newest(client: stoker.Client) -> int:
    """The id of the job that was submitted last. (`stoker ls` begins with those that have not ended.)"""
    ident: int = client.list(limit=1)["jobs"][0]["id"]
    return ident


def state(client: stoker.Client, job: int) -> str:
    current: str = client.get(job)["state"]
    return current


def end_of(client: stoker.Client, job: int, timeout_s: float = DEADLINE_S) -> tuple[str, str | None]:
    """State and reason in which a job ended, or was held."""
    (standing,) = client.wait(job, timeout_s=timeout_s)
    return standing["state"], standing["reason"]


def running(client: stoker.Client, *jobs: int) -> None:
    """Return when all of them have a worker."""
    for job in jobs:
        until(lambda job=job: client.get(job)["pid"], why=f"a worker of job {job}")  # type: ignore[misc]


def job_view(client: stoker.Client, job: int) -> Any:
    """The job as `client.get` shows it, for tests that know which of its optional values are there."""
    return client.get(job)


def attempts_of(client: stoker.Client, job: int) -> Any:
    """The newest attempts of a job, as `job_view`."""
    return client.history(job)["attempts"]


def changes(client: stoker.Client, job: int, cause: str | None = None) -> list[Any]:
    """The changes of a job, or only those with that cause."""
    return [change for change in client.history(job)["changes"] if cause in (None, change["cause"])]


def by_start(client: stoker.Client, *jobs: int) -> list[int]:
    """The same jobs in the order in which they were first started."""
    return sorted(jobs, key=lambda job: int(changes(client, job, "dispatched")[0]["seq"]))


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []


def alive(pid: int | None) -> bool:
    """Whether a process exists and is no zombie."""
    assert pid is not None, "there was no process"
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - a read of /proc
            return stat.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill9(pid: int | None) -> None:
    """Kill a process that need not be a child of ours, and return when it is gone."""
    assert pid is not None, "there was no process"
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), why=f"the end of {pid}")
