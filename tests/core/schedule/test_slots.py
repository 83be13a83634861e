"""The due slots of a schedule: misfires, the catch-up window, jitter, and a clock that was set back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.errors import InvalidParams
from stoker.core.requests import JobWork
from stoker.core.schedule.model import FlowPart, Misfire, Origin, Overlap, Schedule
from stoker.core.schedule.request import ScheduleParams, checked, schedule_of
from stoker.core.schedule.slots import (
    LATE_MS,
    MOST_AT_ONCE,
    MOST_CAUGHT_UP,
    caught_up,
    due_at,
    due_slots,
    jitter,
    pass_over,
    taken_over,
)
from stoker.core.schedule.timing import slots_of

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1_000)
WORK = JobWork(command="/bin/true")


def schedule(timing: str = "every 1m", now: int = START, **fields: Any) -> Schedule:
    return checked(ScheduleParams(name="n", timing=timing, job=WORK, **{"catch_up_ms": HOUR_MS, **fields}), 1, now)


@pytest.mark.parametrize(
    ("misfire", "down_ms", "submitted"),
    [
        (Misfire.SKIP, MINUTE_MS, [1]),
        (Misfire.LATEST, MINUTE_MS, [1]),
        (Misfire.ALL, MINUTE_MS, [1]),
        (Misfire.SKIP, 10 * MINUTE_MS, [10]),
        (Misfire.LATEST, 10 * MINUTE_MS, [10]),
        (Misfire.LATEST, 10 * MINUTE_MS + 30_000, [10]),
        (Misfire.ALL, 10 * MINUTE_MS, [*range(1, 11)]),
        (Misfire.LATEST, 300 * MINUTE_MS, [300]),
        (Misfire.ALL, 300 * MINUTE_MS, [*range(240, 301)]),
    ],
)
def test_slots_when_they_came_while_no_daemon_ran_then_the_policy_chooses(
    misfire: Misfire, down_ms: int, submitted: list[int]
) -> None:
    due = due_slots(schedule(misfire=misfire), START + down_ms)

    assert [(slot - START) // MINUTE_MS for slot in due.slots] == submitted
    assert due.missed == (None if submitted[0] == 1 else START + MINUTE_MS)
    assert due.passed == due.slots[-1]
    assert due.following == due.slots[-1] + MINUTE_MS


@pytest.mark.parametrize("misfire", [*Misfire])
def test_slot_when_it_is_older_than_the_window_then_it_is_missed(misfire: Misfire) -> None:
    daily = schedule("0 0 * * *", START + 1, misfire=misfire)
    slot = daily.next_slot or 0

    due = due_slots(daily, slot + 2 * HOUR_MS)

    assert (due.slots, due.missed, due.following) == ((), slot, slot + 24 * HOUR_MS)


def test_slot_when_it_is_late_by_a_restart_then_even_skip_submits_it() -> None:
    daily = schedule("0 0 * * *", START + 1, misfire=Misfire.SKIP)
    slot = daily.next_slot or 0

    assert due_slots(daily, slot + LATE_MS).slots == (slot,)
    assert due_slots(daily, slot + LATE_MS + 1_000).slots == ()


def test_slots_when_more_are_due_than_fit_a_turn_then_the_next_turn_goes_on() -> None:
    many = schedule("every 1s", misfire=Misfire.ALL, catch_up_ms=500_000)

    due = due_slots(many, START + 300_000)

    assert len(due.slots) == MOST_AT_ONCE
    assert due.following == due.slots[-1] + 1_000


@given(st.integers(10, 400), st.sampled_from([*Misfire]), st.integers(0, 59_999), st.integers(1, 3))
def test_slots_when_time_passes_in_steps_then_each_comes_once_and_never_early(
    step_s: int, misfire: Misfire, jitter_ms: int, hours: int
) -> None:
    current, now = schedule(misfire=misfire, jitter_ms=jitter_ms), START
    submitted: list[int] = []
    while now < START + hours * HOUR_MS:
        now += 1 + step_s * 1_000
        if (due := due_at(current)) is None or due > now:
            continue
        slots = due_slots(current, now)
        assert all(slot + jitter(current, slot) <= now for slot in slots.slots)
        submitted += slots.slots
        current = replace(current, passed=slots.passed, next_slot=slots.following)

    assert submitted == sorted(set(submitted))
    if misfire is Misfire.ALL:
        assert submitted == [START + count * MINUTE_MS for count in range(1, len(submitted) + 1)]


@given(
    st.sets(st.integers(0, 59), min_size=2, max_size=5),
    st.sampled_from([*Misfire]),
    st.integers(1, 90 * MINUTE_MS),
    st.sampled_from(["a", "b", "c", "d"]),
)
def test_slots_when_they_are_uneven_and_the_daemon_is_in_time_then_each_has_a_run(
    minutes: set[int], misfire: Misfire, jitter_ms: int, name: str
) -> None:
    timing = f"{','.join(map(str, sorted(minutes)))} * * * *"
    current = replace(schedule(timing, misfire=misfire), name=name, jitter_ms=jitter_ms)
    first = current.next_slot or 0
    submitted: list[int] = []
    while (due := due_at(current) or 0) < START + 3 * HOUR_MS:
        slots = due_slots(current, due)
        assert slots.missed is None
        assert all(slot <= due <= slot + jitter_ms for slot in slots.slots)
        submitted += slots.slots
        current = replace(current, passed=slots.passed, next_slot=slots.following)

    following = slots_of(timing, "UTC")
    expected = [first]
    while len(expected) < len(submitted):
        expected.append(following(expected[-1]) or 0)
    assert submitted == expected


def test_jitter_when_two_later_slots_are_closer_than_it_then_it_is_refused() -> None:
    with pytest.raises(InvalidParams, match="30m is not less than the time between two slots, 1m"):
        schedule("0,1 * * * *", START + MINUTE_MS - 1, jitter_ms=30 * MINUTE_MS)


def test_jitter_when_it_is_asked_again_then_it_is_the_same_and_differs_by_slot() -> None:
    spread = schedule("every 1h", jitter_ms=10 * MINUTE_MS)
    slots = [START + hour * HOUR_MS for hour in range(100)]

    delays = [jitter(spread, slot) for slot in slots]

    assert delays == [jitter(spread, slot) for slot in slots]
    assert all(0 <= delay <= 10 * MINUTE_MS for delay in delays)
    assert len(set(delays)) > 90


def test_schedule_when_it_is_paused_then_nothing_is_due() -> None:
    assert due_at(schedule(paused=True)) is None


def test_schedule_when_its_only_time_has_passed_then_nothing_is_due() -> None:
    once = schedule("at 2026-01-01T00:01")
    due = due_slots(once, START + MINUTE_MS)

    assert (due.slots, due.following) == ((START + MINUTE_MS,), None)
    assert due_at(replace(once, passed=due.passed, next_slot=due.following)) is None


NOON = START + 12 * HOUR_MS


@pytest.mark.parametrize(
    ("before", "changes", "passed", "slot", "skipped"),
    [
        ({}, {}, START, START + HOUR_MS, None),
        ({}, {"timing": "every 2h"}, NOON, NOON + 2 * HOUR_MS, START + HOUR_MS),
        ({}, {"zone": "Europe/Berlin"}, NOON, NOON + HOUR_MS, START + HOUR_MS),
        ({}, {"paused": True}, NOON, NOON + HOUR_MS, START + HOUR_MS),
        ({"owner_uid": 2}, {}, NOON, NOON + HOUR_MS, START + HOUR_MS),
        ({"paused": True}, {}, NOON, NOON + HOUR_MS, None),
        ({"next_slot": NOON + 1}, {}, NOON, NOON + HOUR_MS, None),
        ({"next_slot": None}, {}, NOON, NOON + HOUR_MS, None),
    ],
    ids=[
        "same times",
        "other times",
        "other zone",
        "paused",
        "other owner",
        "was paused",
        "none waits",
        "none is left",
    ],
)
def test_slot_when_it_waits_and_its_schedule_is_replaced_then_it_is_kept_or_named(
    before: dict[str, Any], changes: dict[str, Any], passed: int, slot: int, skipped: int | None
) -> None:
    old = replace(schedule("every 1h", jitter_ms=MINUTE_MS), last_job=7, last_slot=START, **before)
    new = schedule(**{"timing": "every 1h", **changes}, now=NOON)

    kept, named = taken_over(old, new, NOON)

    assert (kept.passed, kept.next_slot, named) == (passed, slot, skipped)
    assert (kept.last_job, kept.last_slot, kept.created_at) == (7, START, START)


def test_schedule_when_it_is_new_then_it_is_as_it_was_sent() -> None:
    assert taken_over(None, schedule(), START) == (schedule(), None)


def test_slots_when_they_are_passed_over_then_the_next_is_behind_now() -> None:
    resting = schedule()
    assert pass_over(resting, START + HOUR_MS).next_slot == START + HOUR_MS + MINUTE_MS
    assert pass_over(resting, START - HOUR_MS).next_slot == START - HOUR_MS + MINUTE_MS


def test_window_when_it_holds_too_many_slots_then_the_count_stops() -> None:
    long = schedule("* * * * *", catch_up_ms=366 * 24 * HOUR_MS)

    assert caught_up(long, START) == MOST_CAUGHT_UP + 1
    assert caught_up(schedule(), START) == 60
    assert caught_up(schedule("at 2026-01-01T00:01"), START) == 1


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"overlap": Overlap.SUPERSEDE, "job": None, "flow": {"name": "f"}}, "overlap"),
        ({"overlap": Overlap.QUEUE, "job": None, "flow": {"name": "f"}}, "overlap"),
        ({"job": None}, "job"),
        ({"start": ("a",)}, "from"),
        ({"reuse": "latest"}, "reuse"),
        ({"jitter_ms": MINUTE_MS}, "jitter_ms"),
        ({"misfire": Misfire.ALL, "catch_up_ms": 366 * 24 * HOUR_MS}, "catch_up_ms"),
    ],
    ids=str,
)
def test_schedule_when_its_policies_contradict_each_other_then_the_field_is_named(
    fields: dict[str, Any], path: str
) -> None:
    sent = {"name": "n", "timing": "* * * * *", "job": WORK, **fields}
    with pytest.raises(InvalidParams) as caught:
        checked(ScheduleParams(**sent), 1, START)

    assert caught.value.details["path"] == path


@pytest.mark.parametrize("part", [{}, {"target": ("a",), "start": ("b",), "reuse": 7}], ids=["all", "part"])
def test_schedule_when_it_is_made_then_it_has_the_part_that_was_sent(part: dict[str, Any]) -> None:
    made = checked(ScheduleParams(name="n", timing="@daily", flow={"name": "f"}, **part), 1, START)

    assert made.flow_part == FlowPart(**part)
    assert (made.part is None) == (not part)


def test_schedule_when_it_comes_once_then_any_jitter_fits() -> None:
    assert schedule("at 2026-01-01T00:01", jitter_ms=HOUR_MS).jitter_ms == HOUR_MS


def test_schedule_when_it_submits_a_workflow_then_its_flow_is_kept() -> None:
    flowing = schedule_of(ScheduleParams(name="n", timing="@daily", flow={"name": "f"}), 1, START)
    assert (flowing.job, flowing.flow) == (None, '{"name":"f"}')


def test_key_when_a_run_has_one_then_it_names_the_schedule_and_the_slot() -> None:
    assert Origin("nightly", START).key == "schedule/nightly/2026-01-01T00:00:00Z"
    assert Origin("nightly", START, "a1").key == "schedule/nightly/2026-01-01T00:00:00Z/a1"
