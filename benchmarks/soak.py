"""Months in one run: how much a daemon grows over a million short jobs with limits, notify sockets and workflows.

Measured as RSS of the daemon process, before and after, both when nothing is under way and after enough jobs to have
filled the bounded parts. `make soak` runs it alone; ARGS='--quick' for a few jobs.
"""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import TRUE, Scale, daemon
from benchmarks.table import Row
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker

MONTH_MS = 30 * 86_400_000
AT_ONCE = 1_000
STEPS = 4
SEED = 1
WARM_UP = 10_000  # until then the bounded parts fill
MOST_MIB = 2
NOBODY_WAITS_S = 86_400


def rows(scale: Scale) -> Iterator[Row]:
    dice = random.Random(SEED)
    with daemon() as process, process.client() as client:
        _run(client, dice, WARM_UP)
        before = _rss_mib(process.pid)
        _run(client, dice, scale.deep)
        grown = _rss_mib(process.pid) - before
    told = f"over {scale.deep} jobs, from {before:.0f} MiB"
    yield Row("memory, growth of the daemon", [max(0.0, grown)], MOST_MIB, MOST_MIB, told, unit=" MiB")


def _run(client: stoker.Client, dice: random.Random, jobs: int) -> None:
    left = jobs
    while left > 0:
        count = min(AT_ONCE, left)
        asked: Any = [_job(dice) for _ in range(count - STEPS)]
        client.submit_many(asked)
        steps = {f"s{number}": {**TRUE, "needs": [f"s{number - 1}"] * (number > 0)} for number in range(STEPS)}
        client.call("workflow.submit", {"flow": {"name": "soak", "steps": steps}})
        left -= count
        until(lambda: _idle(client), NOBODY_WAITS_S, why="the end of all jobs")


def _job(dice: random.Random) -> dict[str, Any]:
    """Ends at once; its limits are a month away."""
    job: dict[str, Any] = {**TRUE, "timeout_ms": MONTH_MS, "notify": dice.random() < 0.5}
    if dice.random() < 0.5:
        job["deadline"] = time.time_ns() // 1_000_000 + MONTH_MS
    return job


def _idle(client: stoker.Client) -> bool:
    status = client.status()
    return not (status["running"] or status["queued"] or status["waiting"])


def _rss_mib(pid: int) -> float:
    (kib,) = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kib) / 1024
