"""Many failures at once, each with a job of a hook: how soon submits are answered meanwhile, and what stays in memory.

Each change must have exactly one job of the hook: a benchmark that loses some measures nothing.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.footprint import pss_mib
from benchmarks.harness import TRUE, RawConnection, Scale, daemon
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.daemon import DaemonProcess

HOOK = '[hooks.failures]\non = ["job.failed"]\ncommand = "/bin/true"\n'
FAIL = {"command": "/bin/false"}
SUBMITS_BETWEEN = 50  # two looks at the status
COUNTS = "SELECT count(*), count(DISTINCT hook_change), sum(state = 'succeeded') FROM jobs WHERE hook IS NOT NULL"


def rows(scale: Scale) -> Iterator[Row]:
    failures = 5 * scale.jobs // scale.rounds
    hooked, plain, figures = [], [], []
    with daemon(settings=HOOK) as process, daemon() as other:
        with RawConnection(process.socket) as connection, RawConnection(other.socket) as without:
            for each in (connection, without):
                each.call("queue.set", name="quiet")
                each.call("queue.pause", name="quiet")
                _storm(each, scale.jobs)  # what is allocated once, for any number of jobs
            before = pss_mib(process)
            for _ in range(scale.rounds):
                plain.append(_p99(_storm(without, failures)))
                answers = _storm(connection, failures)
                hooked.append(_p99(answers))
                figures.append(statistics.median(answers))
            grown = pss_mib(process) - before
        _check(process, failures * scale.rounds + scale.jobs)
    ratios = [with_hook / alone for with_hook, alone in zip(hooked, plain, strict=True)]
    p50, p99 = statistics.median(figures), statistics.median(hooked)
    what = "a submit while each of many failures runs a hook, p99, against the same without the hook"
    yield Row(what, ratios, 2, 1.2, f"p99 {p99:.1f} ms, p50 {p50:.1f} ms, {failures:,} failures")
    count = failures * scale.rounds
    yield Row("memory that failures with a hook leave behind", [grown], 20, 10, f"{count:,} failures", unit=" MiB")


def _p99(answers: Sequence[float]) -> float:
    return sorted(answers)[int(0.99 * (len(answers) - 1))]


def _storm(connection: RawConnection, failures: int) -> list[float]:
    """The time of each submit (ms) until all failures and the jobs of their hooks have ended."""
    connection.submit(failures, FAIL)
    answers: list[float] = []
    while True:
        for _ in range(SUBMITS_BETWEEN):
            began = time.perf_counter()
            connection.call("job.submit", **TRUE, queue="quiet")
            answers.append((time.perf_counter() - began) * 1_000)
        status = connection.call("system.status")
        others = [queue for queue in status["queues"] if queue["name"] != "quiet"]
        if not any(queue["queued"] + queue["running"] + queue["waiting"] for queue in others):
            return answers


def _check(process: DaemonProcess, failures: int) -> None:
    (counts,) = process.rows(COUNTS)
    if counts != (failures, failures, failures):
        raise AssertionError(f"{failures} failures; jobs of the hook, changes, successes: {counts}")
