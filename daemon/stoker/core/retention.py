"""Decides which ended jobs, workflows, changes and backups may be removed.

Owns the rule of retention: ended jobs are kept for a time or among the newest, whichever keeps more, and as long as an
open job needs or awaits them, or a schedule names them as the run that it reuses. Invariants: of the log of changes
only a prefix is removed; a time in the future, which a clock that was set wrong leaves behind, does not keep the
changes behind it for ever; while the clock is wrong, nothing is removed that the right clock would keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct, field

from stoker.core.job.conditions import ConditionKind, Tree, kind_of, target_of, texts
from stoker.core.job.model import Need, State

FAILED = State.FAILED.value  # of a job; a workflow has the same word
CHANGES_PER_JOB = 10  # more than most jobs have


class Keep(Struct, frozen=True, kw_only=True):
    """How long ended jobs are kept (None: for ever), failed ones `failed_ms`; the `last` newest always stay."""

    ended_ms: int | None
    failed_ms: int | None
    last: int


class Horizon(Struct, frozen=True):
    """The times (UTC ms) before which ended jobs may go; with None all of them stay."""

    ended: int | None
    failed: int | None

    @property
    def latest(self) -> int | None:
        """The time from which on nothing may go."""
        return max((at for at in (self.ended, self.failed) if at is not None), default=None)

    def is_past(self, ended: EndedItem) -> bool:
        """Whether it ended before its horizon."""
        horizon = self.failed if ended.state == FAILED else self.ended
        return horizon is not None and ended.at < horizon


class TimeOff(Struct, frozen=True):
    """A time between two boots in which no daemon ran, by the wall clock (UTC ms)."""

    begin: int
    end: int


class EndedItem(Struct, frozen=True):
    """A job or workflow that ended at `at`; `pages` of a database are taken by the text of its row."""

    id: int
    at: int
    state: str
    pages: int = 0


def older_than(age_ms: int, now: int, off: TimeOff | None) -> int:
    """The time (UTC ms) before which everything has reached an age, without counting the time off.

    After a boot a host that was off looks like a clock that is wrong, so history gets no older by that time.
    """
    before = now - age_ms
    return before - (off.end - off.begin) if off is not None and before < off.end <= now else before


def horizon(keep: Keep, now: int, newest_kept: int | None, off: TimeOff | None = None) -> Horizon:
    """`newest_kept`: when the `keep.last`-th newest ended; None if no more than so many have ended."""
    if newest_kept is None:
        return Horizon(None, None)

    def of(age_ms: int | None) -> int | None:
        return None if age_ms is None else min(older_than(age_ms, now, off), newest_kept)

    return Horizon(of(keep.ended_ms), of(keep.failed_ms))


class NamedWork(Struct, frozen=True):
    """The part of a policy that names other jobs and workflows."""

    needs: tuple[Need, ...] = ()
    wait_for: Tree | None = None


class StillNeeded(Struct):
    """All that open jobs need or wait for: jobs, and whole workflows."""

    jobs: set[int] = field(default_factory=set)
    workflows: set[int] = field(default_factory=set)

    def add(self, needs: Iterable[Need], wait_for: Tree | None) -> None:
        """Of one open job."""
        self.jobs.update(need.job for need in needs)
        for text in texts(wait_for):
            of_kind = {ConditionKind.JOB: self.jobs, ConditionKind.WORKFLOW: self.workflows}.get(kind_of(text))
            if of_kind is not None:
                of_kind.add(int(target_of(text)))

    def update(self, other: StillNeeded) -> None:
        self.jobs |= other.jobs
        self.workflows |= other.workflows


def removable(
    ended: Iterable[EndedItem], horizon: Horizon, steps: Mapping[int, Sequence[int]], needed: StillNeeded
) -> tuple[list[EndedItem], int]:
    """Those that are past their horizon, and how many more are but are needed by an open job, or have such a job.

    `steps`: the jobs of each workflow; a job that is missing there is no workflow.
    """

    def is_free(one: EndedItem) -> bool:
        if one.id not in steps:
            return one.id not in needed.jobs
        return one.id not in needed.workflows and needed.jobs.isdisjoint(steps[one.id])

    past = [one for one in ended if horizon.is_past(one)]
    free = [*filter(is_free, past)]
    return free, len(past) - len(free)


def portions(ended: Iterable[EndedItem], steps: Mapping[int, Sequence[int]], most: int) -> Iterator[list[EndedItem]]:
    """Lists with at least `most` jobs and pages in total, except the last; a workflow is not divided."""
    portion: list[EndedItem] = []
    size = 0
    for one in ended:
        portion.append(one)
        size += len(steps.get(one.id, (one.id,))) + one.pages
        if size >= most:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def removable_changes(changes: Iterable[tuple[int, int]], before: int, now: int, newest: int) -> tuple[int, bool]:
    """The last of `changes` (seq, time) that is older than `before` (0: none), and whether the search ends there.

    It ends at the first one that is kept, or behind `newest`. A time in the future says nothing about an age: such a
    change goes with an older one behind it.
    """
    last = 0
    for seq, at in changes:
        if seq > newest or before <= at <= now:
            return last, True
        if at < before:
            last = seq
    return last, False


def newest_removable(last_seq: int, keep_last: int) -> int:
    """The newest change that may go: those of about the newest `keep_last` jobs stay, and always the last one."""
    return last_seq - max(1, keep_last * CHANGES_PER_JOB)


def kept_backups(sizes: Iterable[int], most: int, most_bytes: int) -> int:
    """How many backups stay, of those with these sizes, newest first: the newest one always does."""
    kept = total = 0
    for size in sizes:
        total += size
        if kept and (kept >= most or total > most_bytes):
            break
        kept += 1
    return kept


def removable_files(sizes: Sequence[int], replaced: int, most_bytes: int) -> int:
    """How many files of a journal go, of those with these sizes, oldest first: only those that a backup replaces."""
    total, count = sum(sizes), 0
    while count < replaced and total > most_bytes:
        total -= sizes[count]
        count += 1
    return count


def ranges(ids: Iterable[int]) -> list[Sequence[int]]:
    """Sorted ids as inclusive ranges: 1 2 3 7 gives [1, 3] and [7, 7]."""
    spans: list[list[int]] = []
    for ident in sorted(ids):
        if spans and ident == spans[-1][1] + 1:
            spans[-1][1] = ident
        else:
            spans.append([ident, ident])
    return list(spans)
