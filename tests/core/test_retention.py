"""Jobs that may be removed: by age or by number, whichever keeps more, and never one that an open job needs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.job.conditions import ConditionGroup
from stoker.core.requests import Purge
from stoker.core.retention import (
    CHANGES_PER_JOB,
    EndedItem,
    Horizon,
    Keep,
    StillNeeded,
    TimeOff,
    horizon,
    kept_backups,
    newest_removable,
    older_than,
    portions,
    ranges,
    removable,
    removable_changes,
    removable_files,
)
from stoker.core.units import age

NOW = 1_000_000


@pytest.mark.parametrize(
    ("keep", "newest_kept", "expected"),
    [
        (Keep(ended_ms=1_000, failed_ms=5_000, last=9), 999_999, Horizon(999_000, 995_000)),
        (Keep(ended_ms=1_000, failed_ms=5_000, last=9), 997_000, Horizon(997_000, 995_000)),
        (Keep(ended_ms=1_000, failed_ms=1_000, last=9), None, Horizon(None, None)),
        (Keep(ended_ms=None, failed_ms=1_000, last=9), 999_999, Horizon(None, 999_000)),
        (Keep(ended_ms=1_000, failed_ms=None, last=9), 999_999, Horizon(999_000, None)),
    ],
    ids=["by age", "by number", "fewer than the number", "ended ones for ever", "failed ones for ever"],
)
def test_horizon_when_age_and_number_differ_then_whichever_keeps_more_counts(
    keep: Keep, newest_kept: int | None, expected: Horizon
) -> None:
    assert horizon(keep, NOW, newest_kept) == expected


@pytest.mark.parametrize(
    ("age_ms", "now", "expected"),
    [(101, 1_000, 299), (300, 1_000, 100), (100, 1_000, 900), (100, 899, 799)],
    ids=["before it", "long before it", "since then", "the clock was set right"],
)
def test_age_when_the_host_was_off_then_that_time_does_not_count(age_ms: int, now: int, expected: int) -> None:
    assert older_than(age_ms, now, TimeOff(300, 900)) == expected


@pytest.mark.parametrize(
    ("limits", "latest"), [((5, 9), 9), ((9, 5), 9), ((None, 5), 5), ((5, None), 5), ((None, None), None)]
)
def test_horizon_when_it_has_two_limits_then_nothing_goes_from_the_later_one_on(
    limits: tuple[int | None, int | None], latest: int | None
) -> None:
    assert Horizon(*limits).latest == latest


def test_removable_when_failed_ones_are_kept_longer_then_they_stay() -> None:
    ended = [
        EndedItem(1, 10, "succeeded"),
        EndedItem(2, 10, "failed"),
        EndedItem(3, 4, "failed"),
        EndedItem(4, 20, "succeeded"),
    ]

    free, needed = removable(ended, Horizon(20, 5), {}, StillNeeded())

    assert ([one.id for one in free], needed) == ([1, 3], 0)


def test_removable_when_limits_are_missing_then_nothing_goes() -> None:
    ended = [EndedItem(1, 0, "failed"), EndedItem(2, 0, "expired")]

    assert removable(ended, Horizon(None, None), {}, StillNeeded()) == ([], 0)


def test_removable_when_an_open_job_needs_one_then_it_stays_and_is_counted() -> None:
    ended = [EndedItem(1, 1, "succeeded"), EndedItem(2, 2, "succeeded"), EndedItem(3, 99, "succeeded")]

    free, needed = removable(ended, Horizon(50, 50), {}, StillNeeded(jobs={2, 3}))

    assert ([one.id for one in free], needed) == ([1], 1)


def test_removable_when_a_step_is_needed_then_its_whole_workflow_stays() -> None:
    ended = [EndedItem(1, 1, "succeeded"), EndedItem(2, 2, "failed")]

    free, needed = removable(ended, Horizon(50, 50), {1: [2, 5], 2: [6]}, StillNeeded(jobs={5}))

    assert ([one.id for one in free], needed) == ([2], 1)


def test_removable_when_an_open_job_waits_for_them_then_they_stay() -> None:
    ended, needed, read = [EndedItem(1, 1, "succeeded"), EndedItem(2, 2, "failed")], StillNeeded(), StillNeeded()
    needed.add((), ConditionGroup(all=("workflow:1", "event:x")))
    read.add((), "job:2")
    needed.update(read)

    assert removable(ended, Horizon(50, 50), {1: [7], 2: [8]}, needed) == (ended[1:], 1)
    assert removable(ended, Horizon(50, 50), {}, needed) == (ended[:1], 1)


def test_portions_when_a_workflow_is_large_then_it_is_not_divided() -> None:
    ended = [EndedItem(ident, ident, "succeeded") for ident in range(1, 6)]
    steps = {1: [11], 2: [21, 22, 23, 24, 25], 3: [31], 4: [41], 5: [51]}

    assert [[one.id for one in some] for some in portions(ended, steps, 2)] == [[1, 2], [3, 4], [5]]


def test_portions_when_flows_are_long_then_their_pages_count_too() -> None:
    ended = [EndedItem(ident, ident, "succeeded", pages) for ident, pages in ((1, 0), (2, 9), (3, 4), (4, 0))]
    steps: dict[int, list[int]] = {ident: [] for ident in range(1, 5)}

    assert [[one.id for one in some] for some in portions(ended, steps, 5)] == [[1, 2], [3, 4]]


def test_portions_when_they_are_plain_jobs_then_each_counts_as_one() -> None:
    ended = [EndedItem(ident, ident, "succeeded") for ident in range(1, 5)]

    assert [[one.id for one in some] for some in portions(ended, {}, 2)] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("changes", "newest", "expected"),
    [
        ([(5, 10), (6, 20), (7, 30), (8, 10)], 99, (6, True)),
        ([(5, 10), (6, 20)], 5, (5, True)),
        ([(5, 10), (6, 20)], 4, (0, True)),
        ([(5, 30), (6, 10)], 99, (0, True)),
        ([(5, 10), (6, 5_000), (7, 20)], 99, (7, False)),
        ([(5, 10), (6, 5_000), (7, 5_000)], 99, (5, False)),
        ([(5, 5_000), (6, 30)], 99, (0, True)),
        ([], 99, (0, False)),
    ],
    ids=[
        "a young one ends it",
        "the newest that may go",
        "all are kept",
        "a young one is first",
        "future, and older ones behind",
        "future, and none behind",
        "future, and a young one behind",
        "none",
    ],
)
def test_changes_when_they_are_old_then_only_a_whole_prefix_goes(
    changes: list[tuple[int, int]], newest: int, expected: tuple[int, bool]
) -> None:
    assert removable_changes(changes, before=25, now=1_000, newest=newest) == expected


def test_newest_change_when_jobs_are_kept_by_number_then_their_changes_stay() -> None:
    assert newest_removable(10_000, 3) == 10_000 - 3 * CHANGES_PER_JOB
    assert newest_removable(10_000, 0) == 9_999


def test_ranges_when_ids_follow_each_other_then_they_are_one_range() -> None:
    assert ranges([3, 1, 7, 2]) == [[1, 3], [7, 7]]
    assert ranges([]) == []


@given(st.sets(st.integers(1, 60)))
def test_ranges_when_unfolded_then_they_are_the_same_ids(ids: set[int]) -> None:
    spans = ranges(ids)

    assert [ident for first, last in spans for ident in range(first, last + 1)] == sorted(ids)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("30d", 2_592_000_000), ("12h", 43_200_000), ("5m", 300_000), ("7s", 7_000), ("90ms", 90), ("forever", None)],
)
def test_age_when_read_then_it_is_in_milliseconds(text: str, milliseconds: int | None) -> None:
    assert age(text) == milliseconds


@pytest.mark.parametrize(
    ("choice", "everything"), [({}, True), ({"queue": "bulk"}, False), ({"states": ("failed",)}, False)]
)
def test_purge_when_it_chooses_jobs_then_the_log_of_changes_stays(choice: dict[str, Any], *, everything: bool) -> None:
    assert Purge(before=1, **choice).takes_all is everything


@pytest.mark.parametrize(
    ("sizes", "most", "most_bytes", "kept"),
    [
        ([], 3, 100, 0),
        ([10, 10, 10, 10], 3, 100, 3),
        ([10, 10], 3, 100, 2),
        ([60, 40, 1], 3, 100, 2),
        ([500, 1], 3, 100, 1),  # the newest one always stays
    ],
)
def test_backups_when_there_are_more_than_wanted_then_the_newest_are_kept(
    sizes: list[int], most: int, most_bytes: int, kept: int
) -> None:
    assert kept_backups(sizes, most, most_bytes) == kept


@pytest.mark.parametrize(
    ("sizes", "replaced", "most_bytes", "count"),
    [
        ([], 0, 0, 0),
        ([5, 5, 5], 3, 15, 0),
        ([5, 5, 5], 3, 14, 1),
        ([5, 5, 5], 3, 4, 3),
        ([5, 5, 5], 1, 0, 1),
        ([5, 5, 5], 0, 0, 0),
    ],
)
def test_files_when_too_many_then_the_oldest_that_are_replaced_go(
    sizes: list[int], replaced: int, most_bytes: int, count: int
) -> None:
    assert removable_files(sizes, replaced, most_bytes) == count
