"""Named events: how they reach the jobs that wait for them, and those that are kept for later submits.

An event reaches its jobs in the commit that stores it, or, if they are many, in the commits that follow; the row of the
event says how far that is. Invariants: an event meets each condition once; a crash neither loses an event that was
answered nor gives it twice.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stoker.core.errors import IdempotencyConflict, TooManyEvents
from stoker.core.job.model import Actor
from stoker.core.named_events import KEPT_OF_A_NAME, KEPT_OF_A_USER, EmitParams, NamedEvent, condition_of
from stoker.engine.conditions import meet, newest_event, update_event
from stoker.engine.inbox import Message, PostMessage, RequestMessage
from stoker.engine.turn import LogLine, Turn
from stoker.store.conditions import LAST_ID, ConditionWaiter, KeptCount, WaiterPortion, WaitersWanted
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent

if TYPE_CHECKING:
    from stoker.core.views import EmitAnswer


class Emission(RequestMessage["EmitAnswer"]):
    """A named event, answered after the commit that stores it."""

    def __init__(self, sent: EmitParams, owner_uid: int) -> None:
        super().__init__()
        self._sent = sent
        self._owner = owner_uid
        self._waiters = WaitersWanted(condition_of(sent.name), owner_uid=owner_uid)

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.waiters[self._waiters] = None
        if self._sent.keep_ms is not None:
            wanted.kept_counts.add((self._owner, self._sent.name))
        if self._sent.idempotency_key:
            wanted.event_keys.add((self._owner, self._sent.idempotency_key))

    def apply_to(self, turn: Turn) -> Iterator[None]:
        earlier = self._earlier(turn)
        if earlier is not None:
            self.answer_after(turn, _answer(earlier, existing=True))
            return
        event = self._event(turn)
        if self._sent.keep_ms is not None:
            _count_kept(turn, event)
        _record(turn, event)
        event = yield from deliver(turn, event, turn.loaded.waiters[self._waiters])
        if event.key is not None:
            turn.loaded.events_of_key[self._owner, event.key] = event
        if not event.reached and event.next_after is None and not event.kept(turn.now.wall):
            turn.batch.new_events[event.id] = replace(event, data="")  # no job can get it
        if event.kept(turn.now.wall):
            others = turn.loaded.kept_events.get(event.name, {})
            turn.loaded.kept_events[event.name] = {event.id: event, **others}
        self.answer_after(turn, _answer(event, existing=False))

    def _event(self, turn: Turn) -> NamedEvent:
        sent, now = self._sent, turn.now.wall
        return NamedEvent(
            id=turn.memory.last_seq + 1,
            owner_uid=self._owner,
            name=sent.name,
            data=sent.encoded.decode(),
            emitted_at=now,
            one=sent.one,
            keep_until=0 if sent.keep_ms is None else now + sent.keep_ms,
            last_job=turn.memory.last_id,
            key=sent.idempotency_key,
            digest=sent.digest,
        )

    def _earlier(self, turn: Turn) -> NamedEvent | None:
        """The event that was emitted with this key. Raises IdempotencyConflict."""
        key = self._sent.idempotency_key
        event = turn.loaded.events_of_key.get((self._owner, key)) if key else None
        if event is not None and event.digest != self._sent.digest:
            raise IdempotencyConflict(
                f"idempotency_key: {key!r} was used for event {event.id} ({event.name}) with other values",
                hint=f"stoker event ls {event.name}, or choose another key",
                path="idempotency_key",
                id=event.id,
            )
        return event


class EventDelivery(Message):
    """The next jobs that are to get an event."""

    def __init__(self, event: NamedEvent) -> None:
        self._event = event
        last = LAST_ID if event.one and event.keep_until else event.last_job
        self._waiters = WaitersWanted(event.condition, event.next_after or 0, last, event.owner_uid)

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.waiters[self._waiters] = None
        wanted.events.add(self._event.id)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        """Turns since the message was posted may have given the event to other jobs."""
        event = newest_event(turn, turn.loaded.events[self._event.id])
        yield from deliver(turn, event, turn.loaded.waiters[self._waiters])


def deliver(turn: Turn, event: NamedEvent, portion: WaiterPortion) -> Generator[None, None, NamedEvent]:
    """Give an event to the next jobs that wait for it. Returns it as it is stored."""
    before = event
    for waiter in _served(turn, event, portion):
        if event.used_up:
            break
        event = replace(event, reached=event.reached + meet(turn, waiter, event))
        yield
    more = portion.more and not event.used_up
    event = replace(event, next_after=portion.last if more else None)
    if event != before:  # one that was put off stays as it is
        update_event(turn, event)
    if more:
        turn.effects.append(PostMessage(EventDelivery(event)))
    return event


def _served(turn: Turn, event: NamedEvent, portion: WaiterPortion) -> Iterator[ConditionWaiter]:
    """The jobs of a portion; after the last of those that were read, the jobs that were stored in this turn."""
    new = [] if portion.more else turn.new_waiters.get(event.condition, ())
    of_owner = (waiter for waiter in new if event.owner_uid in (0, turn.job(waiter.job_id).owner_uid))
    for waiter in (*portion.waiters, *of_owner):
        if waiter.job_id <= event.last_job or event.kept(turn.now.wall):
            yield waiter


def _answer(event: NamedEvent, *, existing: bool) -> EmitAnswer:
    more = event.next_after is not None
    return {"id": event.id, "name": event.name, "reached": event.reached, "more": more, "existing": existing}


def _count_kept(turn: Turn, event: NamedEvent) -> None:
    """Raises TooManyEvents if no further event may be kept. One that replaces another of this turn takes its place."""
    if any(_replaces(event, other) for other in turn.batch.new_events.values()):
        return
    count = turn.loaded.kept_counts[event.owner_uid, event.name]
    if count.of_name >= KEPT_OF_A_NAME:
        problem = f"name: {KEPT_OF_A_NAME} events {event.name!r} of yours are kept, which is the limit"
        raise TooManyEvents(problem, path="name", hint="emit it without keep_ms, or let jobs take those that are kept")
    if count.of_owner >= KEPT_OF_A_USER:
        problem = f"keep_ms: {KEPT_OF_A_USER} events of yours are kept, which is the limit"
        raise TooManyEvents(problem, path="keep_ms", hint="keep events for a shorter time: stoker event ls")
    for (owner, name), (of_name, of_owner) in turn.loaded.kept_counts.items():
        if owner == event.owner_uid:
            turn.loaded.kept_counts[owner, name] = KeptCount(of_name + (name == event.name), of_owner + 1)


def _replaces(event: NamedEvent, other: NamedEvent) -> bool:
    """Whether no later job gets the other one: this one is newer and kept as long."""
    same = (event.owner_uid, event.name, False, False) == (other.owner_uid, other.name, event.one, other.one)
    return same and 0 < other.keep_until <= event.keep_until


def _record(turn: Turn, event: NamedEvent) -> None:
    """An event was emitted: its id is the number of its change."""
    payload = {"id": event.id, "one": event.one, "keep_until": event.keep_until, "bytes": len(event.data)}
    turn.record("system", event.condition, "emitted", payload, Actor(event.owner_uid))
    turn.effects.append(LogLine(LogEvent.EVENT_EMITTED, {"name": event.name, "id": event.id, "uid": event.owner_uid}))
    turn.batch.new_events[event.id] = event
