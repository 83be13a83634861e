"""The messages about schedules: slots that are due, and the requests to change a schedule or to run it now.

Invariant: a slot is settled in the commit of its job, or of the change with the reason why it has no job.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterable, Mapping

from msgspec import UNSET
from msgspec.structs import replace

from stoker.core.access import Viewer
from stoker.core.errors import InvalidParams, ScheduleDeclared, ScheduleExists, StokerError
from stoker.core.job.model import STOKER, Actor
from stoker.core.requests import JobWork
from stoker.core.schedule.model import Origin, Overlap, Schedule
from stoker.core.schedule.request import ScheduleParams, schedule_of
from stoker.core.schedule.slots import DueSlots, pass_over, taken_over
from stoker.core.schedule.views import ScheduleRunAnswer
from stoker.engine import conditions
from stoker.engine.inbox import Message, RequestMessage
from stoker.engine.intake import CommandRequest, Intake
from stoker.engine.memory.schedules import LiveSchedules
from stoker.engine.settings import note_run, note_slots, remove_schedule, set_schedule, update_schedule
from stoker.engine.spec_defaults import check
from stoker.engine.turn import Turn
from stoker.schedules import runs
from stoker.schedules.runs import PlannedRuns
from stoker.store.loading import Wanted
from stoker.workflows.submit import WorkflowOffer


class SlotsDue(RequestMessage[None]):
    """The planned runs of schedules with a slot that is due.

    `seen`: the present state of the paths for whose change they wait.
    """

    def __init__(self, intake: Intake, planned: Iterable[PlannedRuns], seen: Mapping[str, str]) -> None:
        super().__init__()
        self._intake = intake
        self._planned = tuple(planned)
        self._seen = seen

    def declare_reads(self, wanted: Wanted) -> None:
        for planned in self._planned:
            for slot in planned.due.slots if planned.due else ():
                runs.declare_reads(wanted, planned.schedule, Origin(planned.schedule.name, slot), planned.offer)

    def apply_to(self, turn: Turn) -> Generator[None]:
        """Submit the due slots. While the daemon accepts no jobs they stay due, and are submitted late."""
        for planned in self._planned:
            schedule = planned.schedule
            # If another message of this turn changed the schedule, the clock asks again whether it is due.
            if self._intake.closed is None and turn.memory.schedules.get(schedule.name) is schedule:
                if planned.due is not None:
                    yield from self._settle(turn, planned, planned.due)
                else:
                    pause_unreadable(turn, schedule, planned.problem)
            yield
        self.answer_after(turn, None)

    def _settle(self, turn: Turn, planned: PlannedRuns, due: DueSlots) -> Generator[None]:
        schedule = planned.schedule
        if due.missed is not None:
            until = due.slots[0] if due.slots else due.passed + 1
            note_slots(turn, schedule.name, "missed", {"first": due.missed, "before": until})
        for slot in due.slots:
            schedule = yield from self._run(turn, schedule, Origin(schedule.name, slot), planned)
        update_schedule(turn, replace(schedule, passed=due.passed, next_slot=due.following))

    def _run(
        self, turn: Turn, schedule: Schedule, origin: Origin, planned: PlannedRuns
    ) -> Generator[None, None, Schedule]:
        if runs.was_submitted(turn, schedule, origin):
            return schedule
        before = runs.last_run(turn, schedule) if schedule.overlap is Overlap.SKIP else None
        if before is not None:
            note_slots(
                turn, schedule.name, "skipped", {"slot": origin.scheduled_for, "note": f"{before} has not ended"}
            )
            return schedule
        try:
            if planned.refusal is not None:
                raise planned.refusal
            return (yield from runs.submit(turn, self._intake, schedule, origin, planned.offer, self._seen))
        except StokerError as error:
            note_slots(turn, schedule.name, "refused", {"slot": origin.scheduled_for, "note": error.message})
            return schedule


class ClockSetBack(Message):
    """The wall clock was set back: slots that were settled become due again. Their keys prevent a second run."""

    def apply_to(self, turn: Turn) -> Generator[None]:
        now = turn.now.wall
        for schedule in [each for each in turn.memory.schedules if each.passed > now]:
            try:
                update_schedule(turn, pass_over(schedule, now))
            except InvalidParams as error:
                pause_unreadable(turn, schedule, error.message)
            yield


def pause_unreadable(turn: Turn, schedule: Schedule, problem: str) -> None:
    """Pause a schedule whose times can no longer be computed, as after an update that removed its time zone."""
    note_slots(turn, schedule.name, "refused", {"slot": schedule.next_slot, "note": problem})
    set_schedule(turn, replace(schedule, paused=True), "paused", Actor(note=problem))


class ScheduleSetting(CommandRequest[Schedule]):
    """Add a schedule, or replace one. Its command is checked like the command of a job."""

    def __init__(self, intake: Intake, schedule: Schedule, actor: Actor, viewer: Viewer, *, replaces: bool) -> None:
        self._work = runs.work_of(schedule)
        super().__init__([] if self._work is None else [self._work], viewer.role)
        self._intake = intake
        self._schedule = schedule
        self._actor = actor
        self._viewer = viewer
        self._replaces = replaces

    def declare_reads(self, wanted: Wanted) -> None:
        if self._work is not None and self._work.wait_for:
            conditions.declare_reads(wanted, self._work.wait_for, self._schedule.owner_uid)

    def apply_to(self, turn: Turn) -> None:
        self._check(turn)
        self.answer_after(turn, replace_schedule(turn, self._schedule, "set", self._actor))

    def _check(self, turn: Turn) -> None:
        name = self._schedule.name
        before = turn.memory.schedules.get(name)
        if before is not None and not self._viewer.looks_into(before.owner_uid):
            hint = "choose another name: those of schedules are shared by all users"
            raise ScheduleExists(f"name: {name!r} is taken by another user", hint=hint, path="name")
        if before is not None and before.declared:
            raise declared(name)
        if before is not None and not self._replaces:
            hint = f"stoker schedule add --replace {name} …, or stoker schedule show {name}"
            raise ScheduleExists(f"name: there is a schedule {name!r}", hint=hint, path="name")
        turn.memory.schedules.check_room(self._schedule)
        if before is None:
            self._check_quota(turn)
        for problem in self.problems:
            if problem is not None:
                raise problem.within("job")
        if self._work is not None:
            check_work(turn, self._intake, self._work, self._schedule.owner_uid)

    def _check_quota(self, turn: Turn) -> None:
        """Raises QuotaReached for one schedule too many of its user."""
        uid = self._schedule.owner_uid
        quota = turn.memory.users.quotas.of(uid)
        if quota.max_schedules is not None:
            quota.check("max_schedules", uid, len(turn.memory.schedules.names(uid)))


class SchedulesDeclared(RequestMessage[None]):
    """The schedules of the settings file: store those that are new or differ, remove those that it no longer has."""

    def __init__(self, sent: Iterable[ScheduleParams]) -> None:
        super().__init__()
        self._sent = tuple(sent)

    def apply_to(self, turn: Turn) -> Generator[None]:
        names = {sent.name for sent in self._sent}
        for gone in [each.name for each in turn.memory.schedules if each.declared and each.name not in names]:
            remove_schedule(turn, gone, STOKER)
            yield
        for sent in self._sent:
            schedule = schedule_of(sent, os.getuid(), turn.now.wall, declared=True)
            before = turn.memory.schedules.get(schedule.name)
            if before is None or settings_of(before) != settings_of(schedule):
                replace_schedule(turn, schedule, "configured", STOKER)
            yield
        self.answer_after(turn, None)


def settings_of(schedule: Schedule) -> Schedule:
    """A schedule without the fields that its runs and pauses change, to compare it with the settings file."""
    return replace(
        schedule,
        paused=False,
        created_at=0,
        passed=0,
        next_slot=None,
        last_slot=None,
        last_job=None,
        last_workflow=None,
    )


def check_work(turn: Turn, intake: Intake, work: JobWork, owner_uid: int) -> None:
    """Refuse a template whose jobs would be refused. Raises StokerError."""
    for field in ("run_at", "deadline"):
        if getattr(work, field) not in (UNSET, None):
            problem = f"job.{field}: a template cannot have a fixed time: each run has the time of its slot"
            raise InvalidParams(problem, path=f"job.{field}", hint="leave it out, or use ttl_ms or timeout_ms")
    try:
        spec = intake.specs.resolve(work, intake.queue(turn, work))
        check(spec, turn.now, turn.memory)
        conditions.check_targets(turn, spec.wait_for, owner_uid)
    except StokerError as error:
        raise error.within("job") from None


def replace_schedule(turn: Turn, schedule: Schedule, cause: str, actor: Actor) -> Schedule:
    """Add a schedule, or let it take the place of that with its name. Returns it as it is stored."""
    before = turn.memory.schedules.get(schedule.name)
    schedule, skipped = taken_over(before, schedule, turn.now.wall)
    set_schedule(turn, schedule, cause, actor)
    if skipped is not None:
        why = "the schedule was replaced before its run was submitted"
        note_slots(turn, schedule.name, "skipped", {"slot": skipped, "note": why})
    return schedule


def declared(name: str) -> ScheduleDeclared:
    hint = f"change [schedules.{name}] there, then: stoker config reload"
    return ScheduleDeclared(f"name: schedule {name!r} is declared in the settings file", hint=hint, path="name")


class ScheduleRunNow(RequestMessage[ScheduleRunAnswer]):
    """Submit a run now, whatever the times and the overlap policy of the schedule are."""

    def __init__(
        self,
        intake: Intake,
        schedules: LiveSchedules,
        schedule: Schedule,
        offer: WorkflowOffer | None,
        seen: Mapping[str, str],
        actor: Actor,
    ) -> None:
        super().__init__()
        self._actor = actor
        self._intake = intake
        self._schedules = schedules
        self._schedule = schedule
        self._offer = offer
        self._seen = seen
        self._asked = secrets.token_hex(8)
        self._origin = Origin(schedule.name, 0)

    def declare_reads(self, wanted: Wanted) -> None:
        """A turn since the request may have submitted a newer run."""
        self._origin = Origin(self._schedule.name, wanted.now.wall, self._asked)
        schedule = self._schedules.get(self._schedule.name) or self._schedule
        runs.declare_reads(wanted, schedule, self._origin, self._offer)

    def apply_to(self, turn: Turn) -> Generator[None]:
        if self._intake.closed is not None:
            raise self._intake.closed
        schedule = turn.memory.schedules.find(self._schedule.name)
        asked = self._schedule
        now = (schedule.owner_uid, schedule.job, schedule.flow, schedule.part, schedule.overlap)
        if now != (asked.owner_uid, asked.job, asked.flow, asked.part, asked.overlap):
            raise ScheduleExists(f"schedule {schedule.name!r} was replaced meanwhile", hint="run it again")
        schedule = yield from runs.submit(turn, self._intake, schedule, self._origin, self._offer, self._seen)
        update_schedule(turn, schedule)
        note_run(turn, schedule, self._actor)
        self.answer_after(
            turn,
            {
                "name": schedule.name,
                "scheduled_for": self._origin.scheduled_for,
                "job": schedule.last_job or 0,
                "workflow": schedule.last_workflow,
            },
        )
