"""Stoker beside queues that people use for the same work: task-spooler, Huey on SQLite, beanstalkd with fsync.

All run the same tiny program equally often, in turns in each round; a job counts once its program has run. They keep
less: task-spooler holds everything in memory, and after a job has run beanstalkd knows nothing of it and Huey not how
it ended. `make bench-peers` fetches them. They are not part of `make bench`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import huey_tasks
from benchmarks.beanstalk import BeanstalkClient
from benchmarks.harness import RawConnection, Scale, compiled, daemon, ids_of, request, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    Submit: TypeAlias = Callable[[int], object]  # so many jobs
    Queue: TypeAlias = Callable[["Place", int], AbstractContextManager[Submit]]  # with so many slots

ROOT = Path(__file__).parents[1]
FETCHED = Path(sys.executable).parents[1] / "peers" / "usr" / "bin"  # by .ci/peers
SLOTS = (2, 8)
WARM_UP = 20
SHARE = 5  # of the jobs of other benchmarks: each of them takes as long as a process to submit
MOST_S = 300
START_S = 30


class Place(NamedTuple):
    """Where a queue may keep its files, and the job; the size of `done` is the number of jobs that have run."""

    home: Path
    command: list[str]
    done: Path


# --- the queues -------------------------------------------------------------------------------------------


@contextmanager
def stoker_singly(place: Place, slots: int) -> Iterator[Submit]:
    with daemon(max_running=slots) as process, RawConnection(process.socket) as connection:
        line = request("job.submit", _spec(place))
        yield lambda jobs: ids_of([connection.ask(line) for _ in range(jobs)])


@contextmanager
def stoker_in_batches(place: Place, slots: int) -> Iterator[Submit]:
    with daemon(max_running=slots) as process, RawConnection(process.socket) as connection:
        yield lambda jobs: connection.submit(jobs, _spec(place))


@contextmanager
def task_spooler(place: Place, slots: int) -> Iterator[Submit]:
    most = {"TS_MAXFINISHED": "100000", "TS_MAXCONN": "100000"}
    environ = {**os.environ, **most, "TS_SOCKET": str(place.home / "tsp"), "TMPDIR": str(place.home)}
    tsp = [_program("tsp")]

    def ask(*arguments: str) -> None:
        subprocess.run([*tsp, *arguments], env=environ, check=True, stdout=subprocess.DEVNULL)

    ask("-S", str(slots))
    try:
        yield partial(_repeat, partial(ask, "-n", *place.command))
    finally:
        ask("-K")


@contextmanager
def huey(place: Place, slots: int) -> Iterator[Submit]:
    file = str(place.home / "huey.db")
    consumer = [str(Path(sys.executable).with_name("huey_consumer")), "benchmarks.huey_tasks.QUEUE", "-q"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), huey_tasks.VARIABLE: file}
    _, run = huey_tasks.queue_at(file)
    with _running([*consumer, "-w", str(slots)], environ):
        yield partial(_repeat, partial(run, place.command))


@contextmanager
def beanstalkd(place: Place, slots: int) -> Iterator[Submit]:
    path = place.home / "beanstalkd"
    with ExitStack() as running:
        running.enter_context(_running([_program("beanstalkd"), "-l", f"unix:{path}", "-b", str(place.home), "-f0"]))
        _await(path.exists, START_S, "the socket of beanstalkd")
        worker = [sys.executable, "-m", "benchmarks.beanstalk", str(path)]
        for _ in range(slots):
            running.enter_context(_running(worker))
        client = running.enter_context(BeanstalkClient(str(path)))
        yield partial(_repeat, partial(client.put, place.command))


def _repeat(submit_one: Callable[[], object], jobs: int) -> None:
    for _ in range(jobs):
        submit_one()


# The least and the aim of Stoker's speed as a share of theirs.
PEERS: dict[str, tuple[Queue, float, float]] = {
    "task-spooler": (task_spooler, 1, 1),
    "Huey": (huey, 1, 1),
    "beanstalkd": (beanstalkd, 0.8, 1),
}
OURS: dict[str, Queue] = {"one submit at a time": stoker_singly, "batches of 100": stoker_in_batches}


# --- measuring --------------------------------------------------------------------------------------------


def rows(scale: Scale) -> Iterator[Row]:
    _require_peers()
    jobs = scale.jobs // SHARE
    for slots in SLOTS:
        theirs: dict[str, list[float]] = {name: [] for name in PEERS}
        ours: dict[str, list[float]] = {how: [] for how in OURS}
        for _ in range(scale.rounds):
            for name, (queue, _, _) in PEERS.items():
                theirs[name].append(_jobs_a_second(queue, slots, jobs))
            for how, queue in OURS.items():
                ours[how].append(_jobs_a_second(queue, slots, jobs))
        for how, rates in ours.items():
            for name, (_, must, goal) in PEERS.items():
                ratios = [our / their for our, their in zip(rates, theirs[name], strict=True)]
                figures = f"{statistics.median(rates):,.0f} jobs/s; {statistics.median(theirs[name]):,.0f}/s"
                what = f"jobs/s, {slots} at a time, {how}, against {name}"
                yield Row(what, ratios, must, goal, figures, more_is_better=True)


def _jobs_a_second(queue: Queue, slots: int, jobs: int) -> float:
    with workshop() as folder:
        home = Path(folder)
        done = home / "done"
        place = Place(home, [str(compiled("append_byte", home)), str(done)], done)
        with queue(place, slots) as submit:
            _run(place, submit, WARM_UP)
            return jobs / _run(place, submit, jobs)


def _run(place: Place, submit: Submit, jobs: int) -> float:
    """Seconds from the first submit until the last job has run."""
    place.done.write_bytes(b"")
    begin = time.perf_counter()
    submit(jobs)
    _await(lambda: place.done.stat().st_size >= jobs, MOST_S, f"the end of {jobs} jobs")
    return time.perf_counter() - begin


def _await(fact: Callable[[], bool], most_s: float, what: str) -> None:
    deadline = time.monotonic() + most_s
    while not fact():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {most_s} s for {what}")
        time.sleep(0.001)


def _spec(place: Place) -> dict[str, object]:
    return {"command": place.command[0], "args": place.command[1:]}


@contextmanager
def _running(command: list[str], environ: dict[str, str] | None = None) -> Iterator[None]:
    """A program that runs until the end of the block."""
    none = subprocess.DEVNULL  # beanstalkd complains on stderr that a worker was ended
    process = subprocess.Popen(command, env=environ, cwd=ROOT, stdin=none, stdout=none, stderr=none)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{FETCHED}:{os.environ['PATH']}")
    if found is None:
        raise SystemExit(f"{name} is not here: `make bench-peers` fetches it")
    return found


def _require_peers() -> None:
    """Before the first is measured. SystemExit names what is missing."""
    for name in ("tsp", "beanstalkd"):
        _program(name)
    if importlib.util.find_spec("huey") is None:
        raise SystemExit("Huey is not here: `make bench-peers` installs it")
