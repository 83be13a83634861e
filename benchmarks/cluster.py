"""Jobs on a Slurm of this machine: handed over, run to their end, and looked after while many wait.

The yardsticks are Slurm's own: a shell that calls `sbatch` again and again, and one job array. All sides use the same
cluster in turns. Without Slurm nothing is measured, which a line on stderr reports.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import TRUE, RawConnection, Scale, measured
from benchmarks.table import Row
from tests.support.daemon import DaemonProcess
from tests.support.slurm import ENVIRON, Slurm, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = """
[cluster]
directory = "{home}/shared"
[queues.runs]
backend = "slurm"
max_running = 20000
[queues.runs.slurm]
partition = "main"
[queues.waits]
backend = "slurm"
max_running = 20000
[queues.waits.slurm]
partition = "down"
"""
MOST_ROUNDS = 3  # each takes a minute
SHARE = 2  # of the jobs of other benchmarks: Slurm starts 50 a second here
OUTSTANDING = 5  # times the jobs of other benchmarks
MOST_S = 1_200
LOOK_S, LOOK_PAUSE = 0.1, 5  # a pause at least, and as a multiple of the look before it: a long list costs Slurm much
TICKS_A_SECOND = 100
LOOP = 'i=0; while [ "$i" -lt "$1" ]; do sbatch --parsable --partition="$2" --output=/dev/null "$3"; i=$((i+1)); done'


def rows(scale: Scale) -> Iterator[Row]:
    missing = why_not()
    if missing is not None:
        print(f"cluster: not measured: {missing}", file=sys.stderr)
        return
    rounds, jobs = min(scale.rounds, MOST_ROUNDS), scale.jobs // SHARE
    with Slurm(most_jobs=100_000) as slurm, _daemon(slurm) as process, RawConnection(process.socket) as connection:
        bare = BareSlurm(slurm)
        yield from _to_their_end(bare, connection, rounds, jobs)
        yield _handed_over(bare, connection, rounds, jobs)
        handed = rounds * jobs
        connection.submit(OUTSTANDING * scale.jobs - handed, TRUE | {"queue": "waits"})
        bare.await_listed("down", OUTSTANDING * scale.jobs)
        yield _looked_after(process, OUTSTANDING * scale.jobs, scale.idle_s)


def _daemon(slurm: Slurm) -> DaemonProcess:
    process = measured(DaemonProcess(environ=slurm.environ))
    process.config.write_text(SETTINGS.format(home=process.home))
    return process


class BareSlurm:
    """Slurm by its commands alone. `script` does nothing."""

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm
        self.script = slurm.root / "nothing.sh"
        self.script.write_text("#!/bin/sh\nexec /bin/true\n")

    def loop(self, jobs: int, partition: str) -> float:
        """Seconds until a shell has called sbatch so often."""
        began = time.perf_counter()
        command = ["sh", "-c", LOOP, "sh", str(jobs), partition, str(self.script)]
        subprocess.run(command, env=ENVIRON | self._slurm.environ, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    def loop_to_their_end(self, jobs: int) -> float:
        began = time.perf_counter()
        self.loop(jobs, "main")
        self.await_listed("main", 0)
        return time.perf_counter() - began

    def array_to_its_end(self, jobs: int) -> float:
        began = time.perf_counter()
        self._slurm.run("sbatch", f"--array=0-{jobs - 1}", "--partition=main", "--output=/dev/null", str(self.script))
        self.await_listed("main", 0)
        return time.perf_counter() - began

    def await_listed(self, partition: str, jobs: int) -> None:
        """Until so many jobs of the partition wait or run."""
        began = looked = time.monotonic()
        while (listed := self._listed(partition)) != jobs:
            if looked - began > MOST_S:
                raise AssertionError(f"{listed} jobs in the partition {partition}, not {jobs}, after {MOST_S} s")
            took_s, looked = time.monotonic() - looked, time.monotonic()
            time.sleep(max(LOOK_S, LOOK_PAUSE * took_s))

    def drop(self, user_jobs: str) -> None:
        """Cancel the jobs of this name."""
        self._slurm.run("scancel", "--quiet", f"--name={user_jobs}")

    def _listed(self, partition: str) -> int:
        return len(self._slurm.run("squeue", "--array", "--noheader", f"--partition={partition}").splitlines())


def _to_their_end(bare: BareSlurm, connection: RawConnection, rounds: int, jobs: int) -> Iterator[Row]:
    ours, arrays, loops = [], [], []
    for _ in range(rounds):
        arrays.append(bare.array_to_its_end(jobs))
        loops.append(bare.loop_to_their_end(jobs))
        began = time.perf_counter()
        connection.wait(connection.submit(jobs, TRUE | {"queue": "runs"}))
        ours.append(time.perf_counter() - began)
    for name, theirs, must, goal in (("an array", arrays, 1.2, 1), ("a loop of sbatch", loops, 1.2, 1)):
        figures = f"{jobs / statistics.median(ours):,.0f} jobs/s; {jobs / statistics.median(theirs):,.0f}/s"
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        yield Row(f"{jobs:,} short jobs on Slurm to their ends, against {name}", ratios, must, goal, figures, unit="x")


def _handed_over(bare: BareSlurm, connection: RawConnection, rounds: int, jobs: int) -> Row:
    """From the first submit until Slurm lists the last. The jobs stay there and wait."""
    ours, theirs = [], []
    for done in range(rounds):
        theirs.append(jobs / bare.loop(jobs, "down"))
        bare.drop(bare.script.name)
        bare.await_listed("down", done * jobs)
        began = time.perf_counter()
        connection.submit(jobs, TRUE | {"queue": "waits"})
        bare.await_listed("down", (done + 1) * jobs)
        ours.append(jobs / (time.perf_counter() - began))
    figures = f"{statistics.median(ours):,.0f} jobs/s; {statistics.median(theirs):,.0f}/s"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    what = "jobs/s submitted and handed to Slurm, against a loop of sbatch"
    return Row(what, ratios, 0.8, 1, figures, more_is_better=True)


def _looked_after(process: DaemonProcess, jobs: int, seconds: float) -> Row:
    before_s, began = _cpu_s(process.pid), time.perf_counter()
    time.sleep(seconds)
    percent = 100 * (_cpu_s(process.pid) - before_s) / (time.perf_counter() - began)
    what = f"CPU of the daemon and its commands, {jobs:,} jobs wait in Slurm, of one core"
    return Row(what, [percent], 1, 0.5, f"over {seconds:g} s", unit=" %")


def _cpu_s(pid: int) -> float:
    """Of a process and of its children that have ended (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS_A_SECOND
