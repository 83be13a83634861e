"""Conditions that jobs wait for: which are met at a submit, by the end of a job or workflow, by a file, or by the host.

Each condition that is met is a change of its job. A condition about the host counts only while it holds, so it is
closed only in the turn in which nothing else blocks its job any more: a job is looked at when a condition begins to
hold, when the job itself changes while one holds, and when its `run_at` has passed. Events are in `named_events`.
Invariant: a look at a file counts only for jobs that were there when it began, as what it saw is older than what was
kept for any later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy

from msgspec.structs import replace

from stoker.core.errors import JobNotFound, StokerError, TooManyPaths, WorkflowNotFound
from stoker.core.job import events as ev
from stoker.core.job.conditions import (
    OF_FILES,
    OF_HOST,
    ConditionKind,
    Tree,
    is_open,
    kind_of,
    met_with_host,
    open_texts,
    target_of,
    texts,
)
from stoker.core.job.model import STOKER, Actor, Job, State
from stoker.core.job.transition import delay_ms
from stoker.core.named_events import NamedEvent
from stoker.engine.inbox import Message, PostMessage
from stoker.engine.turn import Turn
from stoker.store.conditions import ConditionWaiter, WaitersWanted
from stoker.store.loading import Wanted

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
            yield _too_many_paths()
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


def check_paths(turn: Turn, jobs: Iterable[Job]) -> None:
    """Raises TooManyPaths if there is no room for the paths of jobs that are to wait again: they gave it up."""
    awaited = turn.memory.awaited
    open_conditions = {text for job in jobs for text in open_texts(job.spec.wait_for, job.conditions_open)}
    new = [text for text in open_conditions if kind_of(text) in OF_FILES and text not in awaited]
    if new and len(awaited) + len(new) > MOST_PATHS:
        raise _too_many_paths()


def _too_many_paths() -> TooManyPaths:
    problem = f"wait_for: jobs wait for {MOST_PATHS} paths already, and more are not watched"
    return TooManyPaths(problem, hint="let jobs wait for one path, or for an event", path="wait_for")


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
    for event in [newest_event(turn, event) for event in events.values()]:
        # One for a single job goes to those who wait longer, as long as it is still being delivered.
        is_free = not event.one or event.next_after is None
        if is_free and event.owner_uid in (0, owner_uid) and event.kept(turn.now.wall):
            taken = replace(event, reached=event.reached + 1)
            update_event(turn, taken)
            if taken.used_up:
                del events[event.id]
            else:
                events[event.id] = taken
            return taken
    return None


def newest_event(turn: Turn, event: NamedEvent) -> NamedEvent:
    """The event as it is in this turn: other messages may have given it to jobs."""
    return turn.batch.new_events.get(event.id) or turn.batch.events.get(event.id) or event


def update_event(turn: Turn, event: NamedEvent) -> None:
    """More jobs got it. Its data are stored once, with the event."""
    if event.id in turn.batch.new_events:
        turn.batch.new_events[event.id] = replace(event, data=turn.batch.new_events[event.id].data)
    else:
        turn.batch.events[event.id] = event


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


class ConditionMessage(Message):
    """Looks at the jobs that wait for a condition, in portions: one turn looks at a bounded number."""

    def __init__(self, waiters: WaitersWanted) -> None:
        self.waiters = waiters

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.waiters[self.waiters] = None

    def apply_to(self, turn: Turn) -> Iterator[None]:
        portion = turn.loaded.waiters[self.waiters]
        for waiter in portion.waiters:
            self.recheck(turn, waiter)
            yield
        if portion.more and self.goes_on(turn):
            rest = copy(self)
            rest.waiters = self.waiters._replace(after=portion.last)
            turn.effects.append(PostMessage(rest))

    def recheck(self, turn: Turn, waiter: ConditionWaiter) -> None:
        raise NotImplementedError

    def goes_on(self, turn: Turn) -> bool:  # noqa: ARG002 - for conditions that may end meanwhile
        """Whether the jobs of the next portion are to be looked at, too."""
        return True


# --- ends of jobs and workflows ------------------------------------------------------------------------------


class EndAwaited(ConditionMessage):
    """A job or workflow for whose end others wait has ended."""

    def __init__(self, condition: str) -> None:
        super().__init__(WaitersWanted(condition, of_all_states=True))

    def declare_reads(self, wanted: Wanted) -> None:
        super().declare_reads(wanted)
        declare_reads(wanted, self.waiters.condition, 0)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        if not has_ended(turn, self.waiters.condition):
            return  # it runs again: that end counts
        yield from super().apply_to(turn)
        if not turn.loaded.waiters[self.waiters].more and self.waiters.condition not in turn.new_waiters:
            turn.memory.ends_awaited.discard(self.waiters.condition)

    def recheck(self, turn: Turn, waiter: ConditionWaiter) -> None:
        meet(turn, waiter)


def ends_of(turn: Turn) -> Iterable[str]:
    """The ends of this turn, as conditions."""
    for transition in turn.transitions:
        if transition.job.final:
            yield f"{ConditionKind.JOB}:{transition.job.id}"
    for _, after, _ in turn.verdicts:
        if after.ended:
            yield f"{ConditionKind.WORKFLOW}:{after.id}"


# --- files ---------------------------------------------------------------------------------------------------


class FileSeen(ConditionMessage):
    """A look at the path of `condition` saw `seen` (empty: nothing). It began when `last_job` was the newest job."""

    def __init__(self, condition: str, seen: str, last_job: int, after: int = 0) -> None:
        super().__init__(WaitersWanted(condition, after, last_job))
        self._seen = seen

    def recheck(self, turn: Turn, waiter: ConditionWaiter) -> None:
        if kind_of(self.waiters.condition) is ConditionKind.FILE_CHANGED:
            before = turn.batch.seen.get(waiter[:2], waiter.seen)
            if before is None:
                turn.batch.seen[waiter[:2]] = self._seen
            if before in (None, self._seen):
                return
        if self._seen:
            meet(turn, waiter)


# --- the host ------------------------------------------------------------------------------------------------


class AskLater(ev.Effect, frozen=True):
    """Only its `run_at` or a delay blocks the job, until `at` (steady ms)."""

    job_id: int
    at: int


class HostChanged(Message):
    """The conditions about the host that hold from now on."""

    def __init__(self, holding: frozenset[str]) -> None:
        self._holding = holding

    def apply_to(self, turn: Turn) -> None:
        begun = self._holding - turn.memory.holding
        turn.memory.holding = self._holding
        turn.effects += [
            PostMessage(HostHolds(condition)) for condition in sorted(begun) if turn.memory.awaited[condition]
        ]


class HostHolds(ConditionMessage):
    """A condition has begun to hold."""

    def __init__(self, condition: str) -> None:
        super().__init__(WaitersWanted(condition))

    def recheck(self, turn: Turn, waiter: ConditionWaiter) -> None:
        _recheck(turn, waiter.job_id)

    def goes_on(self, turn: Turn) -> bool:
        return self.waiters.condition in turn.memory.holding


class HostHoldsFor(Message):
    """Some jobs that wait for the host have changed, or the time has come for which they waited."""

    def __init__(self, job_ids: Sequence[int]) -> None:
        self._job_ids = job_ids

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(self._job_ids)

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for job_id in self._job_ids:
            _recheck(turn, job_id)
            yield


def now_met(turn: Turn) -> list[int]:
    """The jobs that were changed in this turn, and whose open conditions are met with what the host is now."""
    return [job_id for job_id in sorted(turn.awaiting) if _met(turn, turn.find(job_id))]


def _met(turn: Turn, job: Job | None) -> list[int]:
    """The numbers of the conditions about the host with which all conditions of a waiting job are met."""
    if job is None or job.state is not State.WAITING or job.spec.wait_for is None or job.needs_open:
        return []
    return met_with_host(job.spec.wait_for, job.conditions_open, turn.memory.holding)


def _recheck(turn: Turn, job_id: int) -> None:
    job = turn.find(job_id)
    numbers = _met(turn, job)
    if job is None or not numbers:
        return
    delay = delay_ms(job, turn.now)
    if delay:
        turn.effects.append(AskLater(job_id, turn.now.steady + delay))
        return
    for number in numbers:
        meet(turn, ConditionWaiter(job_id, number))
