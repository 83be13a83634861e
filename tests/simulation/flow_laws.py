"""The laws of workflows and of needs, and the agreement of the daemon's memory with its rows.

Owns the laws that hold while the daemon has nothing to do: no workflow is on its way, every job that may start has
started, every need is open for a reason, and a fresh start would read what is in memory. Invariant: what may start is
computed from committed rows alone; of the daemon only the reasons are asked for which no job starts at all.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job.model import FINAL, Reason, State
from stoker.core.rate import tokens
from stoker.core.workflow.context import rebuild
from stoker.core.workflow.state import ENDING, is_broken, state_of
from stoker.engine.memory import LiveState, OpenRun, memory_of
from stoker.engine.memory.blueprint import steps_of
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.memory.workflows import LiveWorkflows
from stoker.store import checkpoints, snapshot, workflows
from stoker.workflows.submit_answers import WorkflowAnswer
from tests.simulation.laws import LATE_MS, RATES, Laws
from tests.simulation.life import Life
from tests.simulation.need_laws import NeedLaws
from tests.simulation.users import at_their_limit

ON_THE_WAY = """
SELECT id, state, intent FROM workflows WHERE finished_at IS NULL AND intent IN ('rollback', 'cancel', 'abort')
    AND NOT EXISTS (SELECT 1 FROM attempts JOIN jobs ON jobs.id = job_id WHERE workflow_id = workflows.id
        AND ended_at IS NULL)
"""
PAUSED = "SELECT id FROM workflows WHERE finished_at IS NULL AND intent = 'pause'"
TWICE = "SELECT name FROM workflows GROUP BY name HAVING count(*) > 1"
NEWEST = "SELECT id FROM workflows ORDER BY id DESC LIMIT 5"
SAME_STEP = "SELECT workflow_id, step FROM jobs WHERE step IS NOT NULL GROUP BY workflow_id, step HAVING count(*) > 1"
INNER_LIMITS = """
SELECT count(*) FROM changes WHERE kind = 'workflow' AND cause = 'limit_reached' AND payload ->> 'step' IS NOT NULL
"""
EXPANDED = "SELECT count(*) FROM changes WHERE kind = 'workflow' AND cause = 'expanded'"
REUSED_IN_EXPANSIONS = """
SELECT DISTINCT CAST(subject AS INTEGER) FROM changes
WHERE kind = 'workflow' AND cause = 'expanded' AND payload ->> '$.reused' > 0
"""
LAST_STATES = """
SELECT id, state, (SELECT to_state FROM changes WHERE kind = 'workflow' AND subject = workflows.id
    AND to_state IS NOT NULL ORDER BY seq DESC LIMIT 1) FROM workflows
"""
CANCELS_TAKEN_BACK = """
SELECT subject FROM (SELECT subject, payload ->> 'intent' AS intent,
        lag(payload ->> 'intent') OVER (PARTITION BY subject ORDER BY seq) AS before
    FROM changes WHERE kind = 'workflow' AND payload ->> 'intent' IS NOT NULL)
WHERE intent = 'pause' AND before = 'cancel'
"""
OPEN_NEEDS = """
SELECT id, needs_open, (SELECT count(*) FROM needs WHERE job_id = jobs.id) FROM jobs
WHERE state IN ('waiting', 'queued', 'held')
"""
ENDED_NEEDS = """
SELECT job_id, needed FROM needs JOIN jobs ON jobs.id = job_id JOIN jobs AS other ON other.id = needed
WHERE jobs.state IN ('waiting', 'held') AND other.finished_at IS NOT NULL
"""
FOR_NOTHING = """
SELECT id FROM jobs WHERE state = 'waiting' AND needs_open = 0 AND conditions_open = 0 AND wake_at IS NULL
    AND run_at IS NULL
