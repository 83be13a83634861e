"""SIGKILL of daemon and launchers while retention removes jobs that ended a moment ago, under load.

The log of changes is kept, as the record of every job. Owns the laws of a removal: each missing job was removed by a
recorded purge after its end, nothing of it is left, and no kept job has lost a part.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from stoker.core.errors import DaemonUnreachable
from tests.support import flows
from tests.support.audit import CHAINED, FINAL
from tests.support.facts import until
from tests.support.ledger import Ledger
from tests.support.strace import SYSCALLS, Attached, draw, points, why_not
from tests.support.torture import SETTINGS, Faults, Load, become_quiet
from tests.support.work import alive, end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

FAULTS = int(os.environ.get("STOKER_FAULTS", "150")) // 6
HOT = """
[retention]
keep = "300ms"
keep_failed = "1s"
keep_last = 0
keep_changes = "forever"
keep_archives = "1s"
every_ms = 100
"""
COLD = """
[retention]
keep_changes = "forever"
"""
POINTS = int(os.environ.get("STOKER_FAULTS", "72")) // 6
PURGING = [*SYSCALLS, "unlinkat", "rmdir", "getdents64"]
MISSING = why_not()
LISTS = ("purging_jobs", "purged_jobs", "checkpoint_purges")
# Rows that belong to a job or workflow that is not there.
STRAYS = """
SELECT 'checkpoint of ' || chain FROM checkpoints
WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE chain = 'j' || jobs.id)
    AND NOT EXISTS (SELECT 1 FROM workflows WHERE chain = 'w' || workflows.id)
