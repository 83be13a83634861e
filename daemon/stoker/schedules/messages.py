"""The messages about schedules: slots that are due, and the requests to change a schedule or to run it now.

Invariant: a slot is settled in the commit of its job, or of the change that says why it has none.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping

from msgspec import UNSET
from msgspec.structs import replace

from stoker.core.errors import InvalidParams, ScheduleDeclared, ScheduleExists, StokerError
from stoker.core.job.model import STOKER, Actor
from stoker.core.requests import JobWork
from stoker.core.schedule.model import Origin, Overlap, Schedule
from stoker.core.schedule.request import ScheduleParams, schedule_of
from stoker.core.schedule.slots import DueSlots, due_slots, pass_over
from stoker.core.schedule.views import ScheduleRunAnswer
from stoker.engine.inbox import Message, RequestMessage
from stoker.engine.preflight import CommandRequest
from stoker.engine.spec_defaults import check
from stoker.engine.submit import Intake
from stoker.engine.turn import Turn
from stoker.schedules import runs
from stoker.store.loading import Wanted
from stoker.workflows.submit import WorkflowOffer


class SlotsDue(RequestMessage[None]):
    """Schedules with a slot that is due, each with its planned workflow if it has one."""

    def __init__(self, intake: Intake, due: Mapping[str, tuple[Schedule, WorkflowOffer | None]]) -> None:
        super().__init__()
        self._intake = intake
        self._due = due
        self._slots: dict[str, DueSlots] = {}

    def declare_reads(self, wanted: Wanted) -> None:
        for name, (schedule, _) in self._due.items():
            slots = self._slots[name] = due_slots(schedule, wanted.now.wall)
            for slot in slots.slots:
                runs.declare_reads(wanted, schedule, Origin(name, slot))

    def apply_to(self, turn: Turn) -> Generator[None]:
        """While nothing is accepted the slots stay due: they are late then."""
        for name, (schedule, offer) in self._due.items():
            # Another message of this turn may have changed it: it is still due then, or no more.
            if self._intake.closed is None and turn.memory.schedules.get(name) is schedule:
                yield from self._settle(turn, schedule, self._slots[name], offer)
            yield
        self.answer_after(turn, None)

    def _settle(self, turn: Turn, schedule: Schedule, due: DueSlots, offer: WorkflowOffer | None) -> Generator[None]:
        if due.missed is not None:
            until = due.slots[0] if due.slots else due.passed + 1
            turn.note_slots(schedule.name, "missed", {"first": due.missed, "before": until})
        for slot in due.slots:
            schedule = yield from self._run(turn, schedule, Origin(schedule.name, slot), offer)
        turn.update_schedule(replace(schedule, passed=due.passed, next_slot=due.following))

    def _run(
        self, turn: Turn, schedule: Schedule, origin: Origin, offer: WorkflowOffer | None
    ) -> Generator[None, None, Schedule]:
        if runs.was_submitted(turn, schedule, origin):
            return schedule
        before = runs.last_run(turn, schedule) if schedule.overlap is Overlap.SKIP else None
        if before is not None:
            turn.note_slots(
                schedule.name, "skipped", {"slot": origin.scheduled_for, "because": f"{before} has not ended"}
            )
            return schedule
        try:
            return (yield from runs.submit(turn, self._intake, schedule, origin, offer))
        except StokerError as error:
            turn.note_slots(schedule.name, "refused", {"slot": origin.scheduled_for, "because": error.message})
            return schedule


class ClockSetBack(Message):
    """The wall clock is behind slots that are settled: those that come again are due, but none is submitted twice."""

    def apply_to(self, turn: Turn) -> Generator[None]:
        now = turn.now.wall
        for schedule in [each for each in turn.memory.schedules if each.passed > now]:
            turn.update_schedule(pass_over(schedule, now))
            yield


class ScheduleSetting(CommandRequest[Schedule]):
    """Add a schedule, or replace one. Its command is checked as that of a job."""

    def __init__(self, intake: Intake, schedule: Schedule, actor: Actor, *, replaces: bool) -> None:
        self._work = runs.work_of(schedule)
        super().__init__([] if self._work is None else [self._work])
        self._intake = intake
        self._schedule = schedule
        self._actor = actor
        self._replaces = replaces

    def apply_to(self, turn: Turn) -> None:
        self._check(turn)
        schedule = taking_over(turn.memory.schedules.get(self._schedule.name), self._schedule)
        turn.set_schedule(schedule, "set", self._actor)
        self.answer_after(turn, schedule)

    def _check(self, turn: Turn) -> None:
        name = self._schedule.name
        before = turn.memory.schedules.get(name)
        if before is not None and before.declared:
            raise declared(name)
        if before is not None and not self._replaces:
            hint = f"stoker schedule add --replace {name} …, or stoker schedule show {name}"
            raise ScheduleExists(f"name: there is a schedule {name!r}", hint=hint, path="name")
        for problem in self.problems:
            if problem is not None:
                raise problem.within("job")
        if self._work is not None:
            check_work(turn, self._intake, self._work)


class SchedulesDeclared(RequestMessage[None]):
    """The schedules of the settings file: store those that are new or differ, remove those that it no longer has."""

    def __init__(self, sent: Iterable[ScheduleParams]) -> None:
        super().__init__()
        self._sent = tuple(sent)

    def apply_to(self, turn: Turn) -> Generator[None]:
        names = {sent.name for sent in self._sent}
        for gone in [each.name for each in turn.memory.schedules if each.declared and each.name not in names]:
            turn.remove_schedule(gone, STOKER)
            yield
        for sent in self._sent:
            schedule = schedule_of(sent, os.getuid(), turn.now.wall, declared=True)
            before = turn.memory.schedules.get(schedule.name)
            if before is None or settings_of(before) != settings_of(schedule):
                turn.set_schedule(taking_over(before, schedule), "configured", STOKER)
            yield
        self.answer_after(turn, None)


def settings_of(schedule: Schedule) -> Schedule:
    """A schedule without what its runs and its pauses have changed."""
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


def check_work(turn: Turn, intake: Intake, work: JobWork) -> None:
    """Refuse a template whose jobs would be refused. Raises StokerError."""
    for field in ("run_at", "deadline"):
        if getattr(work, field) not in (UNSET, None):
            problem = f"job.{field}: a fixed time is no part of a template: each run has the time of its slot"
            raise InvalidParams(problem, path=f"job.{field}", hint="leave it out, or use ttl_ms or timeout_ms")
    try:
        check(intake.specs.resolve(work, intake.queue(turn, work)), turn.now, turn.memory.resources)
    except StokerError as error:
        raise error.within("job") from None


def taking_over(before: Schedule | None, schedule: Schedule) -> Schedule:
    """A schedule that replaces another one keeps what is known of its runs."""
    if before is None:
        return schedule
    kept = {name: getattr(before, name) for name in ("created_at", "last_slot", "last_job", "last_workflow")}
    return replace(schedule, **kept)


def declared(name: str) -> ScheduleDeclared:
    hint = f"change [schedules.{name}] there, then: stoker config reload"
    return ScheduleDeclared(f"name: schedule {name!r} is declared in the settings file", hint=hint, path="name")


class ScheduleRunNow(RequestMessage[ScheduleRunAnswer]):
    """Submit a run now, whatever the times and the overlap policy of the schedule are."""

    def __init__(self, intake: Intake, schedule: Schedule, offer: WorkflowOffer | None) -> None:
        super().__init__()
        self._intake = intake
        self._schedule = schedule
        self._offer = offer
        self._origin = Origin(schedule.name, 0)

    def declare_reads(self, wanted: Wanted) -> None:
        self._origin = Origin(self._schedule.name, wanted.now.wall)
        runs.declare_reads(wanted, self._schedule, self._origin)

    def apply_to(self, turn: Turn) -> Generator[None]:
        if self._intake.closed is not None:
            raise self._intake.closed
        schedule = turn.memory.schedules.find(self._schedule.name)
        if (schedule.job, schedule.flow) != (self._schedule.job, self._schedule.flow):
            raise ScheduleExists(f"schedule {schedule.name!r} was replaced meanwhile", hint="run it again")
        schedule = yield from runs.submit(turn, self._intake, schedule, self._origin, self._offer)
        turn.update_schedule(schedule)
        self.answer_after(
            turn,
            {
                "name": schedule.name,
                "scheduled_for": self._origin.scheduled_for,
                "job": schedule.last_job or 0,
                "workflow": schedule.last_workflow,
            },
        )
