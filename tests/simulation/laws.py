"""The laws: events that must never happen, checked at starts, orders, acknowledgements, commits and answers.

Owns the laws and their own SQL queries. The first law that is broken ends the world. Invariant: a law is checked
against committed rows and the truth on the host, and never against the memory of the daemon.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from stoker.core.job.model import FINAL, IN_PROCESS, Attempt, OutcomeKind, StopReason
from stoker.core.job.run_id import RunId
from stoker.core.rate import Rate
from stoker.store.batch import Batch
from tests.simulation.host import Process

HOLDS = "SELECT holds FROM attempts WHERE ended_at IS NULL AND holds <> '{}'"
ATTEMPT = "SELECT ended_at, outcome, stop_reason FROM attempts WHERE run_id = ?"
SPEC = "SELECT on_orphan, json_extract(policy, '$.resources') FROM jobs WHERE id = ?"
# Without those that a person stopped so that they run again, by a restart or a rollback.
UNSEEN_STARTS = """
SELECT count(*) FROM attempts WHERE job_id = ? AND run_id IN (SELECT value FROM json_each(?)) AND (ended_at IS NULL
    OR (outcome IN ('unseen', 'never_started') AND stop_reason IS NOT 'restart')
    OR (stopped = 1 AND stop_reason IN ('shutdown', 'orphaned')))
"""
BY_HAND = "SELECT count(*) FROM changes WHERE job_id = ? AND cause IN ('retry', 'restart', 'release', 'reset')"
WIDTH = "SELECT value FROM workflows, json_each(workflows.flow, '$.widths') WHERE key = ? AND workflows.id = ?"
UNKNOWN = "SELECT 1 FROM changes WHERE cause = 'unknown_outcome' AND subject = ?"
SEQUENCE = "SELECT count(*), coalesce(max(seq), 0) FROM changes"
LAST_STATES = """
SELECT jobs.id, jobs.state, (SELECT to_state FROM changes WHERE job_id = jobs.id ORDER BY seq DESC LIMIT 1) FROM jobs
"""
OPEN_BUT_ENDED = """
SELECT run_id FROM attempts JOIN jobs ON jobs.id = job_id WHERE ended_at IS NULL AND state NOT IN ('running', 'held')
UNION ALL
SELECT id FROM jobs WHERE state = 'running' AND NOT EXISTS
    (SELECT 1 FROM attempts WHERE job_id = jobs.id AND ended_at IS NULL)
"""
TWICE = "SELECT name FROM jobs WHERE name LIKE 'asked-%' GROUP BY name HAVING count(*) > 1"
HELD = """
SELECT id, on_orphan, reason FROM jobs WHERE state = 'held'
    AND NOT EXISTS (SELECT 1 FROM attempts WHERE job_id = jobs.id AND ended_at IS NULL)
"""
OVERDUE = """
SELECT id, state FROM jobs WHERE (state = 'waiting' AND needs_open = 0 AND conditions_open = 0
    AND wake_at <= :steady)
    OR (state IN ('waiting', 'queued') AND expires_at <= :steady)
"""
STILL_WAITING = """
SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND state = 'waiting' AND needs_open = 0
    AND conditions_open = 0 AND wake_at <= ?
"""
TWO_OF_KEY = """
SELECT supersede_key, group_concat(id) FROM jobs WHERE supersede_key IS NOT NULL AND state IN ('waiting', 'queued')
GROUP BY owner_uid, supersede_key HAVING count(*) > 1
"""
REPLACED_BY_NONE = """
SELECT id, superseded_by FROM jobs AS older WHERE state = 'superseded' AND NOT EXISTS
    (SELECT 1 FROM jobs WHERE id = older.superseded_by AND id > older.id AND supersede_key = older.supersede_key)
"""
OF_KEYS = """
SELECT supersede_key, group_concat(id) FROM jobs WHERE id IN (SELECT value FROM json_each(?))
    AND supersede_key IS NOT NULL GROUP BY owner_uid, supersede_key HAVING count(*) > 1
