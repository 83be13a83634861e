"""Clients that add, pause, resume, replace and remove schedules and run them at once, and the laws of their slots.

Owns the submits of each slot, by commits alone; the key of a run distinguishes it from one that a client asked for.
Invariant: slots of removed schedules and purged jobs stay in this memory.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stoker.core.access import Viewer
from stoker.core.job.model import STOKER, Job
from stoker.core.requests import JobWork
from stoker.core.schedule.model import Misfire, Overlap, Schedule
from stoker.core.schedule.request import ScheduleParams, schedule_of
from stoker.core.schedule.slots import pass_over
from stoker.engine.settings import TurnChange, remove_schedule, set_schedule
from stoker.schedules.messages import ScheduleRunNow, ScheduleSetting
from tests.simulation.laws import Laws
from tests.simulation.requests import Requests
from tests.simulation.users import UID

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.engine.inbox import RequestMessage
    from stoker.engine.turn import Turn
    from stoker.store.batch import Batch
    from tests.simulation.host import Host
    from tests.simulation.life import Life

NAMES = ("one", "two", "three")
PERIOD_MS = 1_000
SLASHES_OF_A_SLOT = 2  # in its key: schedule/NAME/TIME
MOST_SLOTS = 20  # of a catch-up
RULES = "SELECT name, misfire, overlap FROM schedules"
STATE = "SELECT state FROM jobs WHERE id = ?"
LIVE = "SELECT name FROM schedules WHERE NOT paused"
FINAL = frozenset({"succeeded", "failed", "cancelled", "expired", "superseded", "skipped"})


class ScheduleLaws:
    """Each slot has at most one job, ever, and the policies of its schedule hold."""

    def __init__(self, database: sqlite3.Connection, laws: Laws) -> None:
        self._database = database
        self._laws = laws
        self._submitted: dict[tuple[str, int], int] = {}
        self._newest: dict[str, int] = {}  # job of each schedule, since it was added
        self._rules: dict[str, tuple[str, str]] = {}  # misfire and overlap, before the next commit

    def live(self) -> list[str]:
        return [name for (name,) in self._database.execute(LIVE)]

    def committed(self, batch: Batch) -> None:
        """One transaction went through."""
        slots = Counter[str]()
        asked = {key.job_id for key in batch.keys if key.key.count("/") > SLASHES_OF_A_SLOT}
        for job in batch.new_jobs.values():
            if job.spec.schedule is not None:
                slots[job.spec.schedule] += job.id not in asked
                self._check_run(job, batch, is_slot=job.id not in asked)
        for name, count in slots.items():
            misfire = self._rules.get(name, ("", ""))[0]
            if count > 1 and misfire in (Misfire.SKIP, Misfire.LATEST):
                self._laws.broken(f"{count} slots of schedule {name} in one turn, which makes up for one at most")
        for name in batch.removed_schedules:  # with what this transaction submitted before: one that is added is new
            self._newest.pop(name, None)
        if batch.schedules or batch.removed_schedules:
            self._rules = {name: (misfire, overlap) for name, misfire, overlap in self._database.execute(RULES)}

    def _check_run(self, job: Job, batch: Batch, *, is_slot: bool) -> None:
        self._laws.looks["slot"] += 1
        name, slot = job.spec.schedule or "", job.spec.scheduled_for or 0
        if is_slot and (first := self._submitted.setdefault((name, slot), job.id)) != job.id:
            self._laws.broken(f"slot {slot} of schedule {name} has the jobs {first} and {job.id}")
        before, self._newest[name] = self._newest.get(name), job.id
        if before is None or before in batch.jobs or not is_slot or name in batch.removed_schedules:
            return
        if before in batch.new_jobs or self._database.execute(STATE, (before,)).fetchone()[0] not in FINAL:
            self._laws.looks["overlap"] += 1
            overlap = self._rules.get(name, ("", ""))[1]
            if overlap == Overlap.SKIP:
                self._laws.broken(f"job {job.id} of schedule {name} came although job {before} had not ended")
            elif overlap == Overlap.QUEUE and before not in {need.job for need in job.spec.needs}:
                self._laws.broken(f"job {job.id} of schedule {name} does not wait for job {before}")


class ScheduleClients:
    def __init__(self, requests: Requests, chance: random.Random) -> None:
        self._requests = requests
        self._chance = chance

    def speak(self, life: Life, host: Host) -> None:
        """Add or replace a schedule, or use a verb of one."""
        name = self._chance.choice(NAMES)
        schedule = life.engine.memory.schedules.get(name)
        if schedule is None or self._chance.random() < 0.1:
            invented = self._invent(name, host.wall)
            self._ask(
                life,
                f"set schedule {name}",
                lambda: ScheduleSetting(life.engine.intake, invented, STOKER, Viewer(), replaces=True),
            )
        elif self._chance.random() < 0.4 and schedule.overlap is not Overlap.SKIP:
            self._ask(
                life,
                f"run schedule {name}",
                lambda: ScheduleRunNow(life.engine.intake, life.engine.memory.schedules, schedule, None, {}, STOKER),
            )
        else:
            change = self._chance.choice([pause, resume, remove])
            self._ask(life, f"{change.__name__} schedule {name}", lambda: TurnChange(partial(change, name)))

    def end(self, life: Life, names: list[str]) -> None:
        """Pause all schedules: their jobs would go on for ever."""
        for name in names:
            self._ask(life, f"pause schedule {name}", lambda name=name: TurnChange(partial(pause, name)))  # type: ignore[misc]

    def _invent(self, name: str, wall: int) -> Schedule:
        draw = self._chance
        params = ScheduleParams(
            name=name,
            timing="every 1s",
            misfire=draw.choice(list(Misfire)),
            overlap=draw.choice(list(Overlap)),
            catch_up_ms=MOST_SLOTS * PERIOD_MS,
            jitter_ms=draw.choice([0, 0, 500]),
            job=JobWork(command="/bin/work", queue=draw.choice(["default", "bulk"]), max_attempts=2),
        )
        return schedule_of(params, UID, wall)

    def _ask(self, life: Life, verb: str, message: Callable[[], RequestMessage[Any]]) -> None:
        async def send(_note: str) -> object:
            return await life.engine.inbox.ask(message())

        self._requests.ask(life, verb, send, lambda _answer: None)


def pause(name: str, turn: Turn) -> None:
    set_schedule(turn, replace(turn.memory.schedules.find(name), paused=True), "paused", STOKER)


def resume(name: str, turn: Turn) -> None:
    schedule = turn.memory.schedules.find(name)
    if schedule.paused:
        set_schedule(turn, pass_over(replace(schedule, paused=False), turn.now.wall), "resumed", STOKER)


def remove(name: str, turn: Turn) -> None:
    remove_schedule(turn, turn.memory.schedules.find(name).name, STOKER)