"""
QUEUED_UNDECIDED = "SELECT id FROM jobs WHERE undecided = 1 AND state IN ('queued', 'running')"
RAN_THOUGH_FALSE = """
SELECT subject FROM changes WHERE cause = 'decided' AND payload ->> 'note' LIKE '% is false' AND to_state != 'skipped'
"""
AT_ONCE = """
SELECT workflows.id, other.id FROM workflows
JOIN workflows AS other ON other.concurrency_key = workflows.concurrency_key AND other.place < workflows.place
JOIN jobs ON jobs.workflow_id = workflows.id JOIN attempts ON job_id = jobs.id
WHERE attempts.created_at > other.created_at AND other.finished_at IS NULL AND ended_at IS NULL
"""
OPEN_ATTEMPTS = "SELECT count(*) FROM attempts WHERE ended_at IS NULL"
HOLDS = "SELECT holds FROM attempts WHERE ended_at IS NULL"
STARTABLE = """
SELECT jobs.id, demand, jobs.queue, jobs.owner_uid FROM jobs JOIN queues ON queues.name = jobs.queue
LEFT JOIN workflows ON workflows.id = jobs.workflow_id
WHERE jobs.state = 'queued' AND NOT queues.paused AND coalesce(intent, 'run') = 'run'
    AND NOT EXISTS (SELECT 1 FROM workflows AS other WHERE other.concurrency_key = workflows.concurrency_key
        AND other.place < workflows.place AND other.finished_at IS NULL)
    AND (queues.max_running IS NULL OR queues.max_running > (SELECT count(*) FROM attempts JOIN jobs AS other
        ON other.id = job_id WHERE ended_at IS NULL AND other.queue = queues.name))
