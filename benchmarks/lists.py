"""Lists and overviews at a million ended jobs: what each filter costs the daemon, and other answers meanwhile.

The jobs are copies of one that a daemon ran, made by SQL, with names, queues, labels and arguments of their own. Each
filter is asked until a page is full or nothing is left; those that match nothing have to look at all jobs. Costs are
time on a processor, of all threads of the daemon: with neighbours a clock on the wall says nothing.
"""

from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from benchmarks.footprint import cpu_ns
from benchmarks.harness import RawConnection, Scale, daemon, request
from benchmarks.purge import QUIET_S, answers_ms, run_one
from benchmarks.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_MS = 3_600_000
QUEUES = 20
OWN = {  # what differs between the copies; `n` counts them
    "id": "job + n",
    "queue": f"'q' || (n * 7919 % {QUEUES})",
    "name": "CASE WHEN n % 3 THEN 'nightly-' || (n % 5000) END",
    "state": "CASE WHEN n % 50 THEN 'succeeded' ELSE 'failed' END",
    "exit_code": "n % 50 = 0",
    "args": "json_array('-a', '/srv/data/' || n)",
    "policy": "iif(n % 4, policy, json_set(policy, '$.labels', json_object('host', 'h' || (n % 100))))",
    "created_at": "created_at - (count - n) * 10",
    "finished_at": "finished_at - (count - n) * 10",
    "job_id": "job + n",
    "run_id": "printf('%d.1.%016x', job + n, n)",
    "ended_at": "ended_at - (count - n) * 10 + (n % 1000 = 0) * 86400000",
}
COPY = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
INSERT INTO {table} ({names}) SELECT {values} FROM numbers,
    (SELECT *, {job} AS job, {count} AS count FROM {table} WHERE {key} = {job})
"""
NOTHING: dict[str, dict[str, Any]] = {
    "name": {"name": "no such name"},
    "beginning of a name": {"name_prefix": "no such"},
    "label": {"label": "host=none"},
    "reason": {"reasons": ["oom"]},
    "exit status": {"exit_code": 77},
    "time of submission": {"created_since": 253_402_300_799_999},
    "time of end": {"ended_since": 253_402_300_799_999},
    "state": {"states": ["cancelled"]},
    "workflow": {"workflow": 1},
    "state and label": {"states": ["failed"], "label": "host=none"},
}
TEXT: dict[str, dict[str, Any]] = {"text": {"search": "no such text"}}
SOMETHING: dict[str, dict[str, Any]] = {
    "none": {},
    "failed": {"states": ["failed"]},
    "queue": {"queue": "q7"},
    "name": {"name": "nightly-77"},
    "beginning of a name": {"name_prefix": "nightly-49"},
    "label": {"label": "host=h4"},
    "oldest first": {"after": 0},
}


def rows(scale: Scale) -> Iterator[Row]:
    with daemon(settings="[journal]\nenabled = false\n") as process:
        with RawConnection(process.socket) as connection:
            for number in range(QUEUES):
                connection.call("queue.set", name=f"q{number}")
            # A workflow has to exist for a search: its one step is all that it finds.
            flow = {"name": "lone", "steps": {"a": {"command": "/bin/true"}}}
            connection.wait(list(connection.call("workflow.submit", flow=flow)["steps"].values()))
        job = run_one(process)  # the newest, so that its copies get the numbers behind it
        process.stop()
        copy(process.state_dir / "stoker.db", job, scale.deep)
        process.start()
        with RawConnection(process.socket) as connection, RawConnection(process.socket) as other:
            meter = Meter(process.pid, connection)
            for filters in (SOMETHING, NOTHING, TEXT):  # the pages of the file are in memory then
                meter.searches_ms(filters)
            meter.answers.clear()
            found, nothing, text = (
                [meter.searches_ms(filters) for _ in range(scale.rounds)] for filters in (SOMETHING, NOTHING, TEXT)
            )
            views = [meter.views_ms() for _ in range(scale.rounds)]
            quiet, busy = beside(connection, other, min(QUIET_S, scale.idle_s))
    many = f"{scale.deep:,} ended jobs"
    pages, none, shown = ([max(one.values()) for one in times] for times in (found, nothing, views))
    yield Row(f"CPU of a page of job.list at {many}, the dearest filter", pages, 200, 100, told(found), unit=" ms")
    yield Row(f"no match among {many}, the dearest filter", none, 300, 100, told(nothing), unit=" ms")
    yield Row("the same, a text", [one["text"] for one in text], 2_000, 500, "in several answers", unit=" ms")
    yield Row("one answer of any of these", [max(meter.answers)], 200, 100, "", unit=" ms")
    yield Row(f"CPU of overview, status and timeline at {many}", shown, 200, 100, told(views), unit=" ms")
    figures = f"{busy:.2f} ms; {quiet:.2f} ms without a search"
    yield Row("p99 of answers to submits beside searches", [busy / quiet], 2, 1.5, figures, unit="x")


def told(rounds: list[dict[str, float]]) -> str:
    """The median of each."""
    return ", ".join(f"{what} {statistics.median(one[what] for one in rounds):.1f}" for what in rounds[0])


def copy(database: Path, job: int, count: int) -> None:
    """So many copies of an ended job and its attempt."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for table, key in (("jobs", "id"), ("attempts", "job_id")):
            names = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(OWN.get(name, name) for name in names)
            sql = COPY.format(table=table, names=", ".join(names), values=values, key=key, job=job, count=count)
            connection.execute(sql)
        connection.execute("COMMIT")


