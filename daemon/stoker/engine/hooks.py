"""Submits the jobs of hooks: at the end of each turn, one for each change and hook that match.

A job of a hook is part of the turn, and so of the commit, that records its change: a crash leaves both or neither.
Invariants: a job of a hook triggers no hook; a change that finds the queue `hooks` full is counted, and the count is
recorded as a change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.errors import StokerError
from stoker.core.hooks import QUEUE, Hook, HookOn, Subject, hook_data, kind_of, matches
from stoker.core.job.model import STOKER, Change, Job, Queue, Spec
from stoker.engine.intake import Intake
from stoker.engine.settings import set_queue
from stoker.engine.spec_defaults import SpecDefaults
from stoker.engine.turn import LogLine, Turn
from stoker.telemetry import otel
from stoker.telemetry.events import LogEvent

MAX_TITLE = 200  # characters
STEPS_NAMED = 20


class HookRefusals(Struct):
    """The changes of one turn for which a hook could not submit a job, and why."""

    changes: int
    first: int
    because: str


class Hooks:
    """The hooks in force. `refused`: by name, the jobs that could not be submitted since this daemon started."""

    def __init__(self, intake: Intake, hooks: Iterable[Hook]) -> None:
        self._intake = intake
        self._host = os.uname().nodename
        self._plans: dict[str, tuple[Queue, SpecDefaults, Spec]] = {}
        self.refused: dict[str, int] = {}
        self.use(hooks)

    def use(self, hooks: Iterable[Hook]) -> None:
        self.by_name: Mapping[str, Hook] = {hook.name: hook for hook in hooks}
        self._plans.clear()
        self._by_kind: dict[HookOn, list[Hook]] = {}
        for hook in self.by_name.values():
            for on in hook.on:
                self._by_kind.setdefault(on, []).append(hook)

    def trigger(self, turn: Turn) -> Iterator[int]:
        """Submit the jobs for the changes of a turn. Yields 1 after each job."""
        if not self._by_kind:
            return
        wanted = [(on, change) for change in turn.batch.changes if (on := kind_of(change)) in self._by_kind and on]
        if not wanted:
            return
        jobs = {transition.change.seq: transition.job for transition in turn.transitions}
        refusals: dict[str, HookRefusals] = {}
        for on, change in wanted:
            yield from self._submit_all(turn, on, change, jobs, refusals)
        for name, refused in refusals.items():
            self._record(turn, name, refused)

    def _submit_all(
        self, turn: Turn, on: HookOn, change: Change, jobs: Mapping[int, Job], refusals: dict[str, HookRefusals]
    ) -> Iterator[int]:
        subject = _subject(turn, on, change, jobs)
        if subject.job is not None and subject.job.spec.hook is not None:
            return
        for hook in self._by_kind[on]:
            if matches(hook, subject):
                try:
                    self.submit(turn, hook, on, change, subject)
                except StokerError as error:
                    refused = refusals.setdefault(hook.name, HookRefusals(0, change.seq, error.message))
                    refused.changes += 1
                yield 1

    def submit(self, turn: Turn, hook: Hook, on: HookOn, change: Change, subject: Subject) -> Job:
        """Submit a job of a hook; `seq` of the change is 0 for one that is made up. Raises StokerError."""
        queue = ensure_queue(turn)
        self._intake.check_queue_room(turn, queue, 0)
        record = hook_data(hook, on, change, subject, self._host)
        spec = replace(
            self._plan(hook, queue),
            name=f"{hook.name}: {record['summary']}"[:MAX_TITLE],
            hook_change=change.seq or None,
            hook_data=record,
            traceparent=None if subject.job is None else otel.context_of(subject.job),
        )
        return self._intake.accept(turn, spec, os.getuid(), [])

    def _plan(self, hook: Hook, queue: Queue) -> Spec:
        """The spec that all jobs of a hook share. Raises StokerError if the defaults of the queue contradict it."""
        specs = self._intake.specs
        plan = self._plans.get(hook.name)
        if plan is None or plan[0] is not queue or plan[1] is not specs:
            spec = replace(specs.resolve(hook.work, queue), hook=hook.name)
            plan = self._plans[hook.name] = (queue, specs, spec)
        return plan[2]

    def _record(self, turn: Turn, name: str, refused: HookRefusals) -> None:
        self.refused[name] = self.refused.get(name, 0) + refused.changes
        turn.record(
            "hook", name, "refused", {"changes": refused.changes, "first": refused.first, "note": refused.because}
        )
        fields: dict[str, Any] = {"hook": name, "changes": refused.changes, "error": refused.because}
        turn.effects.append(LogLine(LogEvent.HOOK_REFUSED, fields))


def ensure_queue(turn: Turn) -> Queue:
    """The queue of all jobs of hooks, which is made when it is first used."""
    if QUEUE.name not in turn.memory.queues:
        set_queue(turn, QUEUE, "configured", STOKER)
    return turn.memory.queues[QUEUE.name]


def _subject(turn: Turn, on: HookOn, change: Change, jobs: Mapping[int, Job]) -> Subject:
    """The subject of a change of this turn. `jobs`: as they were after each change."""
    match on.noun:
        case "job":
            job = jobs.get(change.seq) or turn.job(int(change.subject))
            run = None if job.workflow_id is None else turn.memory.workflows.runs.get(job.workflow_id)
            return Subject(job=job, workflow=None if run is None else run.workflow)
        case "workflow":
            run = turn.memory.workflows.runs[int(change.subject)]
            return Subject(workflow=run.workflow, broken=tuple(sorted(run.broken)[:STEPS_NAMED]))
        case "queue":
            return Subject(queue=change.subject)
    return Subject()