"""
RATES = {"rate/slow": Rate(5, 1_000, burst=3), "queue/bulk": Rate(20, 1_000, burst=4)}
BUCKETS_OF = "SELECT queue, json_extract(policy, '$.rate_key') FROM jobs WHERE id = ?"
WINDOW = 50  # starts that are looked at together
CONDITIONS = """
SELECT id, conditions_open, (SELECT coalesce(sum(1 << number), 0) FROM conditions WHERE job_id = id) FROM jobs
"""
EVENTS_GIVEN = """
SELECT id, reached, (SELECT count(*) FROM job_events WHERE event_id = events.id) FROM events
"""
MET_TWICE = """
SELECT job_id, payload ->> 'note', count(*) FROM changes WHERE cause = 'condition_met' GROUP BY 1, 2 HAVING count(*) > 1
"""
END_AWAITED = """
SELECT job_id, condition FROM conditions JOIN jobs AS other ON condition = 'job:' || other.id
WHERE other.finished_at IS NOT NULL
"""
ONLY_WAITS_FOR = """
SELECT job_id FROM conditions JOIN jobs ON id = job_id WHERE condition = ? AND state = 'waiting'
    AND needs_open = 0 AND conditions_open = 1 << number AND wake_at IS NULL AND run_at IS NULL