class Meter:
    """Asks, and reads how long the threads of the daemon worked for it. `answers`: the cost of each page."""

    def __init__(self, pid: int, connection: RawConnection) -> None:
        self._pid = pid
        self._connection = connection
        self.answers: list[float] = []

    def searches_ms(self, filters: dict[str, dict[str, Any]]) -> dict[str, float]:
        return {what: self._search_ms(wanted) for what, wanted in filters.items()}

    def _search_ms(self, wanted: dict[str, Any]) -> float:
        """Until there is a page of jobs, or nothing is left."""
        took, left, cursor = 0.0, 100, dict(wanted)
        while left > 0:
            page, cost = self._ask("job.list", {**cursor, "limit": left})
            self.answers.append(cost)
            took += cost
            left -= len(page["jobs"])
            if page["next"] is None:
                break
            cursor["after" if "after" in wanted else "before"] = page["next"]
        return took

    def views_ms(self) -> dict[str, float]:
        """The answers that show everything at once."""
        now_ms = time.time_ns() // 1_000_000
        asked: dict[str, tuple[str, dict[str, Any]]] = {
            "overview": ("system.overview", {}),
            "status": ("system.status", {}),
            "last hour": ("attempt.list", {"since": now_ms - HOUR_MS}),
            "all attempts": ("attempt.list", {"since": 1_000_000_000_000}),
        }
        return {what: self._ask(method, params)[1] for what, (method, params) in asked.items()}

    def _ask(self, method: str, params: dict[str, Any]) -> tuple[Any, float]:
        begin = cpu_ns([self._pid])
        answer = self._connection.call(method, **params)
        return answer, (cpu_ns([self._pid]) - begin) / 1e6


def beside(connection: RawConnection, other: RawConnection, seconds: float) -> tuple[float, float]:
    """The p99 of answers to one submit at a time, in ms: of a quiet daemon, and while another client searches texts."""
    end = time.monotonic() + seconds
    quiet = answers_ms(connection, lambda: time.monotonic() < end)
    stop = threading.Event()
    search = threading.Thread(target=_searching, args=(other, stop))
    search.start()
    end = time.monotonic() + seconds
    busy = answers_ms(connection, lambda: time.monotonic() < end)
    stop.set()
    search.join()
    calm, loaded = (statistics.quantiles(times, n=100)[-1] for times in (quiet, busy))
    return calm, loaded


def _searching(connection: RawConnection, stop: threading.Event) -> None:
    line = request("job.list", TEXT["text"])
    while not stop.is_set():
        connection.ask(line)
