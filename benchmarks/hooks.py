"""Many failures at once, each with a job of a hook: how soon submits are answered meanwhile, and what stays in memory.

Each change must have exactly one job of the hook: a benchmark that loses some measures nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.footprint import pss_mib
from benchmarks.harness import TRUE, RawConnection, Scale, daemon
from benchmarks.table import Row
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess

HOOK = '[hooks.failures]\non = ["job.failed"]\ncommand = "/bin/true"\n'
FAIL = {"command": "/bin/false"}
SUBMITS_BETWEEN = 50  # two looks at the status
COUNTS = "SELECT count(*), count(DISTINCT hook_change), sum(state = 'succeeded') FROM jobs WHERE hook IS NOT NULL"


def rows(scale: Scale) -> Iterator[Row]:
    failures = 5 * scale.jobs
    with daemon(settings=HOOK) as process, RawConnection(process.socket) as connection:
        connection.call("queue.set", name="quiet")
        connection.call("queue.pause", name="quiet")
        _storm(connection, scale.jobs)  # what is allocated once, for any number of jobs
        before = pss_mib(process)
        answers = sorted(_storm(connection, failures))
        grown = pss_mib(process) - before
        _check(process, failures + scale.jobs)
    p99 = answers[int(0.99 * (len(answers) - 1))]
    what = "a submit while each of many failures runs a hook, p99"
    figures = f"p50 {answers[len(answers) // 2]:.1f} ms, {failures:,} failures"
    yield Row(what, [p99], 100, 30, figures, unit=" ms")
    yield Row("memory that failures with a hook leave behind", [grown], 20, 10, f"{failures:,} failures", unit=" MiB")


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
    wanted = [(failures, failures, failures)]
    # The status counts an end a moment before it is committed.
    until(lambda: process.rows(COUNTS) == wanted, why=f"jobs of the hook, changes and successes, {failures} each")
