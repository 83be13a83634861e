"""The parts of every benchmark: a daemon of its own, a connection that costs nothing, compiled yardsticks.

Owns the scale (`Scale`: how many jobs, how many rounds) and the raw client: requests are encoded before the clock
runs, answers are only counted, so that only the daemon is measured. table.py judges.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

SOURCES = Path(__file__).parent / "c"
TRUE = {"command": "/bin/true"}
BATCH = 100


class Scale(NamedTuple):
    """The amount of work of a benchmark. `quick` shows that it runs; its numbers mean nothing."""

    rounds: int
    jobs: int
    deep: int
    idle_s: float


FULL = Scale(rounds=5, jobs=2_000, deep=1_000_000, idle_s=20)
QUICK = Scale(rounds=1, jobs=100, deep=2_000, idle_s=1)


def daemon(max_running: int = 8, settings: str = "") -> DaemonProcess:
    """A daemon with so many slots, and a probe that never pauses a benchmark. `settings`: further sections."""
    slots = f"[daemon]\nmax_running = {max_running}\n[cpu]\nthrottle_threshold = 100\n{settings}"
    return measured(DaemonProcess(slots))


def measured(process: DaemonProcess) -> DaemonProcess:
    """The table judges how fast it is, and no limit of the tests."""
    process.may_be_slow = True
    return process


def compiled(name: str, folder: Path) -> Path:
    """Compile benchmarks/c/NAME.c into `folder`."""
    program = folder / name
    subprocess.run(["cc", "-O2", "-o", program, SOURCES / f"{name}.c"], check=True)
    return program


def workshop() -> tempfile.TemporaryDirectory[str]:
    """A folder on the file system that the daemons of the benchmarks write to."""
    return tempfile.TemporaryDirectory(prefix="stoker-bench-")


def request(method: str, params: dict[str, Any], identifier: int = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode() + b"\n"


def batches(jobs: int, spec: dict[str, Any], size: int = BATCH) -> Iterator[bytes]:
    """`jobs` times the same spec, as encoded `job.submit_many` of `size` each."""
    for first in range(0, jobs, size):
        yield request("job.submit_many", {"jobs": [spec] * min(size, jobs - first)})


class RawConnection:
    """A socket to the daemon that sends bytes made beforehand and gives back answers as bytes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.answers = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.close()
        self.socket.close()

    def ask(self, line: bytes) -> bytes:
        """One request, one answer."""
        self.socket.sendall(line)
        return self.answers.readline()

    def pipeline(self, lines: Sequence[bytes], window: int) -> list[bytes]:
        """Send everything, at most two windows ahead of the answers."""
        answers: list[bytes] = []
        for first in range(0, len(lines), window):
            self.socket.sendall(b"".join(lines[first : first + window]))
            if first:
                answers += [self.answers.readline() for _ in range(window)]
        return answers + [self.answers.readline() for _ in range(len(lines) - len(answers))]

    def call(self, method: str, **params: Any) -> Any:
        return result(self.ask(request(method, params)))

    def submit(self, jobs: int, spec: dict[str, Any]) -> list[int]:
        """Submit in batches, two ahead; gives the ids."""
        return ids_of(self.pipeline(list(batches(jobs, spec)), window=1))

    def wait(self, ids: Sequence[int]) -> None:
        """Until the end of every job is on disk."""
        ends = self.call("job.wait", ids=list(ids))["jobs"]
        unexpected = [end for end in ends if end["state"] != "succeeded"]
        if len(ends) != len(ids) or unexpected:
            raise AssertionError(f"{len(ends)} ends of {len(ids)} jobs; not succeeded: {unexpected[:3]}")


def result(answer: bytes) -> Any:
    """The result of an answer; an error ends the benchmark, as refusing a job is fast."""
    message = json.loads(answer)
    if "result" not in message:
        raise AssertionError(f"the daemon answered {message}")
    return message["result"]


def ids_of(answers: Sequence[bytes]) -> list[int]:
    """The ids in answers to `job.submit` or `job.submit_many`."""
    results = [result(answer) for answer in answers]
    return [job["id"] for found in results for job in found.get("jobs", [found])]
