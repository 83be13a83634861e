"""The parameters of a schedule, from a client or the settings file, and the schedule that is made of them.

Owns every check that needs neither the host nor the database.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from stoker.core.errors import InvalidParams
from stoker.core.requests import Delay, Duration, JobWork, Name, Note, Params
from stoker.core.schedule.model import FlowPart, Misfire, Overlap, Schedule
from stoker.core.schedule.slots import MOST_CAUGHT_UP, caught_up
from stoker.core.schedule.timing import LONGEST, first_slot, next_slot, slots_of
from stoker.core.units import duration
from stoker.core.workflow.definition import Reused, StepNames

DAY_MS = 86_400_000
GAPS_CHECKED = 100

Timing = Annotated[str, Meta(min_length=1, max_length=LONGEST)]


class ScheduleParams(Params, frozen=True, kw_only=True):
    """`job` or `flow`: the template. `replace`: replace a schedule of that name, if there is one.

    `target`, `from`, `reuse`: of the flow, as in `workflow.submit`; `latest` is the newest run of the schedule.
    """

    name: Name
    timing: Timing
    zone: Timing = "UTC"
    misfire: Misfire = Misfire.LATEST
    overlap: Overlap = Overlap.SKIP
    catch_up_ms: Duration = DAY_MS
    jitter_ms: Delay = 0
    paused: bool = False
    job: JobWork | None = None
    flow: dict[str, Any] | None = None
    target: StepNames = ()
    start: StepNames = field(default=(), name="from")
    reuse: Reused | None = None
    replace: bool = False
    reason: Note | None = None


def schedule_of(sent: ScheduleParams, owner_uid: int, now: int, *, declared: bool = False) -> Schedule:
    """Make the schedule, without checks.

    A `declared` one was checked when the file was read; since then its only time may have passed.
    """
    part = FlowPart(sent.target, sent.start, sent.reuse)
    return Schedule(
        name=sent.name,
        owner_uid=owner_uid,
        timing=" ".join(sent.timing.split()),
        zone=sent.zone,
        misfire=sent.misfire,
        overlap=sent.overlap,
        catch_up_ms=sent.catch_up_ms,
        jitter_ms=sent.jitter_ms,
        paused=sent.paused,
        declared=declared,
        job=None if sent.job is None else msgspec.json.encode(sent.job).decode(),
        flow=None if sent.flow is None else msgspec.json.encode(sent.flow).decode(),
        part=None if part == FlowPart() else msgspec.json.encode(part).decode(),
        created_at=now,
        passed=now,
        next_slot=next_slot(sent.timing, sent.zone, now),
    )


def checked(sent: ScheduleParams, owner_uid: int, now: int) -> Schedule:
    """As `schedule_of`. Raises InvalidParams if the schedule could never run as asked."""
    if (sent.job is None) == (sent.flow is None):
        raise InvalidParams("params: a schedule has a job or a flow", path="job", hint="give one of the two")
    slot = first_slot(sent.timing, sent.zone, now)
    schedule = schedule_of(sent, owner_uid, now)
    _check_part(schedule)
    _check_overlap(schedule)
    _check_jitter(schedule, slot)
    _check_catch_up(schedule, now)
    return schedule


def _check_part(schedule: Schedule) -> None:
    if schedule.part is not None and schedule.flow is None:
        option = next(iter(msgspec.to_builtins(schedule.flow_part)))
        problem = f"{option}: it is for a workflow, and this schedule submits a job"
        raise InvalidParams(problem, path=option, hint="leave it out, or give a flow in place of the job")


def _check_overlap(schedule: Schedule) -> None:
    if schedule.overlap in (Overlap.QUEUE, Overlap.SUPERSEDE) and schedule.flow is not None:
        problem = f"overlap: {schedule.overlap.value} is for jobs: a workflow neither waits for another nor replaces it"
        raise InvalidParams(problem, path="overlap", hint="one of allow, skip")


def _check_jitter(schedule: Schedule, first: int) -> None:
    """Compare the jitter with the times between the first slots: a cron expression may have short and long ones."""
    following = slots_of(schedule.timing, schedule.zone)
    coming = [first]
    while schedule.jitter_ms and len(coming) <= GAPS_CHECKED and (slot := following(coming[-1])) is not None:
        coming.append(slot)
    shortest = min((later - earlier for earlier, later in pairwise(coming)), default=None)
    if shortest is not None and schedule.jitter_ms >= shortest:
        raise InvalidParams(
            f"jitter_ms: {duration(schedule.jitter_ms)} is not less than the time between two slots, "
            f"{duration(shortest)}",
            path="jitter_ms",
            hint="a shorter jitter",
        )


def _check_catch_up(schedule: Schedule, now: int) -> None:
    if schedule.misfire is Misfire.ALL and caught_up(schedule, now) > MOST_CAUGHT_UP:
        raise InvalidParams(
            f"catch_up_ms: {duration(schedule.catch_up_ms)} of {schedule.timing!r} are more than {MOST_CAUGHT_UP} "
            "slots, and after a pause of the daemon all of them would be submitted",
            path="catch_up_ms",
            hint="a shorter catch-up window, or the misfire policy latest",
        )
