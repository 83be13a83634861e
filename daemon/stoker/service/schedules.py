"""The methods of the protocol for schedules, as plain calls.

Owns the way from a request to the loop, and the view of a schedule. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.access import Viewer
from stoker.core.job.model import Actor
from stoker.core.redaction import without_values
from stoker.core.schedule.model import Schedule
from stoker.core.schedule.request import ScheduleParams, checked
from stoker.core.schedule.slots import jitter, pass_over
from stoker.core.schedule.timing import next_slot
from stoker.core.workflow.definition import FlowRequest
from stoker.engine.memory.schedules import no_schedule
from stoker.engine.settings import TurnChange, remove_schedule, set_schedule
from stoker.engine.turn import Turn
from stoker.schedules.messages import ScheduleRunNow, ScheduleSetting, declared
from stoker.service.engine import Engine
from stoker.service.workflows import WorkflowService
from stoker.store import schedules

if TYPE_CHECKING:
    from stoker.core.schedule.views import (
        ComingSlots,
        FlowPartView,
        ScheduleDetails,
        SchedulePage,
        ScheduleRemoved,
        ScheduleRunAnswer,
        ScheduleView,
        SlotView,
    )

RUNS_SHOWN = 10


class Title(Struct):
    """The fields of a template that a list shows; the others are passed over, not decoded."""

    command: Any = None
    name: Any = None


_title = msgspec.json.Decoder(Title).decode


class ScheduleService:
    """Schedules, as the handlers of rpc/schedule_methods.py call them."""

    def __init__(self, engine: Engine, workflows: WorkflowService) -> None:
        self._engine = engine
        self._workflows = workflows

    async def add(self, sent: ScheduleParams, flow: FlowRequest | None, viewer: Viewer) -> ScheduleView:
        """Store a schedule once its template was checked as if it was submitted now."""
        now = self._engine.clock.now().wall
        schedule = await asyncio.to_thread(checked, sent, viewer.uid, now)  # many slots may have to be counted
        schedule = await self._remembering(schedule)
        if flow is not None:
            await self._workflows.submit(flow, viewer, newest=schedule.last_workflow)  # a dry run
        actor = Actor(viewer.uid, sent.reason)
        setting = ScheduleSetting(self._engine.intake, schedule, actor, viewer, replaces=sent.replace)
        return _view(await self._engine.submit(setting))

    async def _remembering(self, schedule: Schedule) -> Schedule:
        """The schedule with the newest run of an earlier one of its name, which may still go on."""
        for run in await self._engine.queries.run(schedules.runs, schedule, 1):
            slot = int(datetime.fromisoformat(run.slot).timestamp() * 1_000)
            return replace(schedule, last_slot=slot, last_job=run.job_id, last_workflow=run.workflow_id)
        return schedule

    async def list(self, after: str, limit: int, viewer: Viewer) -> SchedulePage:
        """A page of schedules, by name."""
        rows = await self._engine.queries.run(schedules.page, after, viewer.owns, limit + 1)
        views = await asyncio.to_thread(lambda: [_view(schedule) for schedule in rows[:limit]])  # templates may be long
        return {"schedules": views, "next": rows[limit - 1].name if len(rows) > limit else None}

    async def get(self, name: str, viewer: Viewer) -> ScheduleDetails:
        """A schedule with its template and its newest runs. Raises ScheduleNotFound."""
        schedule = await self._stored(name, viewer)
        runs = await self._engine.queries.run(schedules.runs, schedule, RUNS_SHOWN)
        hidden = self._engine.config.privacy.redact_env
        return {
            **_view(schedule),
            "job": None if schedule.job is None else without_values(msgspec.json.decode(schedule.job), hidden),
            "flow": None if schedule.flow is None else without_values(msgspec.json.decode(schedule.flow), hidden),
            "runs": [
                {"scheduled_for": run.slot, "job": run.job_id, "workflow": run.workflow_id, "state": run.state}
                for run in runs
            ],
        }

    async def next(self, name: str, count: int, viewer: Viewer) -> ComingSlots:
        """The next slots of a schedule, paused or not. Raises ScheduleNotFound."""
        schedule = await self._stored(name, viewer)
        now = self._engine.clock.now().wall
        slots = await asyncio.to_thread(_coming, schedule, max(now, schedule.passed), count)
        return {"name": name, "zone": schedule.zone, "slots": slots}

    async def _stored(self, name: str, viewer: Viewer) -> Schedule:
        """The schedule as it is on disk: memory is ahead of it while a commit is under way. Raises ScheduleNotFound."""
        for schedule in await self._engine.queries.run(schedules.by_name, name, viewer.owns):
            return schedule
        raise no_schedule(name, self._engine.memory.schedules.names(viewer.owns))

    def remove(self, name: str, actor: Actor, viewer: Viewer) -> asyncio.Future[ScheduleRemoved]:
        def remove(turn: Turn) -> ScheduleRemoved:
            if turn.memory.schedules.find(name, viewer.owns).declared:
                raise declared(name)
            remove_schedule(turn, name, actor)
            return {"name": name}

        return self._engine.request(TurnChange(remove))

    def pause(self, name: str, actor: Actor, viewer: Viewer) -> asyncio.Future[ScheduleView]:
        return self._change(name, "paused", actor, viewer, lambda schedule, _now: replace(schedule, paused=True))

    def resume(self, name: str, actor: Actor, viewer: Viewer) -> asyncio.Future[ScheduleView]:
        """Slots of the time of its pause are passed over."""
        return self._change(
            name, "resumed", actor, viewer, lambda schedule, now: pass_over(replace(schedule, paused=False), now)
        )

    def _change(
        self, name: str, cause: str, actor: Actor, viewer: Viewer, change: Callable[[Schedule, int], Schedule]
    ) -> asyncio.Future[ScheduleView]:
        def apply(turn: Turn) -> ScheduleView:
            before = turn.memory.schedules.find(name, viewer.owns)
            if before.paused != (cause == "paused"):
                set_schedule(turn, change(before, turn.now.wall), cause, actor)
            return _view(turn.memory.schedules.find(name))

        return self._engine.request(TurnChange(apply))

    async def run(self, name: str, actor: Actor, viewer: Viewer) -> ScheduleRunAnswer:
        """Submit a run now."""
        live = self._engine.memory.schedules
        schedule = live.find(name, viewer.owns)
        clock = self._engine.schedule_clock
        offer = await clock.offer_of(schedule)
        seen = await clock.seen_for(schedule, offer)
        asked = ScheduleRunNow(self._engine.intake, live, schedule, offer, seen, actor)
        return await self._engine.request(asked)


def _view(schedule: Schedule) -> ScheduleView:
    title = _title(schedule.job or schedule.flow or "{}")
    submits = title.name if schedule.job is None else title.command
    return {
        "name": schedule.name,
        "submits": submits if isinstance(submits, str) else "(bytes)",
        "part": _part(schedule),
        "owner_uid": schedule.owner_uid,
        "timing": schedule.timing,
        "zone": schedule.zone,
        "misfire": schedule.misfire.value,
        "overlap": schedule.overlap.value,
        "catch_up_ms": schedule.catch_up_ms,
        "jitter_ms": schedule.jitter_ms,
        "paused": schedule.paused,
        "declared": schedule.declared,
        "created_at": schedule.created_at,
        "next_slot": None if schedule.paused else schedule.next_slot,
        "last_slot": schedule.last_slot,
        "last_job": schedule.last_job,
        "last_workflow": schedule.last_workflow,
    }


def _part(schedule: Schedule) -> FlowPartView | None:
    part = schedule.flow_part
    if schedule.part is None:
        return None
    return {"target": list(part.target), "from": list(part.start), "reuse": part.reuse}


def _coming(schedule: Schedule, after: int, count: int) -> list[SlotView]:
    slots: list[SlotView] = []
    slot = next_slot(schedule.timing, schedule.zone, after)
    while slot is not None and len(slots) < count:
        slots.append({"slot": slot, "submitted_at": slot + jitter(schedule, slot)})
        slot = next_slot(schedule.timing, schedule.zone, slot)
    return slots
