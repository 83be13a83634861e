"""The time of `stoker doctor` for a hundred thousand jobs, as a whole process, beside a running daemon and without one.

The database is made of copies of a job that a daemon ran, with their changes in a chain.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from benchmarks.harness import Scale, daemon
from benchmarks.purge import TIMES, copy_job, wait_for_journal
from benchmarks.table import Row
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess


def rows(scale: Scale) -> Iterator[Row]:
    jobs = scale.jobs * TIMES
    with daemon() as process:
        with process.client() as client:
            job = submit(client, shell(":"))
            end_of(client, job)
        process.stop()
        copy_job(process.state_dir, job, jobs, logs=0)
        process.start()
        wait_for_journal(process)
        beside_s = [_examined_s(process) for _ in range(scale.rounds)]
        process.stop()
        alone_s = [_examined_s(process) for _ in range(scale.rounds)]
    share = jobs / 100_000
    yield Row(f"doctor on {jobs:,} jobs", beside_s, 5 * share, 3 * share, "", unit=" s")
    figures = "it also compares each row with the journal"
    yield Row("the same while no daemon runs", alone_s, 5 * share, 3 * share, figures, unit=" s")


def _examined_s(process: DaemonProcess) -> float:
    begin = time.monotonic()
    result = process.cli("doctor", "--json", "--state-dir", str(process.state_dir), timeout_s=600)
    took_s = time.monotonic() - begin
    report = json.loads(result.stdout)
    if report["errors"]:
        raise AssertionError(f"the doctor found {report}")
    return took_s
