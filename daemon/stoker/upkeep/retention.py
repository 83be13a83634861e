"""Retention: removes jobs and workflows that ended long ago, periodically and for `stoker purge`.

Owns the time, the order and the pace of a pass; `core.retention` decides what is old enough. Rows are removed first, in
turns of the engine, and files after that commit (`leftovers`). A pass works also while queues are paused or submits are
refused for lack of disk space. Invariant: one pass works at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec import UNSET, Struct

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.config.settings import KeepSection, RetentionSettings
from stoker.core.clock import Clock
from stoker.core.job.model import STOKER, Actor
from stoker.core.requests import Purge
from stoker.core.retention import (
    EndedItem,
    Horizon,
    Keep,
    StillNeeded,
    TimeOff,
    horizon,
    newest_removable,
    older_than,
    portions,
    removable,
    removable_changes,
)
from stoker.core.units import age
from stoker.core.workflow.state import ENDED
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState
from stoker.store import changes, old_changes
from stoker.store import retention as rows
from stoker.store.reader import Reader
from stoker.store.retention import Candidates, PurgeGroup, PurgePortion
from stoker.store.sizes import sizes_of
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Counted, Telemetry
from stoker.upkeep.leftovers import Leftovers
from stoker.upkeep.pace import Pace
from stoker.upkeep.purging import Purging
from stoker.upkeep.refusals import Refusals
from stoker.upkeep.usage import Usage

if TYPE_CHECKING:
    from stoker.core.daemon_views import Purged, PurgePreview, PurgeTotals, TimeOffView

DAY_MS = 86_400_000
FIRST_MS = 60_000  # from a start of the daemon to the first pass
FOUND = 1_000  # jobs in one read
WORKFLOWS_FOUND = 20  # in one read, each with up to 10 000 steps
PORTION = 160  # jobs in one turn: about two milliseconds, for which its answers wait
CHANGES = 1_000  # in one read, and in one removal of a pass at least
NEEDS = 1_000  # open jobs with needs in one read
CALL_S = 1.0  # the time of one `system.purge`; the client asks again for the rest
QUIET = 3.0  # a pass rests three times as long as it works
PROMPT = 0.35  # for a person who waits
EARLIEST = EndedItem(0, -1, "")


class PurgeRule(Struct, frozen=True):
    """A group of jobs or workflows, and which of them are removed. Empty `states` means all states."""

    group: PurgeGroup
    horizon: Horizon
    states: tuple[str, ...] = ()


class PurgeCounts(Struct):
    """How much was removed. `needed`: jobs and workflows that are kept because an open job or a schedule needs them."""

    jobs: int = 0
    workflows: int = 0
    steps: int = 0
    changes: int = 0
    needed: int = 0

    def add(self, portion: PurgePortion) -> None:
        self.jobs += len(portion.jobs)
        self.workflows += len(portion.workflows)
        self.steps += sum(map(len, portion.workflows.values()))

    def view(self) -> PurgeTotals:
        return cast("PurgeTotals", msgspec.structs.asdict(self))


class Retention:
    def __init__(
        self,
        config: Config,
        reader: Reader,
        inbox: Inbox,
        memory: LiveState,
        clock: Clock,
        leftovers: Leftovers,
        usage: Usage,
        telemetry: Telemetry,
        background: BackgroundTasks,
        refusals: Refusals,
        off: TimeOff | None,
    ) -> None:
        self._config = config
        self._reader = reader
        self._inbox = inbox
        self._memory = memory
        self._clock = clock
        self._leftovers = leftovers
        self._usage = usage
        self._telemetry = telemetry
        self._background = background
        self._refusals = refusals
        self._off = off
        self._waits = False
        self._one = asyncio.Lock()
        self._people = 0  # requests of `stoker purge` that wait for the lock
        self._due = clock.now().steady + min(FIRST_MS, config.retention.every_ms)

    def use(self, config: Config) -> None:
        self._config = config
        self._due = min(self._due, self._clock.now().steady + config.retention.every_ms)

    def tick(self) -> None:
        """Begin a pass if it is due and changes are possible."""
        now = self._clock.now().steady
        if now >= self._due and not self._background.is_running("retention") and self._refusals.current() is None:
            self._due = now + self._config.retention.every_ms
            self._background.retry("retention", self._pass)

    async def _pass(self) -> None:
        settings, removed = self._config.retention, PurgeCounts()
        self._log_time_off(settings.keep)
        async with self._one:
            pace = Pace(QUIET, gives_way=lambda: self._people > 0)
            await self._leftovers.sweep(pace)  # of a pass that was interrupted
            async with self._collecting_needs():
                async for rule in self._rules():
                    await self._purge(rule, STOKER, pace, removed)
                if (before := self._before(settings.keep_changes)) is not None:
                    await self._purge_changes(before, settings.keep_last, CHANGES, STOKER, pace, removed)
            if (before := self._before(settings.keep_keys)) is not None:
                await self._leftovers.forget_keys(pace, before)
            if (before := self._before(settings.keep_archives)) is not None:
                await self._leftovers.remove_archives(before)
            await self._leftovers.forget_events(pace, self._clock.now().wall)
            await self._leftovers.forget_recoveries(pace)
            await self._leftovers.sweep(pace)
        self._report(removed, STOKER)
        if pace.is_over:  # it made way for a `stoker purge`, and goes on soon
            self._due = min(self._due, self._clock.now().steady + FIRST_MS)
        await self._usage.measure(Pace(QUIET))

    def _log_time_off(self, keep: str) -> None:
        """Log once that ended jobs stay longer than they would by the wall clock alone."""
        off = self._time_off(keep)
        if off is not None and not self._waits:
            self._waits = True
            days = (off.end - off.begin) // DAY_MS
            log(LogEvent.RETENTION_WAITS, not_counted_days=days, hint="stoker purge removes by the wall clock")

    def _time_off(self, keep: str) -> TimeOff | None:
        """The time for which the daemon was off, if ended jobs are kept longer because of it."""
        before = self._before(keep)
        return self._off if self._off is not None and before is not None and before < self._off.begin else None

    def describe_time_off(self) -> TimeOffView | None:
        off = self._time_off(self._config.retention.keep)
        return None if off is None else {"begin": off.begin, "end": off.end}

    def _before(self, keep: str) -> int | None:
        """The time before which everything is older than `keep`; None for "forever"."""
        keep_ms = age(keep)
        return None if keep_ms is None else older_than(keep_ms, self._clock.now().earlier, self._off)

    def _report(self, removed: PurgeCounts, actor: Actor) -> None:
        if removed.jobs or removed.steps or removed.changes:
            log(LogEvent.RETENTION_PURGED, actor_uid=actor.uid, **removed.view())
            self._telemetry.count(Counted.PURGED_JOBS, removed.jobs + removed.steps)

    # --- what may go ---

    async def _rules(self) -> AsyncGenerator[PurgeRule]:
        """The rule of each queue, of each workflow with times of its own, and of all other workflows."""
        config, now = self._config, self._clock.now().earlier
        named = config.retention_workflows
        groups = [(rows.of_queue(name), config.retention_queues.get(name)) for name in sorted(self._memory.queues)]
        groups += [(rows.workflows_named(name), section) for name, section in named.items()]
        groups.append((rows.workflows_except(named), None))
        for group, section in groups:
            keep = keep_of(config.retention, section)
            newest = await self._reader.run(rows.newest_kept, group, keep.last)
            yield PurgeRule(group, horizon(keep, now, newest, self._off))

    async def _candidates(self, rule: PurgeRule, removed: PurgeCounts) -> AsyncGenerator[Candidates]:
        """The jobs and workflows that a rule removes, oldest first."""
        after, before = EARLIEST, rule.horizon.latest
        limit = WORKFLOWS_FOUND if rule.group.of_workflows else FOUND
        while before is not None:
            ended = await self._reader.run(rows.ended, rule.group, before, after, rule.states, limit)
            steps = {}
            if rule.group.of_workflows:
                steps = await self._reader.run(rows.steps, [one.id for one in ended])
            free, needed = removable(ended, rule.horizon, steps, self._needed)
            removed.needed += needed
            for portion in portions(free, steps, PORTION):
                ends = {one.id: one.at for one in portion}
                if rule.group.of_workflows:
                    yield Candidates(workflows=ends, steps={ident: steps[ident] for ident in ends})
                else:
                    yield Candidates(jobs=ends)
            if len(ended) < limit:
                return
            after = ended[-1]

    @property
    def _needed(self) -> StillNeeded:
        assert self._memory.named_needs is not None
        return self._memory.named_needs

    @asynccontextmanager
    async def _collecting_needs(self) -> AsyncGenerator[None]:
        """While it is open, `memory.named_needs` holds all that open jobs need or wait for, and schedules reuse.

        The memory adds the needs of new jobs. Jobs that were stored before are on disk after the barrier, and are read.
        """
        self._memory.named_needs = needed = StillNeeded()
        try:
            await self._inbox.barrier()
            after: int | None = 0
            while after is not None:
                some, after = await self._reader.run(rows.needed_by_open, after, NEEDS)
                needed.update(some)
            needed.workflows |= self._memory.schedules.reused()
            yield
        finally:
            self._memory.named_needs = None

    # --- removing it ---

    async def _purge(self, rule: PurgeRule, actor: Actor, pace: Pace, removed: PurgeCounts) -> None:
        async for candidates in self._candidates(rule, removed):
            if pace.is_over:
                return
            async with pace.piece():
                removed.add(await self._inbox.ask(Purging(candidates, actor)))
            await self._leftovers.sweep_rows(pace)

    async def _purge_changes(
        self, before: int, keep_last: int, least: int, actor: Actor, pace: Pace, removed: PurgeCounts
    ) -> None:
        """Remove the old changes from the beginning of the log, in portions of at least `least`.

        Each removal adds a change: without `least` an idle daemon would add one in every pass, to remove the last one.
        """
        newest = newest_removable(self._memory.committed_seq, keep_last)
        first = await self._reader.run(changes.last_removed)
        while await self._leftovers.sweep_changes(pace):  # those of a pass that was interrupted, too
            old = await self._old_changes(before, newest, least)
            if len(old) < least:
                break
            async with pace.piece():
                await self._inbox.ask(Purging(Candidates(changes=old[-1]), actor))
        removed.changes += await self._reader.run(changes.last_removed) - first

    async def _old_changes(self, before: int, newest: int, least: int) -> range:
        """The next changes to remove from the beginning of the log: `least` or more, unless there are fewer."""
        first, last, after = 1, 0, 0
        now, is_over = self._clock.now().wall, False
        while not is_over and last - first + 1 < least:
            oldest = await self._reader.run(old_changes.oldest, after, CHANGES)
            if not oldest:
                break
            first, after = first if after else oldest[0][0], oldest[-1][0]
            up_to, is_over = removable_changes(oldest, before, now, newest)
            last = max(last, up_to)
        return range(first, last + 1)

    # --- for a person ---

    def _asked_rules(self, asked: Purge) -> Iterator[PurgeRule]:
        """The rules of a `stoker purge`. Workflows have no queue, and not every state of a job."""
        horizon = Horizon(asked.before, asked.before)
        for name in sorted(self._memory.queues) if asked.queue is None else (asked.queue,):
            yield PurgeRule(rows.of_queue(name), horizon, asked.states)
        of_workflows = tuple(state for state in asked.states if state in ENDED)
        if asked.queue is None and (of_workflows or not asked.states):
            yield PurgeRule(rows.workflows_except(()), horizon, of_workflows)

    @asynccontextmanager
    async def _before_the_pass(self) -> AsyncGenerator[None]:
        """The lock; a pass that has it gives way after its present piece."""
        self._people += 1
        try:
            async with self._one:
                yield
        finally:
            self._people -= 1

    async def purge(self, asked: Purge, actor: Actor) -> Purged:
        """Remove for about a second; `more` says that the same call goes on with the rest."""
        removed = PurgeCounts()
        async with self._before_the_pass(), self._collecting_needs():
            pace = Pace(PROMPT, CALL_S)
            for rule in self._asked_rules(asked):
                await self._purge(rule, actor, pace, removed)
            if asked.takes_all:
                await self._purge_changes(asked.before, 0, 1, actor, pace, removed)
            is_done = await self._leftovers.sweep(pace)
        self._report(removed, actor)
        if is_done:
            self._background.retry("measurement of the state", partial(self._usage.measure, Pace(QUIET)))
        return {**removed.view(), "more": not is_done}

    async def preview(self, asked: Purge) -> PurgePreview:
        """The numbers that `purge` would remove, and the bytes of their logs and checkpoints."""
        removed, sizes = PurgeCounts(), Counter[str]()
        async with self._before_the_pass(), self._collecting_needs():
            for rule in self._asked_rules(asked):
                async for candidates in self._candidates(rule, removed):
                    portion = candidates.portion
                    removed.add(portion)
                    sizes.update(await self._reader.run(sizes_of, portion))
            if asked.takes_all:
                newest = newest_removable(self._memory.committed_seq, 0)
                removed.changes = await self._reader.run(old_changes.count, asked.before, newest)
        return {**removed.view(), "log_bytes": sizes["logs"], "checkpoint_bytes": sizes["checkpoints"]}


def keep_of(usual: RetentionSettings, own: KeepSection | None) -> Keep:
    """The times of a group with a section of its own; there `keep` alone counts for failed ones too."""
    keep, failed, last = usual.keep, usual.keep_failed, usual.keep_last
    if own is not None:
        keep, failed = (keep, failed) if own.keep is UNSET else (own.keep, own.keep)
        failed = failed if own.keep_failed is UNSET else own.keep_failed
        last = last if own.keep_last is UNSET else own.keep_last
    return Keep(ended_ms=age(keep), failed_ms=age(failed), last=last)
