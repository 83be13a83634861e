"""The promises, checked against the ledger, the database and /proc: each breach is one sentence.

Every torture ends with these checks. They read the database after the daemon has ended. Each check returns all
breaches; a test asserts that there are none.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.core.job.model import Spec
from stoker.core.workflow.checkpoint import chain_of
from stoker.engine.change_log import DERIVED, MUTABLE
from stoker.ops.doctor.examination import Host
from stoker.ops.doctor.run import run
from stoker.store.jobs import spec_hash
from tests.support.chains import broken_links, chains_of, unlike_changes, unlike_memory, wrong_context
from tests.support.ledger import UPLOAD_BYTES, UPLOADED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.support.ledger import Ledger

UNSEEN = {"unseen", "never_started"}
FINAL = {"succeeded", "failed", "cancelled", "expired", "superseded", "skipped"}
AGAIN = {"retry", "restart", "release", "reset"}
AT_FIRST = dict.fromkeys(("attempts", "failures", "orphanings", "not_needed", "checkpoint_floor"), 0)
CHAINED = "seq, at, kind, subject, from_state, to_state, cause, actor_uid"


def _asks_again(change: dict[str, Any]) -> bool:
    """Whether a person asked that the job run again. A rollback does, too: it stops running steps to reset them."""
    return change["cause"] in AGAIN or (change["cause"] == "stop_wanted" and '"restart"' in change["payload"])


class Audit:
    """Compares one database with the ledger.

    `killed`: ids of launchers that were killed. `newborn`: workers may have been killed before they began.
    `log`: what the daemon wrote to its stderr in all its lives.
    """

    def __init__(
        self,
        database: Path,
        ledger: Ledger,
        killed: Collection[str] = (),
        *,
        newborn: bool = False,
        log: Path | None = None,
    ) -> None:
        self._ledger = ledger
        self._database = database
        self._log = log
        self._newborn = newborn
        self._killed = set(killed)
        connection = sqlite3.connect(database)
        connection.row_factory = sqlite3.Row
        try:
            self.jobs = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM jobs")}
            self.keys = dict(connection.execute("SELECT key, job_id FROM idempotency").fetchall())
            self.attempts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
            for row in connection.execute("SELECT * FROM attempts ORDER BY job_id, ordinal"):
                self.attempts[row["job_id"]].append(dict(row))
            self.changes = [dict(row) for row in connection.execute("SELECT * FROM changes ORDER BY seq")]
            self.workflows = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM workflows")}
            self.chains = chains_of(connection)
            self.uploads = [
                gzip.decompress(row["data"])
                for row in connection.execute("SELECT data FROM checkpoints WHERE size = ?", [UPLOAD_BYTES])
            ]
            self._integrity = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            self._strays = connection.execute("PRAGMA foreign_key_check").fetchall()
        finally:
            connection.close()

    def complaints(self) -> list[str]:
        """Every breach of a promise. To be called when nothing runs any more."""
        return [
            *self.submits(), *self.runs(), *self.overlaps(), *self.outcomes(), *self.log_of_changes(), *self.storage(),
            *self.mixed_uploads(), *self.workflow_chains(), *self.stalls(), *self.symptoms(),
        ]  # fmt: skip

    # --- promise 1: answered is on disk, once ---

    def submits(self) -> Iterator[str]:
        for key, ids in self._ledger.answered.items():
            if len(set(ids)) != 1:
                yield f"key {key} was answered with jobs {ids}"
            if ids[0] not in self.jobs:
                yield f"job {ids[0]} was answered ({key}) and is lost"
            if self.keys.get(key) != ids[0]:
                yield f"key {key} was answered with job {ids[0]}, the database says {self.keys.get(key)}"
        for key in self.keys.keys() - self._ledger.sent.keys():
            yield f"key {key} was never sent"
        for key in self._ledger.refused.keys() & self.keys.keys() - self._ledger.answered.keys():
            yield f"key {key} was refused ({self._ledger.refused[key]}) and is there"
        for job, count in Counter(self.keys.values()).items():
            if count > 1:
                yield f"job {job} has {count} keys"
        for job in {job for job, row in self.jobs.items() if row["workflow_id"] is None} - set(self.keys.values()):
            yield f"job {job} has no key: it was stored twice"

    # --- promise 2: never again unless it may ---

    def runs(self) -> Iterator[str]:
        for job, starts in self._ledger.starts().items():
            attempts = {attempt["run_id"]: attempt for attempt in self.attempts[job]}
            again = Counter(line.run_id for line in starts)
            yield from (f"{run_id} began {count} times" for run_id, count in again.items() if count > 1)
            yield from (f"{run_id} began and is not in the database" for run_id in again.keys() - attempts.keys())
            for run_id in again.keys() & attempts.keys():
                if attempts[run_id]["outcome"] == "never_started":
                    yield f"{run_id} began, and is said never to have started"
            yield from self._unsafe(job, len(again))

    def _unsafe(self, job: int, starts: int) -> Iterator[str]:
        row = self.jobs.get(job)
        if row is None:
            yield f"job {job} began and is not in the database"
            return
        if row["on_orphan"] == "requeue":
            return
        seen = sum(
            attempt["outcome"] not in UNSEEN and attempt["outcome"] is not None for attempt in self.attempts[job][:-1]
        )
        asked = sum(change["job_id"] == job and _asks_again(change) for change in self.changes)
        budget = (row["max_attempts"] - 1) * (1 + asked)  # a retry by hand begins the count anew
        if starts > 1 + min(seen, budget) + asked:
            yield f"unsafe job {job} began {starts} times after {seen} seen ends, {asked} asked for"
        for attempt in self.attempts[job][:-1]:
            if attempt["outcome"] == "unseen" and not asked:
                yield f"unsafe job {job} went on after {attempt['run_id']}, whose end nobody saw"

    def overlaps(self) -> Iterator[str]:
        for line in self._ledger.overlaps():
            yield f"{line.run_id} (pid {line.pid}) began while an earlier attempt of its job still lived"
        for job, attempts in self.attempts.items():
            for earlier, later in pairwise(attempts):
                if earlier["ended_at"] is None:
                    yield f"job {job}: attempt {later['ordinal']} was opened beside attempt {earlier['ordinal']}"

    # --- promise 4: outcomes are true ---

    def outcomes(self) -> Iterator[str]:
        ends = self._ledger.ends()
        began = {line.run_id for lines in self._ledger.starts().values() for line in lines}
        for attempts in self.attempts.values():
            for attempt in attempts:
                yield from self._outcome(attempt, attempt["run_id"] in began, ends.get(attempt["run_id"]))

    def _outcome(self, attempt: dict[str, Any], began: bool, end: Any) -> Iterator[str]:  # noqa: FBT001
        run_id, outcome = attempt["run_id"], attempt["outcome"]
        if outcome == "exit" and (end is None or end.code != attempt["exit_code"]):
            yield f"{run_id}: recorded as exit {attempt['exit_code']}, its own last word was {end}"
        if outcome == "exit" and not began:
            yield f"{run_id}: recorded as an exit and never began"
        seen = attempt["launcher"] not in self._killed and attempt["stop_reason"] is None
        if end is not None and seen and outcome != "exit":
            yield f"{run_id}: its own last word was exit {end.code}, recorded as {outcome} {attempt['signal']}"
        # One that never began may count as unseen: a launcher that has left in order cannot say that it never began.
        if self.jobs[attempt["job_id"]]["survive"] and began and seen and outcome == "unseen":
            yield f"{run_id}: survives, its launcher lived, and nobody saw its end"

    # --- promise 7: every change once ---

    def log_of_changes(self) -> Iterator[str]:
        head = bytes(32)
        states: dict[int, str | None] = {}
        for number, change in enumerate(self.changes, start=1):
            words = tuple(change[name] for name in CHAINED.split(", "))
            head = hashlib.sha256(head + msgspec.json.encode(words) + change["payload"].encode()).digest()
            if change["seq"] != number:
                yield f"change {change['seq']} stands in place {number}"
            if change["hash"] != head:
                yield f"change {number} breaks the chain"
                return
            job = change["job_id"]
            if job is not None:
                if states.get(job) != change["from_state"]:
                    yield f"change {number}: job {job} was {states.get(job)}, not {change['from_state']}"
                states[job] = change["to_state"]
            if change["cause"] == "unknown_outcome":
                yield f"change {number}: an outcome nobody expected: {change['payload']}"
        for job, row in self.jobs.items():
            if states.get(job) != row["state"]:
                yield f"job {job} is {row['state']}, its last change says {states.get(job)}"
            yield from self._settled(job)
            yield from self._rebuilt(job)

    def _rebuilt(self, job: int) -> Iterator[str]:
        """The payloads of its changes, applied in order, give its row. `started_at` is in no change before the end."""
        rebuilt: dict[str, Any] = {**AT_FIRST}
        for change in self.changes:
            if change["job_id"] == job:
                payload = json.loads(change["payload"])
                rebuilt |= payload.pop("job", {}) | payload
        running = {"started_at"} if any(run["ended_at"] is None for run in self.attempts[job]) else set()
        asked = [name for name in MUTABLE if name not in DERIVED | running]
        unlike = {
            name: (rebuilt.get(name), value) for name in asked if rebuilt.get(name) != (value := self.jobs[job][name])
        }
        if unlike:
            yield f"job {job}: what its changes say, and what its row does: {unlike}"
        if spec_hash(msgspec.convert(rebuilt["spec"], Spec)) != self.jobs[job]["spec_hash"]:
            yield f"job {job}: its changes tell of another spec than its row"

    def _settled(self, job: int) -> Iterator[str]:
        endings = Counter(
            json.loads(change["payload"]).get("attempt", {}).get("run_id")
            for change in self.changes
            if change["job_id"] == job and change["cause"] in {"ended", "refused"}
        )
        for attempt in self.attempts[job]:
            if attempt["ended_at"] is not None and endings[attempt["run_id"]] != 1:
                yield f"{attempt['run_id']} ended {endings[attempt['run_id']]} times in the log of changes"

    def storage(self) -> Iterator[str]:
        yield from (f"integrity_check: {row}" for row in self._integrity if row != "ok")
        yield from (f"foreign_key_check: {tuple(row)}" for row in self._strays)

    def symptoms(self) -> Iterator[str]:
        """The findings of `stoker doctor` in the rows; there must be none."""
        host = Host({}, Path("/dev/null"), self._database.with_name("sock"), ())
        for check in run(str(self._database.parent), host, lambda *_: None)["checks"]:
            if check["group"] in {"database", "rows"}:
                yield from (f"doctor, {check['name']}: {finding['message']}" for finding in check["findings"])

    def mixed_uploads(self) -> Iterator[str]:
        for data in self.uploads:
            if data not in {letter.encode() * UPLOAD_BYTES for letter in UPLOADED}:
                yield f"a checkpoint of {len(data)} bytes is made of the letters {sorted(set(data.decode()))}"

    # --- the loop: nothing keeps it for long ---

    def stalls(self) -> Iterator[str]:
        """The daemon logs each turn and callback that computed for longer than its limit."""
        for line in () if self._log is None else self._log.read_text(errors="replace").splitlines():
            if '"turn_slow"' in line or '"callback_slow"' in line:
                yield f"the loop was kept too long: {line}"

    # --- workflows: the chain says what the rows say ---

    def workflow_chains(self) -> Iterator[str]:
        for workflow, row in self.workflows.items():
            links = self.chains.get(chain_of(workflow), [])
            steps = {job["step"]: job for job in self.jobs.values() if job["workflow_id"] == workflow}
            moves = [change for change in self.changes if change["job_id"] in {job["id"] for job in steps.values()}]
            yield from broken_links(f"workflow {workflow}", links)
            holds = {
                name: run["holds"]
                for name, job in steps.items()
                for run in self.attempts[job["id"]]
                if run["ended_at"] is None
            }
            yield from wrong_context(f"workflow {workflow}", links, steps, holds)
            yield from unlike_memory(f"workflow {workflow}", links)
            yield from unlike_changes(f"workflow {workflow}", links, moves)
            ended = all(job["state"] in FINAL for job in steps.values())
            if ended != (row["finished_at"] is not None):
                yield f"workflow {workflow} is {row['state']}, its steps are {[job['state'] for job in steps.values()]}"
        for name, links in self.chains.items():
            if name.startswith("j"):
                yield from broken_links(f"chain {name}", links)

    # --- liveness ---

    def unfinished(self) -> list[str]:
        """Jobs that have not come to an end after all faults: every job must be final, or held for a person."""
        complaints = []
        for job, row in self.jobs.items():
            if row["state"] not in FINAL | {"held"}:
                complaints.append(f"job {job} is still {row['state']} ({row['reason']})")
            if row["state"] == "held" and row["on_orphan"] != "hold" and row["reason"] != "poison":
                complaints.append(f"job {job} is held ({row['reason']}) although it is {row['on_orphan']}")
            if row["on_orphan"] == "requeue" and row["reason"] in {"orphaned", "lost", "shutdown"}:
                complaints.append(f"safe job {job} ended as {row['state']} ({row['reason']})")
            complaints += [f"{a['run_id']} is still open" for a in self.attempts[job] if a["ended_at"] is None]
        return complaints

    def policies(self) -> Counter[tuple[str, bool]]:
        """The number of attempts under each policy (on_orphan, survive)."""
        rows = [self.jobs[job] for job, attempts in self.attempts.items() for _ in attempts]
        return Counter((row["on_orphan"], bool(row["survive"])) for row in rows)

    def summary(self) -> dict[str, Any]:
        """The counts for the line that a torture prints."""
        attempts = [attempt for attempts in self.attempts.values() for attempt in attempts]
        return {
            "jobs": len(self.jobs),
            "policies": {
                f"{on_orphan}{' survive' * survive}": n for (on_orphan, survive), n in self.policies().items()
            },
            "states": dict(Counter(f"{row['state']}/{row['reason']}" for row in self.jobs.values())),
            "outcomes": dict(Counter(attempt["outcome"] for attempt in attempts)),
            "adopted": sum(attempt["adopted"] for attempt in attempts),
            "changes": len(self.changes),
            "workflows": dict(Counter(row["state"] for row in self.workflows.values())),
        }
