"""Durable submits: how fast the daemon accepts jobs, against SQLite alone storing the same rows as durably.

The yardstick (`RawStore`) is not made up: it takes the rows that the daemon wrote, and writes them again into the same
schema with the same settings (WAL, synchronous=FULL), so many jobs a commit as the client sent at once.
"""

from __future__ import annotations

import importlib.resources
import sqlite3
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from benchmarks.harness import BATCH, TRUE, RawConnection, Scale, batches, daemon, ids_of, request, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

# Nothing runs from here: only the acceptance is measured.
QUEUE = "bench"
SPEC = {**TRUE, "queue": QUEUE}


class Written(NamedTuple):
    """The rows of one submit in the database: one of `jobs`, one of `changes`."""

    job: tuple[object, ...]
    change: tuple[object, ...]


class RawStore:
    """SQLite alone, with the schema and the durability of the daemon."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        for migration in sorted(importlib.resources.files("stoker.migrations").iterdir(), key=lambda file: file.name):
            if migration.name.endswith(".sql"):
                self.connection.executescript(migration.read_text())
        self.seq = 0

    def close(self) -> None:
        self.connection.close()

    def commit(self, rows: Sequence[Written]) -> None:
        jobs = [(None, *row.job[1:]) for row in rows]
        changes = [(self.seq + offset, *row.change[1:]) for offset, row in enumerate(rows, start=1)]
        self.seq += len(rows)
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(f"INSERT INTO jobs VALUES ({_marks(jobs)})", jobs)
        self.connection.executemany(f"INSERT INTO changes VALUES ({_marks(changes)})", changes)
        self.connection.execute("COMMIT")


def rows(scale: Scale) -> Iterator[Row]:
    jobs = scale.jobs * 5
    with daemon() as process, workshop() as folder, RawConnection(process.socket) as connection:
        connection.call("queue.set", name=QUEUE)
        connection.call("queue.pause", name=QUEUE)
        ids = connection.submit(scale.jobs, SPEC)
        sample = written(process.state_dir / "stoker.db", ids)
        with closing(RawStore(Path(folder) / "raw.db")) as raw:
            yield _rate("pipelined", scale, connection, raw, sample, [request("job.submit", SPEC)] * jobs, BATCH)
            yield _rate("in batches of 100", scale, connection, raw, sample, list(batches(jobs, SPEC)), 1)
            yield _one_at_a_time(scale, connection, raw, sample)


def _rate(
    how: str, scale: Scale, connection: RawConnection, raw: RawStore, sample: list[Written],
    lines: list[bytes], window: int,
) -> Row:  # fmt: skip
    jobs = scale.jobs * 5
    ours, theirs = [], []
    for _ in range(scale.rounds):
        begin = time.perf_counter()
        for first in range(0, jobs, BATCH):
            raw.commit([sample[(first + offset) % len(sample)] for offset in range(BATCH)])
        theirs.append(jobs / (time.perf_counter() - begin))
        begin = time.perf_counter()
        answers = connection.pipeline(lines, window)
        ours.append(jobs / (time.perf_counter() - begin))
        if len(set(ids_of(answers))) != jobs:
            raise AssertionError("not every submit was answered with an id of its own")
    figures = f"{statistics.median(ours):,.0f} submits/s; SQLite alone {statistics.median(theirs):,.0f}/s"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Row(f"durable submits/s, {how}, against SQLite alone", ratios, 0.3, 0.5, figures, more_is_better=True)


def _one_at_a_time(scale: Scale, connection: RawConnection, raw: RawStore, sample: list[Written]) -> Row:
    line = request("job.submit", SPEC)
    ours, theirs = [], []
    for _ in range(scale.rounds):
        theirs.append(_median_s(raw.commit, [[row] for row in sample[: scale.jobs // 5]]))
        ours.append(_median_s(connection.ask, [line] * (scale.jobs // 5)))
    figures = f"{statistics.median(ours) * 1e3:.2f} ms; bare commit {statistics.median(theirs) * 1e3:.2f} ms"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Row("one client, one submit at a time, against one bare commit", ratios, 3, 2, figures, unit="x")


def _median_s(action: Callable[[T], object], arguments: Sequence[T]) -> float:
    """The median time of `action`, one argument after the other."""
    times = []
    for argument in arguments:
        begin = time.perf_counter()
        action(argument)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def written(database: Path, ids: Sequence[int]) -> list[Written]:
    """The rows that these submits left, read from the daemon's own database (this process never writes it)."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
        marks = ",".join("?" * len(ids))
        # Generated columns are read by `*` and cannot be written.
        columns = ",".join(row[1] for row in reader.execute("PRAGMA table_info(jobs)"))
        jobs = reader.execute(f"SELECT {columns} FROM jobs WHERE id IN ({marks}) ORDER BY id", ids).fetchall()
        changes = reader.execute(f"SELECT * FROM changes WHERE job_id IN ({marks}) ORDER BY job_id", ids).fetchall()
    return [Written(job, change) for job, change in zip(jobs, changes, strict=True)]


def _marks(rows: Sequence[tuple[object, ...]]) -> str:
    return ",".join("?" * len(rows[0]))
