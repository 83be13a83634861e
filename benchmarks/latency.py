"""From a submit to the first instruction of the worker, on an idle daemon over an open connection.

The worker is a C program that reads CLOCK_MONOTONIC first and prints it; the client read the same clock before it sent.
A bare spawn of the same program shows the share of the kernel.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import RawConnection, Scale, compiled, daemon, ids_of, request, workshop
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES_A_ROUND = 60


def rows(scale: Scale) -> Iterator[Row]:
    with workshop() as folder, daemon() as process, RawConnection(process.socket) as connection:
        program = compiled("first_instruction", Path(folder))
        _submit_ms(connection, program)
        medians, ours, theirs = [], list[float](), list[float]()
        for _ in range(scale.rounds):
            theirs += (_spawn_ms(program) for _ in range(SAMPLES_A_ROUND))
            ours += (_submit_ms(connection, program) for _ in range(SAMPLES_A_ROUND))
            medians.append(statistics.median(ours[-SAMPLES_A_ROUND:]))
    figures = f"bare spawn {statistics.median(theirs):.2f} ms"
    yield Row("idle daemon: submit to first instruction of the worker, p50", medians, 2.5, 2, figures, unit=" ms")
    late, bare = _p99(ours), _p99(theirs)
    figures = f"{late:.1f} ms; bare spawn {bare:.1f} ms"
    yield Row("the same, p99 of all rounds, against that of a bare spawn", [late / bare], 4, 4, figures, unit="x")


def _p99(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100, method="inclusive")[-1]


def _submit_ms(connection: RawConnection, program: Path) -> float:
    line = request("job.submit", {"command": str(program)})
    begin = time.monotonic_ns()
    ids = ids_of([connection.ask(line)])
    connection.wait(ids)
    log = Path(connection.call("job.get", id=ids[0])["log"])
    return (int(log.read_text()) - begin) / 1e6


def _spawn_ms(program: Path) -> float:
    reading, writing = os.pipe()
    begin = time.monotonic_ns()
    pid = os.posix_spawn(program, [str(program)], {}, file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)])
    os.close(writing)
    with os.fdopen(reading) as pipe:
        began = int(pipe.read())
    os.waitpid(pid, 0)
    return (began - begin) / 1e6
