"""One turn of the engine: everything that is decided between two commits.

Owns the batch to be stored, the effects that follow the commit, and the changes for the log: every change of a job
passes through `Turn.step`. A turn never awaits and never reads a file. Invariant: its decisions are in memory at once
and on disk at its commit; nothing acts or answers before that.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.errors import JobNotFound
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import STOKER, Actor, Attempt, Change, Job, Need, State
from stoker.core.job.transition import awaits_decision
from stoker.core.retention import ranges
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.core.workflow.inner_limits import InnerLimit
from stoker.core.workflow.state import ENDING, Intent, Workflow, WorkflowState, aborts, cuts
from stoker.engine.change_log import CAUSES, DERIVED, difference, first_values
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.store.attempts import Needed
from stoker.store.batch import Batch
from stoker.store.conditions import ConditionWaiter
from stoker.store.due import Due
from stoker.store.instance import seen
from stoker.store.jobs import is_damaged, spec_hash
from stoker.store.loading import Loaded
from stoker.store.retention import PurgePortion
from stoker.telemetry.events import LogEvent

# A pid and a start time are stored with a commit this much later: most short jobs have ended by then, which saves
# two updates for each.
STORE_AFTER_MS = 50
# After a reboot under a wall clock that is behind, backoffs and ttls are late by no more than this.
NOTE_STEADY_MS = 1_000
ENDS_AT_ONCE = 50  # read with a commit: each job may have handed on 64 KiB


class Transition(Struct, frozen=True):
    """A recorded step, for the log, metrics and subscriptions after the commit."""

    event: ev.Event | None
    before: Job | None
    job: Job
    attempt: Attempt | None
    change: Change


class Watch(ev.Effect, frozen=True):
    """A worker runs since `started` (steady): its limits and its heartbeats are watched from now on."""

    run_id: str
    started: int


class Warn(ev.Effect, frozen=True):
    """A limit is near: send the warning signal to the main process."""

    run_id: str
    signum: int


class StopDelivered(ev.Effect, frozen=True):
    """The first signal of a stop was sent before the process ended."""

    run_id: str


class AcknowledgeUnknown(ev.Effect, frozen=True):
    """The outcome of an attempt that is not open is on disk: its launcher may forget it."""

    run_id: str


class DueRead(ev.Effect, frozen=True):
    """The due jobs were read: the timer is set to the time at which the next one is due."""

    due: Due


class LogLine(ev.Effect, frozen=True):
    """A line of the log, written after the commit."""

    event: LogEvent
    fields: dict[str, Any]


class Turn:
    """Collects decisions; `Loop` commits and carries them out."""

    def __init__(self, memory: LiveState, now: Now, loaded: Loaded) -> None:
        self.memory = memory
        self.now = now
        self.loaded = loaded
        self.batch = Batch()
        self.effects: list[ev.Effect] = []
        self.transitions: list[Transition] = []
        self.settings_changed: list[Change] = []  # of queues, resources, rates and schedules
        self.verdicts: list[tuple[Workflow, Workflow, list[str]]] = []  # changed, and which steps broke them
        self.touched_workflows: set[int] = set()  # workflows that changed in this turn
        self.ends: dict[int, Needed] = {}  # of jobs that opened attempts need: of this turn, or read with the commit
        self.needed: set[int] = set()  # jobs that others began to need in this turn
        self.awaiting: set[int] = set()  # jobs that wait for conditions and were changed
        self.new_waiters: dict[str, list[ConditionWaiter]] = {}  # jobs that began to wait in it, by condition
        self.flush = False

    def find(self, job_id: int) -> Job | None:
        """The newest value of a job: of this turn, from memory, or loaded."""
        if job_id in self.batch.new_jobs:
            return self.batch.new_jobs[job_id]
        if job_id in self.batch.jobs:
            return self.batch.jobs[job_id]
        run = self.memory.runs.get(job_id)
        return run.job if run is not None else self.loaded.jobs.get(job_id)

    def job(self, job_id: int) -> Job:
        """As `find`, but a job must be there. Raises JobNotFound."""
        job = self.find(job_id)
        if job is None:
            raise JobNotFound(f"there is no job {job_id}", hint="stoker ls --all", id=job_id)
        return job

    def insert(self, job: Job, key: str | None, open_needs: Sequence[Need]) -> None:
        self.batch.new_jobs[job.id] = job
        if open_needs:
            self.set_needs(job.id, open_needs)
        self.memory.enter(None, job, None)
        self._ask_to_decide(job)
        payload = {"spec": job.spec, "job": first_values(job), "key": key}
        self._record(None, None, job, None, payload, Actor(job.owner_uid, job.spec.submitter))

    def step(self, job_id: int, event: ev.Event) -> Job:
        """Apply an event to a job and add its rows, changes and effects to the turn."""
        before = self.job(job_id)
        run = self.memory.runs.get(job_id)
        attempt = None if run is None else run.attempt
        after = step(before, attempt, event, self.now)
        job = self._respecified(before, after.job)
        if job.conditions_open and job.state is State.WAITING:
            self.awaiting.add(job.id)
        touched = None if after.attempt is attempt else after.attempt
        if touched is None and job == before:
            self.effects.extend(after.effects)
            return job
        self._store(job, attempt, touched)
        self.memory.enter(before, job, touched)
        payload = difference(before, job, attempt, touched)
        if touched is not None or payload.keys() - DERIVED:
            self._record(event, before, job, touched, payload, event.actor)
        self.effects.extend(after.effects)
        self._ask_to_decide(job)
        return job

    def _ask_to_decide(self, job: Job) -> None:
        """After each change of a job whose `if` can be decided: the newest look at its needs counts."""
        if job.undecided and awaits_decision(job):
            self.effects.append(ev.Decide(job.id))

    def begin(self, run: OpenRun, began: ev.Began, at: int) -> None:
        """The worker exists since `at` (UTC ms). That changes no state, so it is stored with the next commit."""
        run.attempt = replace(run.attempt, identity=began.identity, bounds=began.bounds, started_at=at)
        run.job = replace(run.job, pid=began.identity and began.identity.pid, started_at=run.job.started_at or at)
        if run.job.id in self.batch.jobs:
            self.batch.jobs[run.job.id] = run.job
        if run.attempt.run_id in self.batch.attempts:
            self.batch.attempts[run.attempt.run_id] = run.attempt
        self.memory.described[run.attempt.run_id] = self.now.steady

    def record(self, kind: str, subject: str, cause: str, payload: dict[str, Any], actor: Actor = STOKER) -> None:
        self._change(kind, subject, None, None, cause, payload, actor)

    def note_job(self, job: Job, cause: str, payload: dict[str, Any]) -> None:
        """Record a fact about a job that changes no row of it."""
        self._change("job", str(job.id), job.state, job.state, cause, payload, STOKER)

    def add_workflow(self, run: LiveWorkflow, actor: Actor) -> None:
        """A workflow was accepted; its steps follow."""
        workflow = run.workflow
        self.memory.workflows.add(run)
        self.batch.new_workflows[workflow.id] = workflow
        self.touched_workflows.add(workflow.id)
        payload = {"workflow": workflow, "note": actor.note}
        self._change("workflow", str(workflow.id), None, workflow.state, "submitted", payload, actor)

    def intend(
        self, run: LiveWorkflow, intent: Intent, cause: str, actor: Actor, *, target: str | None = None, **details: Any
    ) -> None:
        """Set the intent of a workflow; its state follows at the end of the turn."""
        before = run.workflow
        self.memory.workflows.intend(run, intent, target)
        if before.intent is Intent.ABORT and intent is Intent.RUN:
            run.renew(self.now)
        self.batch.workflows[before.id] = run.workflow
        self.touched_workflows.add(before.id)
        payload = {"intent": intent, "target": target, "note": actor.note, **details}
        self._change("workflow", str(before.id), before.state, before.state, cause, payload, actor)

    def set_limits(self, run: LiveWorkflow, changed: Iterable[tuple[str, InnerLimit | None]]) -> None:
        """Limits of nested workflows changed; None: one does not count any more."""
        self.batch.inner_limits.update(((run.workflow.id, outer), limit) for outer, limit in changed)

    def set_needs(self, job_id: int, open_needs: Iterable[Need]) -> None:
        """The job waits for these needs and for no others."""
        needs = self.batch.needs[job_id] = {need.job: need.on for need in open_needs}
        self.needed.update(needs)
        self.memory.needed.update(needs)
        self._note_gate(job_id, closed=job_id in needs)

    def keep_needs(self, job: Job) -> None:
        """A job that is skipped for all of its needs together: a retry of any of them must find it."""
        needs = self.batch.needs[job.id] = {need.job: need.on for need in job.spec.needs}
        self._note_gate(job.id, closed=job.id in needs)

    def meet_need(self, job_id: int, needed: int) -> None:
        """The job no longer waits for `needed`."""
        if job_id in self.batch.needs:
            del self.batch.needs[job_id][needed]
        else:
            self.batch.needs_met.add((job_id, needed))
        if needed == job_id:
            self._note_gate(job_id, closed=False)

    def _note_gate(self, job_id: int, *, closed: bool) -> None:
        """A handler waits for its workflow, or does so no longer (core/workflow/handlers.py)."""
        job = self.find(job_id)
        if job is not None and job.workflow_id is not None:
            run = self.memory.workflows.runs[job.workflow_id]
            (run.close_gate if closed else run.open_gate)(job_id)

    def still_needs(self, job_id: int, needed: int) -> bool:
        """Whether a need that was read before this turn is open now."""
        if job_id in self.batch.needs:
            return needed in self.batch.needs[job_id]
        return (job_id, needed) not in self.batch.needs_met

    def withdraw_cancel(self, job: Job, cause: str, actor: Actor) -> None:
        """If a step of a cancelled or aborted workflow is to run again, the workflow is not cancelled any more."""
        run = None if job.workflow_id is None else self.memory.workflows.runs[job.workflow_id]
        if run is not None and run.workflow.intent in ENDING:
            self.intend(run, Intent.RUN, cause, actor, step=job.step)

    def purge(self, portion: PurgePortion, actor: Actor) -> None:
        """Remove jobs and workflows that have ended, and a prefix of the log of changes."""
        self.batch.purge = portion
        self.memory.needed.difference_update(portion.all_jobs)  # of jobs that were skipped at once
        payload: dict[str, Any] = {"jobs": ranges(portion.jobs), "workflows": ranges(portion.workflows)}
        if portion.changes:
            payload["changes"] = portion.changes
        self.record("system", "retention", "purged", payload | {"note": actor.note}, actor)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        self.batch.checkpoints.append(checkpoint)

    def judge_workflows(self) -> Iterator[int]:
        """Update the workflows whose steps changed in this turn. Yields how many steps each has."""
        workflows = self.memory.workflows
        for workflow_id in sorted(self.touched_workflows):
            run, is_new = workflows.runs[workflow_id], workflow_id in self.batch.new_workflows
            before, after = run.workflow, workflows.judge(run, self.now, self.memory.last_seq + 1)
            self.set_limits(run, run.changed_limits(self.now))
            if is_new:
                self.batch.new_workflows[workflow_id] = after
            elif after != before:
                self.batch.workflows[workflow_id] = after
            if after.state is not before.state:
                payload = {"finished_at": after.finished_at}
                cause = after.state.value
                self._change("workflow", str(workflow_id), before.state, after.state, cause, payload, STOKER)
                self.verdicts.append((before, after, sorted(run.broken)))
                self.checkpoint(workflows.context(run, self.now.wall))
            yield len(run.steps)

    def finish(self) -> Batch:
        """The batch, with the pids and start times of running attempts that waited for a commit."""
        due = self.now.steady - (0 if self.flush else STORE_AFTER_MS)
        if self.batch or self.flush:
            for run_id in [run_id for run_id, since in self.memory.described.items() if since <= due]:
                del self.memory.described[run_id]
                run = self.memory.by_run(run_id)
                if run is not None:
                    self.batch.attempts.setdefault(run_id, run.attempt)
                    self.batch.jobs.setdefault(run.job.id, run.job)
        if self.batch and self.now.steady >= self.memory.steady_noted + NOTE_STEADY_MS:
            self.memory.steady_noted = self.now.steady
            self.batch.meta.update(seen(self.now))
        return self.batch

    def needed_ends(self) -> Collection[int]:
        """The jobs whose ends are inputs of the opened first attempts, if they are few and not in `ends` already."""
        needed = set[int]()
        for attempt in self.batch.new_attempts.values():
            if attempt.ordinal == 1:
                needed.update(self.job(attempt.job_id).needed)
            if len(needed) > ENDS_AT_ONCE:
                return ()
        if needed:
            self._note_ends(needed)
        return needed - self.ends.keys()

    def _note_ends(self, needed: Container[int]) -> None:
        for transition in self.transitions:
            job, attempt = transition.job, transition.attempt
            if job.id in needed and attempt is not None and attempt.outcome is not None and self.find(job.id) is job:
                output = attempt.outcome.output
                self.ends[job.id] = Needed(job.id, job.step, job.state, job.reason, job.exit_code, output)

    def _respecified(self, before: Job, job: Job) -> Job:
        if job.spec is before.spec or job.spec == before.spec:
            return job
        if not is_damaged(before):  # else it would look sound
            job = replace(job, spec_hash=spec_hash(job.spec))
        self.batch.respecified[job.id] = job
        return job

    def _store(self, job: Job, attempt: Attempt | None, touched: Attempt | None) -> None:
        if job.id in self.batch.new_jobs:
            self.batch.new_jobs[job.id] = job
        else:
            self.batch.jobs[job.id] = job
        if touched is None:
            return
        if attempt is None:
            self.batch.new_attempts[touched.run_id] = touched
            self.batch.holds[touched.run_id] = job.spec.resources
        else:
            self.batch.attempts[touched.run_id] = touched

    def _record(
        self,
        event: ev.Event | None,
        before: Job | None,
        job: Job,
        attempt: Attempt | None,
        payload: dict[str, Any],
        actor: Actor,
    ) -> None:
        cause = "submitted" if event is None else CAUSES[type(event)]
        if actor.note is not None:
            payload["note"] = actor.note
        was = None if before is None else before.state
        change = self._change("job", str(job.id), was, job.state, cause, payload, actor)
        self.transitions.append(Transition(event, before, job, attempt, change))
        if job.workflow_id is not None:
            self.touched_workflows.add(job.workflow_id)
            if isinstance(event, (ev.Retry, ev.Restart)) and not job.final:
                self.withdraw_cancel(job, "retry", actor)
            live = job.id in self.memory.runs
            self.batch.checkpoints.extend(self.memory.workflows.record_step(before, job, change.at, attempt, live=live))
            if before is not None and before.state is not job.state:
                self._follow(self.memory.workflows.runs[job.workflow_id], job)

    def _follow(self, run: LiveWorkflow, job: Job) -> None:
        """The workflow takes note of the state of a step, in the same commit; later turns end other steps for it."""
        step, workflow = run.steps[job.id], run.workflow
        if job.state is State.RUNNING:
            self.set_limits(run, run.begin_timeouts(step, self.now))
        elif workflow.intent not in (Intent.RUN, Intent.PAUSE):
            return
        elif aborts(step, job):
            self.intend(
                run, Intent.ABORT, "aborted", STOKER, target="abort_on", step=step.name, exit_code=job.exit_code
            )
        elif (group := cuts(step, job)) is not None and group not in run.cut:
            self.memory.workflows.cut(run, [*run.cut, group])
            self.record("workflow", str(workflow.id), "cut_short", {"group": group, "step": step.name})
        if run.workflow is not workflow:
            self.batch.workflows[workflow.id] = run.workflow

    def _change(
        self,
        kind: str,
        subject: str,
        before: State | WorkflowState | None,
        after: State | WorkflowState | None,
        cause: str,
        payload: dict[str, Any],
        actor: Actor,
    ) -> Change:
        self.memory.last_seq += 1
        change = Change(
            seq=self.memory.last_seq,
            at=self.now.wall,
            kind=kind,
            subject=subject,
            from_state=before and before.value,
            to_state=after and after.value,
            cause=cause,
            actor_uid=actor.uid,
            payload=payload,
        )
        self.batch.changes.append(change)
        return change
