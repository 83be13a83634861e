"""The series of the load: stretches, gaps, a clock that is set, and many queues."""

from __future__ import annotations

from msgspec.structs import replace

from stoker.core.load import INTERVAL_MS, KEPT_MS, MOST_QUEUES, Load, QueueLoad, Stretch, appended, busiest

CALM = Load(cpu=3, memory_free_bytes=None, throttled=False, running=0, slots=4, queues=())
BUSY = replace(CALM, cpu=80, running=4)
T = 1_700_000_000_000


def series(*samples: tuple[Load, int]) -> tuple[Stretch, ...]:
    made: tuple[Stretch, ...] = ()
    for load, at in samples:
        made = appended(made, load, at)
    return made


def test_series_when_nothing_changes_then_it_is_one_stretch() -> None:
    assert series((CALM, T), (CALM, T + INTERVAL_MS), (CALM, T + 2 * INTERVAL_MS)) == (
        Stretch(T, T + 2 * INTERVAL_MS, CALM),
    )


def test_series_when_the_load_changes_then_each_sample_stands_alone() -> None:
    made = series((CALM, T), (BUSY, T + INTERVAL_MS), (CALM, T + 2 * INTERVAL_MS))

    assert [(one.since, one.load) for one in made] == [
        (T, CALM),
        (T + INTERVAL_MS, BUSY),
        (T + 2 * INTERVAL_MS, CALM),
    ]


def test_series_when_the_host_slept_then_the_same_load_begins_anew_after_the_gap() -> None:
    later = T + 10 * INTERVAL_MS

    assert series((CALM, T), (CALM, later)) == (Stretch(T, T, CALM), Stretch(later, later, CALM))


def test_series_when_an_hour_has_passed_then_older_stretches_are_gone() -> None:
    made = series((CALM, T), (BUSY, T + KEPT_MS), (CALM, T + KEPT_MS + 1))

    assert [one.since for one in made] == [T + KEPT_MS, T + KEPT_MS + 1]


def test_series_when_the_clock_is_set_back_then_nothing_is_ahead_of_it() -> None:
    assert series((CALM, T), (BUSY, T - KEPT_MS)) == (Stretch(T - KEPT_MS, T - KEPT_MS, BUSY),)


def test_busiest_when_there_are_more_queues_than_shown_then_the_others_are_one_sum() -> None:
    idle, many = QueueLoad("idle", 0, 0), [QueueLoad(f"q{n:03}", n, 1) for n in range(MOST_QUEUES + 3)]

    shown = busiest([idle, *many])

    assert shown[:-1] == tuple(many[3:])
    assert shown[-1] == QueueLoad(None, 0 + 1 + 2, 3)


def test_busiest_when_all_queues_fit_then_there_is_no_sum() -> None:
    queues = [QueueLoad("b", 1, 0), QueueLoad("a", 0, 7)]

    assert busiest(queues) == (queues[1], queues[0])