"""
AWAITED_FILES = """
SELECT job_id, condition, substr(condition, instr(condition, ':') + 1), seen FROM conditions JOIN jobs ON id = job_id
WHERE condition GLOB 'file*' AND state = 'waiting'
"""
UNDELIVERED = "SELECT id FROM events WHERE next_after IS NOT NULL"
LATE_MS = 50  # how late a timer may be
HOSTED = ("charging", "idle")
FINALS = {state.value for state in FINAL}


def job_of(run_id: str) -> int:
    return RunId.parse(run_id).job_id


class Laws:
    """Checks the laws whenever something happens."""

    def __init__(self, connection: sqlite3.Connection, capacity: dict[str, int]) -> None:
        self._database = connection
        self._capacity = capacity
        self.first: str | None = None
        self.states: dict[int, str] = {}
        self.starts: dict[int, list[str]] = {}
        self.answered: dict[int, str] = {}  # from the answers to clients: job id -> name
        self.looks: Counter[str] = Counter()
        self.goes_on: Callable[[Attempt], bool] = lambda _attempt: False
        self._starts: dict[tuple[str, int], list[int]] = {}  # by bucket and boot, the times since boot
        self._named_due: tuple[str, int] = ("[]", 0)

    def broken(self, text: str) -> None:
        self.first = self.first or text

    def _look(self, what: str, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        self.looks[what] += 1
        return self._database.execute(sql, parameters).fetchall()

    def number(self, sql: str, *parameters: object) -> int:
        """The number that a query gives; 0 if it has no row."""
        row = self._database.execute(sql, parameters).fetchone()
        return 0 if row is None else int(row[0])

    # --- births, orders, signals

    def ordered(self, run_id: str) -> None:
        """Commit, then act: an order is sent after the commit of its attempt."""
        if not self._look("order", ATTEMPT, run_id):
            self.broken(f"{run_id} was ordered and is not on disk")

    def may_stop(self, run_id: str) -> bool:
        """The stop is on disk, or the attempt has ended and left this process behind."""
        rows = self._look("signal", ATTEMPT, run_id)
        return not rows or rows[0][0] is not None or rows[0][2] is not None

    def started(self, run_id: str, workers: Iterable[Process]) -> None:
        """A worker begins to work."""
        job_id = job_of(run_id)
        living = list(workers)
        rows = self._look("start", ATTEMPT, run_id)
        if not rows or rows[0][0] is not None:
            self.broken(f"{run_id} began and its attempt is {'closed' if rows else 'not on disk'}")
        beside = {one.run_id for one in living if one.run_id and job_of(one.run_id) == job_id} - {run_id}
        if beside:
            self.broken(f"{run_id} began while {beside} lives")
        jobs = {job_of(one.run_id) for one in living if one.run_id} | {job_id}
        for key, both in self._look("supersede", OF_KEYS, json.dumps(sorted(jobs))):
            self.broken(f"jobs {both} of the supersede key {key} run at the same time")
        earlier = self.starts.setdefault(job_id, [])
        ((on_orphan, _),) = self._look("start", SPEC, job_id)
        if on_orphan != "requeue" and earlier:
            ((unseen,),) = self._look("unsafe start", UNSEEN_STARTS, job_id, json.dumps(earlier))
            ((by_hand,),) = self._look("unsafe start", BY_HAND, job_id)
            if unseen > by_hand:  # type: ignore[operator]
                self.broken(f"unsafe job {job_id} began again ({run_id}) after {unseen} ends that nobody saw")
        earlier.append(run_id)
        self._use_is_bounded(living)

    def _use_is_bounded(self, workers: Iterable[Process]) -> None:
        """The workers that really run use no more of a resource than its capacity."""
        used: Counter[str] = Counter()
        for job_id in {job_of(one.run_id) for one in workers if one.run_id and not one.unborn}:
            ((_, resources),) = self._look("use", SPEC, job_id)
            used.update(json.loads(str(resources or "{}")))
        self._bounded(used, "by processes")

    def _bounded(self, used: Counter[str], whose: str) -> None:
        for name, amount in used.items():
            if amount > self._capacity_of(name):
                self.broken(f"{amount} of {name} are in use {whose}, there are {self._capacity_of(name)}")

    def _capacity_of(self, name: str) -> int:
        """The capacity of a resource, or the width of a group of steps, whose name is w7/group."""
        if name in self._capacity:
            return self._capacity[name]
        workflow, _, group = name.removeprefix("w").partition("/")
        return self.number(WIDTH, group, workflow)

    # --- acknowledgements and answers

    def acknowledged(self, run_ids: Sequence[str]) -> None:
        """An outcome may be forgotten once it is on disk."""
        for run_id in run_ids:
            rows = self._look("acknowledgement", ATTEMPT, run_id)
            committed = rows and rows[0][0] is not None
            if not committed and not self._look("acknowledgement", UNKNOWN, run_id):
                self.broken(f"{run_id} was acknowledged and its outcome is not on disk")

    def answer(self, job_id: int, name: str) -> None:
        """Announce last: an answer speaks only of committed rows."""
        if not self._look("answer", "SELECT 1 FROM jobs WHERE id = ? AND name = ?", job_id, name):
            self.broken(f"job {job_id} ({name}) was answered and is not on disk")
        self.answered[job_id] = name

    def emitted(self, event: int, key: str) -> None:
        """Announce last, and one key means one event."""
        rows = self._look("event", "SELECT id FROM events WHERE key = ?", key)
        if rows != [(event,)]:
            self.broken(f"event {event} of key {key} was answered, and on disk are {rows}")

    def verb_answered(self, job_id: int, state: str) -> None:
        """A final state in an answer is on disk."""
        reached = "SELECT 1 FROM changes WHERE job_id = ? AND to_state = ?"
        if state in FINALS and not self._look("answer", reached, job_id, state):
            self.broken(f"job {job_id} was said to be {state} and never was that on disk")

    # --- commits

    def committed(
        self, batch: Batch, workers: Iterable[Process], ends: dict[str, tuple[int | None, int | None]]
    ) -> None:
        """One transaction went through."""
        self.looks["commit"] += 1
        for change in batch.changes:
            if change.kind == "job":
                job_id = int(change.subject)
                if self.states.get(job_id) != change.from_state:
                    self.broken(
                        f"change {change.seq}: job {job_id} was {self.states.get(job_id)}, not {change.from_state}"
                    )
                self.states[job_id] = str(change.to_state)
        for job in (*batch.new_jobs.values(), *batch.jobs.values()):
            if self.states.get(job.id) != job.state.value:
                self.broken(f"job {job.id} became {job.state.value} without a change that says so")
        self._orphaned(batch.attempts.values())
        closed = [attempt for attempt in batch.attempts.values() if not attempt.open]
        if closed:
            living = {one.run_id for one in workers}
            for attempt in closed:
                self._closed(attempt, living, ends)
        if batch.new_attempts:
            used: Counter[str] = Counter()
            for (holds,) in self._look("use", HOLDS):
                used.update(json.loads(str(holds)))
            self._bounded(used, "by open attempts")

    def rated(self, batch: Batch, read_at: Mapping[int, int], boot: int) -> None:
        """Of a queue or key with a rate, no window of time has more starts than a burst and its rate.

        Only within one boot: a wall clock that is set while the host is off may fill a bucket once.
        """
        at = {change.subject: change.at for change in batch.changes if change.cause == "dispatched"}
        for attempt in batch.new_attempts.values():
            ((queue, key),) = self._look("rate", BUCKETS_OF, attempt.job_id)
            for name in {f"queue/{queue}", f"rate/{key}"} & RATES.keys():
                starts = self._starts.setdefault((name, boot), [])
                starts.append(read_at[at[str(attempt.job_id)]])
                self._window_is_bounded(name, starts)

    def _window_is_bounded(self, name: str, starts: Sequence[int]) -> None:
        """The windows that end with the last start."""
        rate = RATES[name]
        for number, began in enumerate(reversed(starts[-WINDOW:]), 1):
            if number > rate.burst + rate.count * (starts[-1] - began + 1) / rate.per_ms:
                self.broken(f"{number} jobs of {name} started within {starts[-1] - began} ms, its rate is {rate}")

    def _orphaned(self, attempts: Iterable[Attempt]) -> None:
        """A lost connection stops no worker."""
        for attempt in attempts:
            if attempt.open and attempt.stop_reason is StopReason.ORPHANED and self.goes_on(attempt):
                self.broken(f"{attempt.run_id} is to be stopped as orphaned, and its daemon and its launcher live")

    def _closed(
        self, attempt: Attempt, living: set[str | None], ends: dict[str, tuple[int | None, int | None]]
    ) -> None:
        """A recorded end is the real one, and no process of the run is left."""
        run_id, outcome = attempt.run_id, attempt.outcome
        assert outcome is not None
        if run_id in living:
            self.broken(f"{run_id} was closed as {outcome.kind.value} while something of it lives")
        if outcome.kind is OutcomeKind.NEVER_STARTED and run_id in self.starts.get(attempt.job_id, ()):
            self.broken(f"{run_id} was called never started, and it had started")
        if attempt.launcher == IN_PROCESS:
            return  # a handler is no process of the host
        reported = (outcome.exit_code, outcome.signal)
        if outcome.kind in (OutcomeKind.EXIT, OutcomeKind.SIGNAL) and ends.get(run_id) != reported:
            self.broken(f"{run_id} ended with {ends.get(run_id)}, and its outcome is {reported}")

    # --- time

    def holds(self, holding: Container[str]) -> None:
        """No job only waits for what the host is. `holding`: what the daemon knows of it."""
        for condition in HOSTED:
            for (job_id,) in self._look("holding", ONLY_WAITS_FOR, condition) if condition in holding else ():
                self.broken(f"job {job_id} only waits for {condition}, the host is, and nobody is going to look")

    def seen(self, seen: Callable[[str], str]) -> None:
        """No job waits for a file that is there, or that has changed. `seen`: what a look at a path sees now."""
        for job_id, condition, path, before in self._look("file", AWAITED_FILES):
            self.looks["awaited file"] += 1
            now = seen(str(path))
            changed = before is not None and before != now
            if now and (changed or not str(condition).startswith("file-changed")):
                self.broken(f"job {job_id} waits for {condition}, it was {before!r} and is {now!r}, and nobody looks")

    def idle(self, steady: int) -> None:
        """If only time passes, everything that is due is going to be handled."""
        rows = self._database.execute(OVERDUE, {"steady": steady - LATE_MS}).fetchall()
        self.looks["idle"] += 1
        for job_id, condition in self._database.execute(END_AWAITED):
            self.broken(f"job {job_id} still waits for {condition}, which has ended")
        for (event,) in self._database.execute(UNDELIVERED):
            self.broken(f"event {event} has not reached all of its jobs, and nobody is going to go on")
        for job_id, state in rows:
            self.broken(f"job {job_id} is still {state}, its time has come and nobody is going to look")

    def owned(self, run_ids: Iterable[str], opened: Container[str]) -> None:
        """No ended run is watched: its launcher would be kept for ever."""
        for run_id in run_ids:
            if run_id not in opened:
                self.broken(f"{run_id} has ended, and its end is still waited for")

    def kept(self, descriptors: Iterable[int]) -> None:
        """Every open descriptor belongs to a task or a run: any other would never be closed."""
        self.looks["kept"] += 1
        for descriptor in descriptors:
            self.broken(f"descriptor {descriptor} of a process is open, and nothing will close it")

    def turn_began(self, woken: Sequence[int], at: int) -> None:
        """After a turn has read its rows, the jobs that the turn before found due do not wait any more."""
        for (job_id,) in self._look("due", STILL_WAITING, *self._named_due):
            self.broken(f"job {job_id} was due, the turn was told so, and it still waits")
        self._named_due = (json.dumps(woken), at)

    # --- everything at once

    def whole(self) -> None:
        """The checks that are too slow for every step: made at each start, and at the end."""
        ((count, last),) = self._look("whole", SEQUENCE)
        if count != last:
            self.broken(f"{count} changes, the last is number {last}")
        for job_id, state, last_change in self._look("whole", LAST_STATES):
            if state != last_change:
                self.broken(f"job {job_id} is {state}, its last change says {last_change}")
        for (subject,) in self._look("whole", OPEN_BUT_ENDED):
            self.broken(f"{subject}: an open attempt and a running job belong together")
        for (name,) in self._look("whole", TWICE):
            self.broken(f"submit {name} became two jobs")
        for key, both in self._look("whole", TWO_OF_KEY):
            self.broken(f"jobs {both} of the supersede key {key} wait at the same time")
        for job_id, newer in self._look("whole", REPLACED_BY_NONE):
            self.broken(f"job {job_id} was superseded by {newer}, which is no newer job of its key")
        self._conditions()
        there: dict[int, str] = dict(self._database.execute("SELECT id, name FROM jobs"))
        for job_id, name in self.answered.items():
            if there.get(job_id) != name:
                self.broken(f"job {job_id} ({name}) was answered and is lost")

    def _conditions(self) -> None:
        for job_id, bits, rows in self._look("conditions", CONDITIONS):
            if bits != rows:
                self.broken(f"job {job_id} has the open conditions {bits}, and its rows are {rows}")
        for event, reached, given in self._look("conditions", EVENTS_GIVEN):
            if reached != given:
                self.broken(f"event {event} reached {reached} jobs, and {given} have got it")
        for job_id, condition, count in self._look("conditions", MET_TWICE):
            self.broken(f"job {job_id}: {condition} was met {count} times")

    def held(self) -> list[int]:
        """Jobs that only wait for a person. A safe job may do so only for a reason that needs a person."""
        rows = self._database.execute(HELD).fetchall()
        for job_id, on_orphan, reason in rows:
            if on_orphan == "requeue" and reason not in ("user", "poison", "stuck", "lost"):
                self.broken(f"safe job {job_id} is held as {reason}")
        return [job_id for job_id, _, _ in rows]

    def forget_uncommitted(self) -> None:
        """A new life begins with what is on disk."""
        self._named_due = ("[]", 0)
        self.states = {
            int(str(job_id)): str(state) for job_id, state in self._database.execute("SELECT id, state FROM jobs")
        }
