"""A life of a daemon that fills each column of each table, to try on it what is kept, replayed or damaged.

Owns the names of the columns that it cannot fill: a new column is filled here or named.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from tests.support.facts import until
from tests.support.flows import flow, flow_end, send, sent_flow, step, step_states
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SECRET = {"TOKEN": {"base64": "c2VjcmV0"}}
FAR = 4_000_000_000_000  # UTC milliseconds: no job starts before it
DAY_MS = 86_400_000
HOOKS = """
[hooks.failures]
on = ["job.failed"]
command = "/bin/true"
"""
# Values that are there for a moment only.
MOMENTARY = {"jobs.pid", "events.next_after", "workflows.target", "workflows.cut", "inner_limits.passed"}
OF_THE_HOST = {"attempts.pidfs_inode", "attempts.cgroup", "attempts.max_rss_kib"}  # which some hosts do not report


def live(daemon: DaemonProcess, tmp_path: Path) -> None:
    """Rows in every table, changed, moved and deleted again; at the end nothing runs."""
    daemon.config.write_text(HOOKS)
    with daemon.client() as client:
        client.call("system.reload")
        _purge_one(client)
        client.call("resource.set", {"name": "gpu", "capacity": 2})
        client.call("rate.set", {"key": "mail", "rate": "1/d"})
        _schedules(client)
        _ended(client)
        _waiting(client, tmp_path)


def _purge_one(client: stoker.Client) -> None:
    """A workflow and a job with keys, which are kept when the rest is purged."""
    assert flow_end(client, send(client, flow({"a": step(":")}), idempotency_key="flow")["id"]) == "succeeded"
    end_of(client, submit(client, shell(":"), idempotency_key="purged"))
    until(lambda: not client.call("system.purge", {"before": int(time.time() * 1_000)})["more"])


def _schedules(client: stoker.Client) -> None:
    for name, what in {"yearly": {"job": shell(":")}, "graph": {"flow": flow({"a": step(":")})}}.items():
        client.call("schedule.add", {"name": name, "timing": "@yearly", **what})
        client.call("schedule.run", {"name": name})
    part = {"flow": flow({"a": step(":")}), "target": ["a"], "reuse": "latest"}
    client.call("schedule.add", {"name": "part", "timing": "@yearly", **part})
    client.call("schedule.add", {"name": "gone", "timing": "@yearly", "job": shell(":")})
    client.call("schedule.remove", {"name": "gone"})


def _ended(client: stoker.Client) -> None:
    """Ends of each kind; the jobs of the hook as well."""
    save = 'echo "{\\"at\\": 1}" | stoker checkpoint save > /dev/null && echo "answer=42" > "$STOKER_OUTPUT"'
    assert flow_end(client, sent_flow(client, {"a": step(save), "b": step("exit 0", "a")})) == "succeeded"
    whole = {"timeout_ms": DAY_MS, "deadline_ms": DAY_MS, "concurrency": {"key": "k"}}
    assert flow_end(client, sent_flow(client, {"a": step("exit 1")}, **whole)) == "failed"
    bulk = {"max_running": 3, "min_running": 1, "max_queued": 99, "rate": "1000/s", "defaults": {"nice": 3}}
    client.call("queue.set", {"name": "bulk", **bulk})
    client.call("event.emit", {"name": "go", "data": {"n": 1}, "idempotency_key": "k", "keep_ms": 3_600_000})
    ends = [
        submit(client, shell("exit 0"), wait_for="event:go", rate_key="mail", idempotency_key="ein Schlüssel"),
        submit(client, shell("echo hello; exit 3"), name="failing", max_attempts=2, base_delay_ms=1, secrets=SECRET),
        submit(client, shell("kill -9 $$")),
        submit(client, shell("sleep 60"), timeout_ms=50),
        submit(client, shell("exit 0"), limits={"open_files": 64}, queue="bulk", resources={"gpu": 1}),
    ]
    for job in ends:
        end_of(client, job)


def _waiting(client: stoker.Client, tmp_path: Path) -> None:
    """Jobs that wait for each kind of thing, and for nothing that happens."""
    window = {"supersede_key": "s", "debounce_ms": 3_600_000, "debounce_max_ms": 7_200_000}
    for _ in range(2):
        submit(client, shell(":"), **window)
    (tmp_path / "watched").touch()
    submit(client, shell(":"), wait_for="event:never")
    submit(client, shell(":"), wait_for=f"file-changed:{tmp_path}/watched")
    waiting = submit(client, shell(":"), run_at=FAR, deadline=FAR + 1, ttl_ms=1_000)
    client.call("job.edit", {"id": waiting, "priority": 7})
    client.call("job.hold", {"id": submit(client, shell(":"), queue="bulk", run_at=FAR)})
    inner = {"steps": {"a": step(":"), "b": step(":", wait_for="event:never")}}
    limits = {"timeout_ms": DAY_MS, "deadline_ms": DAY_MS}
    nested = sent_flow(client, {"build": {"workflow": {"name": "inner", **inner, **limits}}})
    until(lambda: step_states(client, nested)["build/a"] == "succeeded")
    client.call("queue.pause", {"name": "default"})
    submit(client, shell(":"), needs=[{"job": submit(client, shell(":"), ttl_ms=DAY_MS)}])


def unfilled(database: Path, tables: Collection[str]) -> set[str]:
    """The columns, as `table.column`, that have no value in any row of these tables, though they could."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        without = {
            f"{table}.{column}"
            for table in tables
            for column in _columns(connection, table)
            if not connection.execute(
                f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL AND {column} <> '' LIMIT 1"
            ).fetchone()
        }
    return without - MOMENTARY - OF_THE_HOST


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