"""
REUSED = "SELECT seq FROM changes WHERE kind = 'job' AND subject = ? AND cause = 'reused'"
BUILT_ON_RUNNING = """
SELECT jobs.id, other.id FROM jobs, json_each(jobs.policy, '$.needs') AS need
JOIN jobs AS other ON other.id = need.value ->> '$.job'
WHERE jobs.workflow_id = ? AND jobs.policy ->> '$.reused' IS NOT NULL AND other.policy ->> '$.reused' IS NULL
"""
REUSED_AND_RAN = """
SELECT jobs.id FROM jobs JOIN attempts ON attempts.job_id = jobs.id AND attempts.ordinal = jobs.attempts
WHERE jobs.workflow_id = ? AND jobs.reason = 'reused'
"""
BUCKET = "SELECT full_at FROM buckets WHERE name = ?"
WANTED = "SELECT demand FROM jobs WHERE state = 'queued' AND demand IS NOT NULL"


BEGUN = (State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED)
COMPARED_EVERY = 5  # transactions


class FlowLaws:
    """`answered`: the steps of each workflow, from the answers to clients. `verbs`: those that were carried out."""

    def __init__(self, connection: sqlite3.Connection, laws: Laws, capacity: Mapping[str, int]) -> None:
        self._database = connection
        self._laws = laws
        self._capacity = capacity
        self.answered: dict[int, list[str]] = {}
        self.verbs: Counter[str] = Counter()
        self._needs_laws = NeedLaws(connection, laws)
        self._committed = 0  # transactions since memory and rows were compared

    def numbers(self, sql: str, *parameters: object) -> list[int]:
        return [int(number) for (number,) in self._database.execute(sql, parameters)]

    def answer(self, answer: WorkflowAnswer, name: str) -> None:
        """Announce last: the workflow and its steps are on disk."""
        assert answer.id is not None
        self.answered[answer.id] = list(answer.steps)
        for step, job_id in answer.steps.items():
            assert job_id is not None
            self._laws.answer(job_id, f"{name}/{step}")
        self._reused(answer)

    def _reused(self, answer: WorkflowAnswer) -> None:
        """The answer calls a step reused exactly if it is; it needs only such steps, and has no attempt."""
        for one in () if answer.reuse is None else answer.reuse.steps:
            job_id = answer.steps[one.step]
            if bool(self.numbers(REUSED, str(job_id))) is not one.reused:
                self._laws.broken(f"job {job_id} is said to be {'' if one.reused else 'not '}reused")
            self._laws.looks["reused"] += one.reused
        for job_id, needed in self._database.execute(BUILT_ON_RUNNING, (answer.id,)) if answer.reuse else ():
            self._laws.broken(f"job {job_id} was reused although job {needed}, which it needs, was not")
        if answer.reuse:
            self._reused_without_run(answer.id or 0)

    def _reused_without_run(self, workflow_id: int) -> None:
        for (job_id,) in self._database.execute(REUSED_AND_RAN, (workflow_id,)):
            self._laws.broken(f"job {job_id} is reused, and it has an attempt")

    def spoken(self, verb: str) -> None:
        self.verbs[verb] += 1

    def paused(self) -> list[int]:
        return self.numbers(PAUSED)

    # --- while the daemon has nothing to do

    def idle(self, life: Life, steady: int) -> None:
        self._laws.looks["flows"] += 1
        for ident, run in life.engine.memory.workflows.runs.items():
            if run.workflow.ended:
                self._laws.broken(f"workflow {ident} has ended, and it is still in memory")
        self._nothing_on_its_way(life)
        self._gates(life, steady)
        self._needs()
        self._conditions(life.background.retrying)
        self._due_jobs_start(life, steady)
        if self._committed:
            self._committed = 0
            self._memory_is_rows(life.engine.memory)

    def stored(self, memory: LiveState) -> None:
        """A transaction went through."""
        self._needs_laws.stored()
        self._committed += 1
        if self._committed >= COMPARED_EVERY:
            self._committed = 0
            self._memory_is_rows(memory)

    def _nothing_on_its_way(self, life: Life) -> None:
        """A rollback or a cancel lasts no longer than the last attempt of its workflow; `finally` follows a cancel."""
        for ident, state, intent in self._database.execute(ON_THE_WAY):
            run = life.engine.memory.workflows.runs[ident]
            spared = run.workflow.intent in ENDING and not run.to_end()
            if f"end of workflow {ident}" not in life.background.retrying and not spared:
                self._laws.broken(f"workflow {ident} is {state} for a {intent}, and nothing of it runs")

    def _gates(self, life: Life, steady: int) -> None:
        """A handler waits no longer than the steps before it, and no limit of time is missed."""
        now = life.engine.clock.now()
        late_ms = LATE_MS + now.steady - steady  # a look at the clock takes time, in which no timer fires
        for ident, other in self._database.execute(AT_ONCE):
            self._laws.broken(f"workflow {ident} runs beside workflow {other} of its key, which goes first")
        for ident, run in life.engine.memory.workflows.runs.items():
            if run.cut and f"end of workflow {ident}" not in life.background.retrying:
                self._laws.broken(f"workflow {ident}: steps of {run.cut} are to be ended, and nobody does it")
            if limit := run.overdue(Now(wall=now.wall - late_ms, steady=now.steady - late_ms)):
                self._laws.broken(f"workflow {ident}: its {limit} has passed, and its steps go on")
            for outer in run.counting:
                if run.states[outer.removesuffix("/")] in FINAL:
                    self._laws.broken(f"workflow {ident}: {outer} has ended, and limits of it count")
            handlers = [run.steps[job] for jobs in run.gates.values() for job in jobs]
            late = [step.name for step in handlers if run.states[step.name] not in FINAL and not run.is_early(step)]
            if late and f"end of workflow {ident}" not in life.background.retrying:
                self._laws.broken(f"workflow {ident}: {late} wait, and all steps before them have ended")

    def _needs(self) -> None:
        for job_id, counted, rows in self._database.execute(OPEN_NEEDS):
            if counted != rows:
                self._laws.broken(f"job {job_id} counts {counted} open needs, and there are {rows}")
        for job_id, needed in self._database.execute(ENDED_NEEDS):
            self._laws.broken(f"job {job_id} still needs job {needed}, which has ended")

    def _conditions(self, retrying: Collection[str]) -> None:
        """An `if` is decided once its needs have ended; a step runs only after that, and only if it is true."""
        if not any(name.startswith("if of job") for name in retrying):
            for (job_id,) in self._database.execute(FOR_NOTHING):
                self._laws.broken(f"job {job_id} is waiting for nothing")
        for job_id in self.numbers(QUEUED_UNDECIDED):
            self._laws.broken(f"job {job_id} was queued, and its `if` is not decided")
        for job_id in self.numbers(RAN_THOUGH_FALSE):
            self._laws.broken(f"the `if` of job {job_id} was false, and it was not skipped")

    def _due_jobs_start(self, life: Life, steady: int) -> None:
        """A queued job waits for a slot, a resource, a token, a limit, a person, or a host that lacks something."""
        engine = life.engine
        closed = engine.dispatcher.closed is not None or engine.dispatcher.throttled
        if closed or engine.memory.shortage.rounds or engine.local.launcher is None:
            return
        if self._laws.number(OPEN_ATTEMPTS) >= engine.dispatcher.slots:
            return
        free = Counter(dict(self._capacity)) + Counter(engine.memory.workflows.widths)
        for name, rate in RATES.items():
            free[name] = tokens(rate, self._laws.number(BUCKET, name), steady - LATE_MS)
        for (holds,) in self._database.execute(HOLDS):
            free.subtract(json.loads(holds))
        wanted = Counter(name for (demand,) in self._database.execute(WANTED) for name in json.loads(demand))
        full = at_their_limit(self._database)
        for job_id, demand, queue, owner in self._database.execute(STARTABLE):
            needs: dict[str, int] = json.loads(demand or "{}")
            if f"queue/{queue}" in RATES:
                needs[f"queue/{queue}"] = 1
            # A resource that several jobs want may be set aside for another one.
            fits = all((name in RATES or wanted[name] == 1) and free[name] >= amount for name, amount in needs.items())
            if fits and owner not in full:
                self._laws.broken(f"job {job_id} is queued, could start ({demand}), and nobody is going to look")

    def _memory_is_rows(self, memory: LiveState) -> None:
        self._laws.looks["memory"] += 1
        fresh = memory_of(snapshot.read(self._database))
        for name in ("queues", "resources", "last_id", "last_seq", "jobs_by_run"):
            self._same(name, getattr(memory, name), getattr(fresh, name))
        for name in ("counts", "running", "used"):
            self._same(name, +getattr(memory, name), +getattr(fresh, name))
        for name in ("last_id", "last_checkpoint"):
            self._same(f"workflows.{name}", getattr(memory.workflows, name), getattr(fresh.workflows, name))
        self._same("rates", memory.rates.of_keys, fresh.rates.of_keys)
        self._same("buckets", memory.rates.full_at.keys(), fresh.rates.full_at.keys())
        self._same("schedules", {*memory.schedules}, {*fresh.schedules})
        self._same("runs", _stored(memory), _stored(fresh, memory.described))
        self._same("lanes", _lanes(memory), _lanes(fresh))
        self._workflows(memory.workflows, fresh.workflows)
        if missing := fresh.needed - memory.needed:
            self._laws.broken(f"that {missing} are needed is not in memory")

    def _workflows(self, memory: LiveWorkflows, fresh: LiveWorkflows) -> None:
        """Those that ended with the last commit may be in memory."""
        live = {ident: run for ident, run in memory.runs.items() if not run.workflow.ended}
        ended = memory.runs.keys() - live.keys()
        widths = [name for run in live.values() for name in run.widths]
        self._same("workflows", live.keys(), fresh.runs.keys())
        self._same("barred workflows", memory.barred - ended, fresh.barred)
        self._same("widths", {name: memory.widths[name] for name in widths}, fresh.widths)
        for ident, run in live.items():
            self._same(f"workflow {ident}", _known(run), _known(fresh.runs[ident]))
            for name in (step.name for step in run.steps.values() if run.is_early(step)):
                if run.states[name] in BEGUN:
                    self._laws.broken(
                        f"workflow {ident}: {name} is {run.states[name]} before the steps before it ended"
                    )

    def _same(self, what: str, here: object, there: object) -> None:
        if isinstance(here, dict) and isinstance(there, dict):
            both = {key for key in here.keys() & there.keys() if here[key] == there[key]}
            here, there = ({key: one for key, one in side.items() if key not in both} for side in (here, there))
        if here != there:
            self._laws.broken(f"{what}: {here} in memory, {there} on disk")

    # --- everything at once

    def whole(self) -> None:
        """At each start, and at the end."""
        for (name,) in self._database.execute(TWICE):
            self._laws.broken(f"workflow {name} was made twice")
        self._laws.looks["inner limit"] += self._laws.number(INNER_LIMITS)
        self._laws.looks["expanded"] += self._laws.number(EXPANDED)
        for ident in self.numbers(REUSED_IN_EXPANSIONS):
            self._laws.looks["reused in an expansion"] += 1
            self._reused_without_run(ident)
        for ident, step in self._database.execute(SAME_STEP):
            self._laws.broken(f"workflow {ident} has two steps {step}")
        for ident in self.numbers(CANCELS_TAKEN_BACK):
            self._laws.broken(f"a pause took back the cancel of workflow {ident}")
        for ident, state, last in self._database.execute(LAST_STATES):
            if state != last:
                self._laws.broken(f"workflow {ident} is {state}, its last change says {last}")
        for stored in workflows.by_ids(self._database, self.numbers(NEWEST)):
            self._laws.looks["chain"] += 1
            states = {one.step: one.state for one in stored.steps}
            by_need = {one.step: one.reason is Reason.DEPENDENCY for one in stored.steps}
            broken = [
                step.name
                for step in steps_of(stored.workflow)
                if is_broken(step, states[step.name], by_dependency=by_need[step.name])
            ]
            expected = state_of(stored.workflow.intent, states, broken)
            self._same_rows(stored.workflow.id, "state", stored.workflow.state, expected)
            context = rebuild(checkpoints.up_to(self._database, f"w{stored.workflow.id}", sys.maxsize))
            rows = {one.step: (one.state, one.reason, one.floor) for one in stored.steps}
            chain = {name: (one.state, one.reason, one.floor) for name, one in context.steps.items()}
            self._same_rows(stored.workflow.id, "chain", chain, rows)

    def _same_rows(self, ident: int, what: str, here: object, there: object) -> None:
        if here != there:
            self._laws.broken(f"workflow {ident}: {what} is {here}, its rows say {there}")


def _stored(memory: LiveState, described: Collection[str] = ()) -> dict[int, OpenRun]:
    """The open runs, without the values that are stored with a later commit."""
    return {
        job_id: _undescribed(run) if run.attempt.run_id in (described or memory.described) else run
        for job_id, run in memory.runs.items()
    }


def _undescribed(run: OpenRun) -> OpenRun:
    attempt = replace(run.attempt, identity=None, bounds=None, started_at=None)
    return OpenRun(replace(run.job, pid=None, started_at=None), attempt)


def _lanes(memory: LiveState) -> dict[str, dict[tuple[int, str | None], int]]:
    lanes = {
        name: {
            (owner_uid, demand): lane.count
            for owner_uid, line in ready.lines.items()
            for demand, lane in line.lanes.items()
        }
        for name, ready in memory.ready.items()
    }
    return {name: counts for name, counts in lanes.items() if counts}


def _known(run: LiveWorkflow) -> list[Any]:
    head = (run.head.id, run.head.seq)
    return [
        run.gates,
        run.counting,
        run.open_in,
        run.open_by_table,
        run.workflow,
        run.steps,
        run.states,
        run.reasons,
        run.broken,
        head,
        run.widths,
        run.holds,
        run.floors,
    ]
