"""Conditions that jobs wait for: which are met at a submit, by an event, or by the end of a job or workflow.

An event reaches its jobs in the commit that stores it, or, if they are many, in the commits that follow; the row of the
event says how far that is. Each condition that is met is a change of its job. Invariants: an event meets each condition
once; a crash neither loses an event that was answered nor gives it twice.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stoker.core.errors import (
    IdempotencyConflict,
    JobNotFound,
    StokerError,
    TooManyEvents,
    TooManyPaths,
    WorkflowNotFound,
)
from stoker.core.job import events as ev
from stoker.core.job.conditions import OF_FILES, OF_HOST, ConditionKind, Tree, is_open, kind_of, target_of, texts
from stoker.core.job.model import STOKER, Actor, Job, State
from stoker.core.named_events import KEPT_OF_A_NAME, KEPT_OF_A_USER, EmitParams, NamedEvent, condition_of
from stoker.engine.inbox import Inbox, Message, RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.turn import LogLine, Turn
from stoker.store.conditions import LAST_ID, ConditionWaiter, KeptCount, WaiterPortion, WaitersWanted
from stoker.store.loading import Wanted
from stoker.telemetry.events import LogEvent

if TYPE_CHECKING:
    from stoker.core.views import EmitAnswer

MOST_PATHS = 10_000  # each takes some inotify watches of the host, and memory

# --- at a submit --------------------------------------------------------------------------------------------


def declare_reads(wanted: Wanted, tree: Tree, owner_uid: int) -> None:
    """The rows to read for a job that begins to wait."""
    for text in texts(tree):
        match kind_of(text):
            case ConditionKind.EVENT:
                wanted.kept_events[target_of(text), owner_uid] += 1
            case ConditionKind.JOB:
                wanted.ids.add(int(target_of(text)))
            case ConditionKind.WORKFLOW:
                wanted.workflow_ends.add(int(target_of(text)))


def problems(turn: Turn, tree: Tree | None, owner_uid: int) -> Iterator[StokerError]:
    """Jobs and workflows that do not exist, or belong to another user; paths beyond those that can be watched."""
    for text in texts(tree):
        if kind_of(text) in OF_FILES and len(turn.memory.awaited) >= MOST_PATHS and text not in turn.memory.awaited:
            problem = f"wait_for: jobs wait for {MOST_PATHS} paths already, and more are not watched"
            yield TooManyPaths(problem, hint="let jobs wait for one path, or for an event", path="wait_for")
        target, owner = target_of(text), _owner_of(turn, text)
        if owner is not None and owner_uid in (0, owner):
            continue
        if kind_of(text) is ConditionKind.JOB:
            yield JobNotFound(f"wait_for: there is no job {target} of yours", hint="stoker ls --all", path="wait_for")
        elif kind_of(text) is ConditionKind.WORKFLOW:
            problem = f"wait_for: there is no workflow {target} of yours"
            yield WorkflowNotFound(problem, hint="stoker workflow ls", path="wait_for")


def check_targets(turn: Turn, tree: Tree | None, owner_uid: int) -> None:
    """Raises the first of `problems`."""
    for problem in problems(turn, tree, owner_uid):
        raise problem


def _owner_of(turn: Turn, text: str) -> int | None:
    """The owner of the job or workflow of a condition."""
    target = target_of(text)
    if kind_of(text) is ConditionKind.JOB:
        job = turn.find(int(target))
        return None if job is None else job.owner_uid
    if kind_of(text) is ConditionKind.WORKFLOW:
        run = turn.memory.workflows.runs.get(int(target))
        return turn.loaded.workflow_ends.get(int(target), (None,))[0] if run is None else run.workflow.owner_uid
    return None


def has_ended(turn: Turn, text: str) -> bool:
    """Whether the job or workflow of a condition has ended."""
    target = int(target_of(text))
    if kind_of(text) is ConditionKind.JOB:
        job = turn.find(target)
        return job is not None and job.final
    run = turn.memory.workflows.runs.get(target)
    return turn.loaded.workflow_ends.get(target, (0, False))[1] if run is None else run.workflow.ended


def begin(turn: Turn, job: Job, seen: Mapping[str, str]) -> Job:
    """A job that was stored in this turn begins to wait. Returns it with the conditions that are met already.

    `seen`: what is at the paths of its conditions, as far as that is known.
    """
    turn.awaiting.add(job.id)
    for number, text in enumerate(texts(job.spec.wait_for)):
        if not is_open(job.conditions_open, number):
            continue
        kind = kind_of(text)
        if kind is ConditionKind.EVENT:
            event = _take_kept(turn, target_of(text), job.owner_uid)
            if event is not None:
                meet(turn, ConditionWaiter(job.id, number), event)
        elif kind in OF_FILES | OF_HOST:  # who watches these learns of the job after the commit
            if text in seen:
                turn.batch.seen[job.id, number] = seen[text]
        elif has_ended(turn, text):
            meet(turn, ConditionWaiter(job.id, number))
        else:
            turn.memory.ends_awaited.add(text)
        job = turn.job(job.id)
        if is_open(job.conditions_open, number):
            turn.new_waiters.setdefault(text, []).append(ConditionWaiter(job.id, number))
    return job


def _take_kept(turn: Turn, name: str, owner_uid: int) -> NamedEvent | None:
    """The newest event that was kept for later submits; one that is for one job only is used up."""
    events = turn.loaded.kept_events.get(name, {})
    for event in [_newest(turn, event) for event in events.values()]:
        # One for a single job goes to those who wait longer, as long as it is still being delivered.
        is_free = not event.one or event.next_after is None
        if is_free and event.owner_uid in (0, owner_uid) and event.kept(turn.now.wall):
            taken = replace(event, reached=event.reached + 1)
            _update(turn, taken)
            if taken.used_up:
                del events[event.id]
            else:
                events[event.id] = taken
            return taken
    return None


def meet(turn: Turn, waiter: ConditionWaiter, event: NamedEvent | None = None) -> bool:
    """Close a condition of a job, unless it is closed or the job waits no more. `event`: what met it."""
    job = turn.find(waiter.job_id)
    if job is None or not is_open(job.conditions_open, waiter.number):
        return False
    text = texts(job.spec.wait_for)[waiter.number]
    if event is None:
        turn.step(job.id, ev.ConditionMet(number=waiter.number, actor=replace(STOKER, note=text)))
        return True
    if job.state not in (State.WAITING, State.HELD):
        return False
    actor = Actor(event.owner_uid, f"{text}, event {event.id}")
    turn.step(job.id, ev.ConditionMet(number=waiter.number, actor=actor))
    turn.batch.given_events.append((job.id, event.id))
    return True


# --- events -------------------------------------------------------------------------------------------------


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


def _newest(turn: Turn, event: NamedEvent) -> NamedEvent:
    """The event as it is in this turn: other messages may have given it to jobs."""
    return turn.batch.new_events.get(event.id) or turn.batch.events.get(event.id) or event


def _update(turn: Turn, event: NamedEvent) -> None:
    """More jobs got it. Its data are stored once, with the event."""
    if event.id in turn.batch.new_events:
        turn.batch.new_events[event.id] = replace(event, data=turn.batch.new_events[event.id].data)
    else:
        turn.batch.events[event.id] = event


class GoOn(ev.Effect, frozen=True):
    """More jobs wait than one turn can serve: this message serves the next of them."""

    message: Message


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
        event = _newest(turn, turn.loaded.events[self._event.id])
        yield from deliver(turn, event, turn.loaded.waiters[self._waiters])


def deliver(turn: Turn, event: NamedEvent, portion: WaiterPortion) -> Generator[None, None, NamedEvent]:
    """Give an event to the next jobs that wait for it. Returns it as it is stored."""
    for waiter in _served(turn, event, portion):
        if event.used_up:
            break
        event = replace(event, reached=event.reached + meet(turn, waiter, event))
        yield
    more = portion.more and not event.used_up
    event = replace(event, next_after=portion.last if more else None)
    _update(turn, event)
    if more:
        turn.effects.append(GoOn(EventDelivery(event)))
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


# --- ends of jobs and workflows -----------------------------------------------------------------------------


class EndAwaited(Message):
    """A job or workflow for whose end others wait has ended."""

    def __init__(self, condition: str, after: int = 0) -> None:
        self._condition = condition
        self._waiters = WaitersWanted(condition, after, of_all_states=True)

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.waiters[self._waiters] = None
        declare_reads(wanted, self._condition, 0)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        if not has_ended(turn, self._condition):
            return  # it runs again: that end counts
        portion = turn.loaded.waiters[self._waiters]
        for waiter in portion.waiters:
            meet(turn, waiter)
            yield
        if portion.more:
            turn.effects.append(GoOn(EndAwaited(self._condition, portion.last)))
        elif self._condition not in turn.new_waiters:
            turn.memory.ends_awaited.discard(self._condition)


class ConditionWatch:
    """Posts what follows a commit: the next portion of an event, and the ends that others wait for."""

    def __init__(self, memory: LiveState, inbox: Inbox) -> None:
        self._memory = memory
        self._inbox = inbox

    def begin(self, undelivered: Sequence[NamedEvent], ends_met: Sequence[str]) -> None:
        """Go on with what an earlier daemon left."""
        for event in undelivered:
            self._inbox.post(EventDelivery(event))
        for condition in ends_met:
            self._inbox.post(EndAwaited(condition))

    def after_commit(self, turn: Turn) -> None:
        for effect in turn.effects:
            if isinstance(effect, GoOn):
                self._inbox.post(effect.message)
        if self._memory.ends_awaited:
            for condition in sorted(self._memory.ends_awaited.intersection(_ended(turn))):
                self._inbox.post(EndAwaited(condition))


def _ended(turn: Turn) -> Iterable[str]:
    """The ends of this turn, as conditions."""
    for transition in turn.transitions:
        if transition.job.final:
            yield f"{ConditionKind.JOB}:{transition.job.id}"
    for _, after, _ in turn.verdicts:
        if after.ended:
            yield f"{ConditionKind.WORKFLOW}:{after.id}"
