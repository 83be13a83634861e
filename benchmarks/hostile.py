"""How much slower clients get their answers while jobs flood their logs and fork without end.

One client asks `job.get` again and again, on an idle daemon and beside the hostile workers of tests/support/hostile.py;
the ratios of the medians and of the slowest hundredth show the effect on other clients.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.harness import TRUE, RawConnection, Scale, daemon, ids_of, request
from benchmarks.table import Row
from tests.support import hostile
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAMPLES_A_ROUND = 1_000
DEEDS = ("flood", "chain")


def rows(scale: Scale) -> Iterator[Row]:
    with daemon() as process, RawConnection(process.socket) as connection:
        (asked,) = ids_of([connection.ask(request("job.submit", TRUE))])
        connection.wait([asked])
        line = request("job.get", {"id": asked})
        idle = [_answer_ms(connection, line) for _ in range(scale.rounds)]
        begun = [_begin(connection, deed, process.home) for deed in DEEDS]
        beside = [_answer_ms(connection, line) for _ in range(scale.rounds)]
        for job in begun:  # a chain that loses its launcher outruns the clean-up
            connection.ask(request("job.cancel", {"id": job}))
        connection.call("job.wait", ids=begun)
    for name, at in (("p50", 0), ("p99", 1)):
        base = statistics.median(measured[at] for measured in idle)
        figures = f"idle {base:.2f} ms, beside them {statistics.median(measured[at] for measured in beside):.2f} ms"
        ratios = [measured[at] / base for measured in beside]
        yield Row(f"job.get beside a flooding and a forking job, {name}", ratios, 20, 5, figures, unit="x")


def _begin(connection: RawConnection, deed: str, home: Path) -> int:
    """The worker of that job has done its deed, and goes on with it."""
    directory = home / deed
    directory.mkdir()
    args = ["-I", "-S", hostile.__file__, deed, "stay"]
    spec = {
        "command": sys.executable,
        "args": args,
        "working_dir": str(directory),
        "max_log_bytes": 1 << 20,
        "grace_ms": 100,
    }
    (job,) = ids_of([connection.ask(request("job.submit", spec))])
    until(lambda: list(directory.glob("ready.*")), why=f"the deed of {deed}")
    return job


def _answer_ms(connection: RawConnection, line: bytes) -> tuple[float, float]:
    """Median and 99th percentile of one round."""
    times = []
    for _ in range(SAMPLES_A_ROUND):
        began = time.perf_counter()
        connection.ask(line)
        times.append((time.perf_counter() - began) * 1_000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]
