"""Editing a job that has not started: its queue, priority, name or limits.

Owns the way from the requested changes to the new spec, and the same checks that a submit makes. The change is a step
of the lifecycle, which refuses it while an attempt is open. A job that moves keeps its values: defaults of its new
queue do not apply.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from stoker.core.answers import EditedJob, JobStanding, job_standing
from stoker.core.errors import CorruptRecord
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Job, Spec
from stoker.core.job.spec_rules import contradictions
from stoker.core.requests import JobChanges
from stoker.engine.change_log import edited_fields
from stoker.engine.inbox import RequestMessage
from stoker.engine.spec_defaults import problems
from stoker.engine.submit import Intake
from stoker.engine.turn import Turn
from stoker.store.jobs import is_damaged
from stoker.store.loading import Wanted


class Editing(RequestMessage[JobStanding]):
    def __init__(self, intake: Intake, job_id: int, wanted: JobChanges, actor: Actor) -> None:
        super().__init__()
        self._intake = intake
        self._job_id = job_id
        self._wanted = wanted
        self._actor = actor

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.add(self._job_id)

    def apply_to(self, turn: Turn) -> None:
        job = turn.job(self._job_id)
        if is_damaged(job):
            problem = f"job {job.id} cannot be edited: its row in the database does not match its checksum"
            raise CorruptRecord(problem, hint="stoker doctor says what else is damaged")
        changes = _changes(job.spec, self._wanted)
        self._check(turn, job, changes)
        priority = changes.get("priority", job.spec.priority)
        moved_ms = self._intake.priority_ms(job.spec.priority) - self._intake.priority_ms(priority)
        edited = turn.step(job.id, ev.Edit(actor=self._actor, changes=changes, moved_ms=moved_ms))
        answer = EditedJob(**msgspec.structs.asdict(job_standing(edited)), changed=edited_fields(job.spec, edited.spec))
        self.answer_after(turn, answer)

    def _check(self, turn: Turn, job: Job, changes: dict[str, Any]) -> None:
        """Check the changed fields as a submit would. Raises InvalidParams, QueueNotFound or QueueFull."""
        spec = replace(job.spec, **changes)
        if spec.queue != job.spec.queue:
            self._intake.check_queue_room(
                turn, turn.memory.queue(spec.queue, "queue", f"stoker queue set {spec.queue}"), 0
            )
        for problem in contradictions(spec, changes):
            raise problem
        for error in problems(spec, turn.now, turn.memory):
            if error.details.get("path") in changes:
                raise error


def _changes(spec: Spec, wanted: JobChanges) -> dict[str, Any]:
    """The given fields of the spec with their new values; limits that were not given stay."""
    changes = {name: value for name in wanted.__struct_fields__ if (value := getattr(wanted, name)) is not UNSET}
    if "limits" in changes:
        limits = msgspec.structs.asdict(changes["limits"])
        changes["limits"] = replace(
            spec.limits, **{name: value for name, value in limits.items() if value is not UNSET}
        )
    return changes
