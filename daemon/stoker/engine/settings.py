"""Settings that people change while the daemon runs: queues, resources, rates and schedules.

Owns the change of the row, of the memory and of the history together, and a line of the log for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from stoker.core.job.model import STOKER, Actor, Queue, Resource
from stoker.core.rate import KEY_PREFIX, QUEUE_PREFIX, Rate
from stoker.core.schedule.model import Schedule
from stoker.engine.inbox import RequestMessage
from stoker.engine.turn import Turn

T = TypeVar("T")


class TurnChange(RequestMessage[T]):
    """A change of a queue or a resource, as a function on the turn; its result is the answer."""

    def __init__(self, change: Callable[[Turn], T]) -> None:
        super().__init__()
        self._change = change

    def apply_to(self, turn: Turn) -> None:
        self.answer_after(turn, self._change(turn))


def set_queue(turn: Turn, queue: Queue, cause: str, actor: Actor) -> None:
    turn.batch.queues[queue.name] = queue
    turn.memory.add_queue(queue)
    turn.memory.rates.mark_changed(f"{QUEUE_PREFIX}{queue.name}")
    _record(turn, "queue", queue.name, cause, {"queue": queue, "note": actor.note}, actor)


def set_resource(turn: Turn, resource: Resource, actor: Actor) -> None:
    turn.batch.resources[resource.name] = resource
    turn.memory.set_resource(resource)
    _record(turn, "resource", resource.name, "set", {"resource": resource, "note": actor.note}, actor)


def set_rate(turn: Turn, key: str, rate: Rate | None, cause: str, actor: Actor) -> None:
    """Set or remove the rate of a key; jobs that wait for a token of it are looked at again."""
    turn.batch.rates[key] = rate
    if rate is None:
        turn.memory.rates.of_keys.pop(key, None)
    else:
        turn.memory.rates.of_keys[key] = rate
    turn.memory.rates.mark_changed(f"{KEY_PREFIX}{key}")
    _record(turn, "rate", key, cause, {"rate": rate, "note": actor.note}, actor)


def set_schedule(turn: Turn, schedule: Schedule, cause: str, actor: Actor) -> None:
    """A person, or the settings file, added or changed a schedule."""
    update_schedule(turn, schedule)
    _record(turn, "schedule", schedule.name, cause, {"schedule": schedule, "note": actor.note}, actor)


def update_schedule(turn: Turn, schedule: Schedule) -> None:
    """Some of its slots are settled: the changes of jobs, or a change of their own, say how."""
    turn.batch.schedules[schedule.name] = schedule
    turn.memory.schedules.set(schedule)


def note_run(turn: Turn, schedule: Schedule, actor: Actor) -> None:
    """A person asked for a run of a schedule now."""
    run = {"job": schedule.last_job, "workflow": schedule.last_workflow, "note": actor.note}
    _record(turn, "schedule", schedule.name, "run", run, actor)


def note_slots(turn: Turn, name: str, cause: str, slots: dict[str, Any]) -> None:
    """Slots of a schedule are settled without a run."""
    _record(turn, "schedule", name, cause, slots)


def remove_schedule(turn: Turn, name: str, actor: Actor) -> None:
    turn.batch.schedules.pop(name, None)
    turn.batch.removed_schedules.add(name)
    turn.memory.schedules.remove(name)
    _record(turn, "schedule", name, "removed", {"note": actor.note}, actor)


def _record(turn: Turn, kind: str, subject: str, cause: str, payload: dict[str, Any], actor: Actor = STOKER) -> None:
    """A change that the log names as well."""
    turn.record(kind, subject, cause, payload, actor)
    turn.settings_changed.append(turn.batch.changes[-1])