UNION ALL
SELECT 'step ' || id FROM jobs WHERE workflow_id IS NOT NULL AND workflow_id NOT IN (SELECT id FROM workflows)
UNION ALL
SELECT 'workflow without steps ' || id FROM workflows
WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.workflow_id = workflows.id)
UNION ALL
SELECT 'key ' || key FROM idempotency
WHERE (purged_at IS NULL) <> EXISTS (SELECT 1 FROM jobs WHERE jobs.id = idempotency.job_id)
"""


@pytest.mark.timeout(300 + 8 * FAULTS)
def test_retention_when_daemon_and_launchers_are_killed_then_no_half_is_left(
    stopped_daemon: DaemonProcess, seed: int
) -> None:
    daemon = stopped_daemon
    daemon.config.write_text(SETTINGS + HOT)
    daemon.relay_stderr()
    daemon.start()
    ledger = Ledger(daemon.home / "ledger")
    load, faults = Load(daemon, ledger, seed), Faults(daemon, ledger, seed)

    load.start()
    while faults.fired.total() < FAULTS and load.is_alive():
        faults.strike()
    load.finish()
    faults.finish()
    become_quiet(daemon)
    database = daemon.state_dir / "stoker.db"
    until(lambda: removed(database), why="a removal")
    rest(daemon)
    with daemon.client() as client:
        client.call("system.drain", {"stop": True})
    assert daemon.wait() == 0

    halves = list(breaches(daemon.state_dir, ledger))
    purged = removed(database)
    sys.stderr.write(f"\nSTOKER_SEED={seed} {dict(faults.fired)}; {dict(load.done)}; {len(purged)} jobs removed\n")
    assert halves == []
    assert len(purged) > 0
    assert faults.fired["daemon"] > 0
    assert daemon.restart_quietly() == 0


@pytest.mark.long
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.timeout(300 + 10 * POINTS)
def test_purge_when_the_daemon_is_killed_at_any_syscall_then_no_half_is_left(
    stopped_daemon: DaemonProcess, seed: int
) -> None:
    daemon, dice = stopped_daemon, random.Random(f"purge {seed}")
    daemon.config.write_text(SETTINGS + COLD)
    daemon.start()
    ledger, trace = Ledger(daemon.home / "ledger"), daemon.home / "trace"
    ended(daemon, ledger, 0)
    attached = Attached(daemon.pid, trace)
    purge(daemon)
    attached.detach()
    every, fired = points(trace, "", PURGING), 0

    for number, point in enumerate(draw(every, POINTS, dice), start=1):
        ended(daemon, ledger, number)
        attached = Attached(daemon.pid, daemon.home / f"trace.{number}", f"trace={point.syscall}", point.kill())
        purge(daemon)
        attached.detach()
        if not alive(daemon.pid):
            fired += 1
            daemon.wait()
            daemon.start()
    purge(daemon)
    assert daemon.stop() == 0

    sys.stderr.write(f"\nSTOKER_SEED={seed} {fired} of {len(every)} points\n")
    assert list(breaches(daemon.state_dir, ledger)) == []
    assert [count(daemon.state_dir / "stoker.db", table) for table in LISTS] == [0, 0, 0]
    assert fired > POINTS // 5


def ended(daemon: DaemonProcess, ledger: Ledger, number: int) -> None:
    """Some jobs and a workflow that have ended, with logs and keys."""
    with daemon.client() as client:
        for each in range(4):
            key = f"k{number}.{each}"
            ledger.send(key, shell("echo hello", idempotency_key=key))
            job = submit(client, ledger.sent[key])
            ledger.answer(key, job)
            end_of(client, job)
        flows.settled(client, flows.sent_flow(client, {"a": shell("exit 1"), "b": flows.step("exit 0", "a")}))


def rest(daemon: DaemonProcess) -> None:
    """Let no further pass begin, and return when the last one has removed all that it hid."""
    daemon.config.write_text(SETTINGS + COLD)
    with daemon.client() as client:
        client.call("system.reload")
        until(lambda: not client.call("system.purge", {"before": 10**12})["more"], why="the end of the last pass")
    assert not any(count(daemon.state_dir / "stoker.db", table) for table in LISTS)


def purge(daemon: DaemonProcess) -> None:
    """Purge all that has ended, unless the daemon dies before."""
    more = True
    with suppress(DaemonUnreachable), daemon.client(timeout_s=10) as client:
        while more:
            more = client.call("system.purge", {"before": int(time.time() * 1_000), "queue": "default"})["more"]
        more = True
        while more:
            more = client.call("system.purge", {"before": int(time.time() * 1_000), "states": list(FINAL)})["more"]


def count(database: Path, table: str) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def removed(database: Path) -> Counter[int]:
    """The number of removals of each job in the log of changes, alone or with its workflow."""
    with closing(sqlite3.connect(database)) as connection:
        steps: dict[int, set[int]] = {}
        for job, payload in connection.execute(
            "SELECT job_id, payload FROM changes WHERE cause = 'submitted' AND job_id"
        ):
            workflow = json.loads(payload)["job"]["workflow_id"]
            steps.setdefault(workflow or 0, set()).add(job)
        gone: Counter[int] = Counter()
        for (payload,) in connection.execute("SELECT payload FROM changes WHERE cause = 'purged'"):
            record = json.loads(payload)
            gone.update(job for first, last in record["jobs"] for job in range(first, last + 1))
            for first, last in record["workflows"]:
                gone.update(job for workflow in range(first, last + 1) for job in steps[workflow])
    return gone


def breaches(state_dir: Path, ledger: Ledger) -> Iterator[str]:
    """Each breach of a law is one sentence."""
    gone = removed(state_dir / "stoker.db")
    with closing(sqlite3.connect(state_dir / "stoker.db")) as connection:
        jobs = dict(connection.execute("SELECT id, state FROM jobs"))
        keys = dict(connection.execute("SELECT key, job_id FROM idempotency"))
        yield from (f"integrity: {row}" for row in connection.execute("PRAGMA integrity_check") if row != ("ok",))
        yield from (f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check"))
        yield from (f"without an owner: {row}" for (row,) in connection.execute(STRAYS))
        last = dict(connection.execute("SELECT job_id, to_state FROM changes WHERE job_id IS NOT NULL ORDER BY seq"))
        yield from _chain(connection)
    for job, state in last.items():
        if (job in jobs) == (job in gone):
            yield f"job {job} is {'there' if job in jobs else 'lost'}, and was removed {gone[job]} times"
        if job in gone and state not in FINAL:
            yield f"job {job} was removed while it was {state}"
        if job in jobs and jobs[job] != state:
            yield f"job {job} is {jobs[job]}, its last change says {state}"
    for key, ids in ledger.answered.items():
        if {keys.get(key)} != set(ids):
            yield f"key {key} was answered with jobs {ids}, the database says {keys.get(key)}"
    for job, starts in ledger.starts().items():
        twice = [run_id for run_id, times in Counter(line.run_id for line in starts).items() if times > 1]
        yield from (f"job {job}: {run_id} began twice" for run_id in twice)
    for path in (state_dir / "logs").glob("*/*"):
        if int(path.name) not in jobs:
            yield f"{path} is left of a job that is gone"


def _chain(connection: sqlite3.Connection) -> Iterator[str]:
    head = bytes(32)
    for number, (digest, payload, *words) in enumerate(
        connection.execute(f"SELECT hash, payload, {CHAINED} FROM changes ORDER BY seq"), start=1
    ):
        head = hashlib.sha256(head + msgspec.json.encode(tuple(words)) + payload.encode()).digest()
        if (words[0], digest) != (number, head):
            yield f"change {words[0]} in place {number} breaks the chain"
            return
