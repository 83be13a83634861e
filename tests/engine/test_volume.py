"""A thousand jobs through several queues: all of them, each exactly once, and each ends as it should.

Owns the count. Every run writes a line into a ledger that the daemon does not know.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stoker.store.batch import PAGE_BYTES
from stoker.store.writer import CHECKPOINT_PAGES
from tests.support.work import lines, shell, submit_many

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

JOBS = 1_000
SETTINGS = """
[daemon]
max_running = 16
[cpu]
throttle_threshold = 100
[memory]
throttle_threshold = 100
[queues.high]
class = "high"
max_running = 4
[queues.wide]
[queues.low]
class = "low"
max_running = 6
"""


def test_thousand_jobs_when_spread_over_queues_then_each_runs_exactly_once(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    client.call("resource.set", {"name": "seat", "capacity": 3})
    queues = ("high", "wide", "low", "default")
    specs = [
        shell(
            f'echo "$STOKER_JOB_ID" >> {ledger}; exit {number % 3}',
            queue=queues[number % 4], priority=number % 7, resources={"seat": 1} if number % 50 == 0 else {},
        )
        for number in range(JOBS)
    ]  # fmt: skip

    ids = [answer["id"] for answer in submit_many(client, specs)]
    ends = client.wait(*ids)

    assert len(set(ids)) == JOBS
    assert Counter(lines(ledger)) == {str(job): 1 for job in ids}
    assert [end["exit_code"] for end in ends] == [number % 3 for number in range(JOBS)]
    status = client.status()
    assert (status["running"], status["queued"], status["waiting"]) == (0, 0, 0)
    assert status["last_seq"] == 3 * JOBS + 1 + len(queues) - 1
    assert {each["name"]: each["used"] for each in status["resources"]} == {"seat": 0}


def test_wal_when_many_large_jobs_are_submitted_then_it_begins_anew(daemon: DaemonProcess) -> None:
    large = {"command": "true", "args": ["x" * 60_000], "queue": "default"}
    written = 0
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        while written < 6 * CHECKPOINT_PAGES * PAGE_BYTES:
            submit_many(client, [large] * 10)
            written += 2 * 10 * 60_000  # in the job, and in the change that records it

    assert (daemon.state_dir / "stoker.db-wal").stat().st_size < 2 * CHECKPOINT_PAGES * PAGE_BYTES


def test_wal_when_many_short_jobs_take_turns_then_it_begins_anew_in_time(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.wait(*(answer["id"] for answer in submit_many(client, [shell(":")] * JOBS)))

    pages = (daemon.state_dir / "stoker.db-wal").stat().st_size / PAGE_BYTES
    assert CHECKPOINT_PAGES // 2 < pages < 1.25 * CHECKPOINT_PAGES
