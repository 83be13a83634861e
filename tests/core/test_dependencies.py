"""The ends of a needed job that meet a need: the whole table of three needs and ten states."""

from __future__ import annotations

import pytest

from stoker.core.job.dependencies import (
    NeedStanding,
    all_failed,
    all_met,
    graver,
    need_failed,
    need_met,
    watches_failure,
)
from stoker.core.job.events import NeedFailed
from stoker.core.job.model import NeedOn, Reason, State, When
from tests.support.jobs import job

# T: met. F: never can be. -: still open.
EXPECTED = """
       waiting queued running held succeeded failed cancelled expired superseded skipped
ok     -       -      -       -    T         F      F         F       F          T
failed -       -      -       -    F         T      T         T       F          F
any    -       -      -       -    T         T      T         T       T          T
"""
MEANING = {"T": True, "F": False, "-": None}


def cells() -> list[tuple[NeedOn, State, bool | None]]:
    header, *rows = [line.split() for line in EXPECTED.strip().splitlines()]
    return [
        (NeedOn(row[0]), State(state), MEANING[cell])
        for row in rows
        for state, cell in zip(header, row[1:], strict=True)
    ]


@pytest.mark.parametrize(("on", "state", "met"), cells())
def test_need_when_the_needed_job_stands_somewhere_then_the_table_holds(
    on: NeedOn, state: State, *, met: bool | None
) -> None:
    assert need_met(on, job(state)) is met


@pytest.mark.parametrize(("on", "met"), [(NeedOn.OK, False), (NeedOn.FAILED, False), (NeedOn.ANY, True)])
def test_need_when_the_needed_job_was_skipped_for_its_own_needs_then_it_is_not_ok(on: NeedOn, *, met: bool) -> None:
    assert need_met(on, job(State.SKIPPED, reason=Reason.DEPENDENCY)) is met


def test_expectations_when_counted_then_every_need_meets_every_state() -> None:
    assert {(on, state) for on, state, _ in cells()} == {(on, state) for on in NeedOn for state in State}


@pytest.mark.parametrize(
    ("on", "needed", "reason"),
    [
        (NeedOn.OK, Reason.EXIT, Reason.DEPENDENCY),
        (NeedOn.FAILED, Reason.EXIT, Reason.NOT_NEEDED),
        (NeedOn.OK, Reason.NOT_NEEDED, Reason.NOT_NEEDED),
        (NeedOn.ANY, Reason.DEPENDENCY, Reason.DEPENDENCY),
    ],
)
def test_skip_when_a_need_cannot_be_met_then_the_reason_tells_a_failure_from_no_need(
    on: NeedOn, needed: Reason, reason: Reason
) -> None:
    other = job(State.FAILED, reason=needed)

    assert need_failed(on, other) == NeedFailed(needed=other.id, on=on, reason=reason)


@pytest.mark.parametrize("order", [1, -1])
def test_skip_when_two_needs_cannot_be_met_then_a_failure_counts_in_each_order(order: int) -> None:
    reasons = (Reason.NOT_NEEDED, Reason.DEPENDENCY)[::order]
    one, other = (NeedFailed(needed=index, on=NeedOn.OK, reason=reason) for index, reason in enumerate(reasons))

    assert graver(graver(None, one), other).reason is Reason.DEPENDENCY


DONE = NeedStanding(State.SUCCEEDED, Reason.EXIT)
BY_HAND = NeedStanding(State.SKIPPED, Reason.USER)
FAILED = NeedStanding(State.FAILED, Reason.EXIT)
BLOCKED = NeedStanding(State.SKIPPED, Reason.DEPENDENCY)
NOT_NEEDED = NeedStanding(State.SKIPPED, Reason.NOT_NEEDED)


@pytest.mark.parametrize("on", list(NeedOn))
@pytest.mark.parametrize("needed", [DONE, BY_HAND, FAILED, NOT_NEEDED])
def test_need_of_a_step_when_no_failure_skipped_it_then_it_is_as_of_a_job(on: NeedOn, needed: NeedStanding) -> None:
    assert need_met(on, needed, When.EACH) is need_met(on, needed)


@pytest.mark.parametrize(("on", "met"), [(NeedOn.OK, False), (NeedOn.FAILED, True), (NeedOn.ANY, True)])
def test_need_of_a_step_when_a_failure_skipped_it_then_it_counts_as_failed(on: NeedOn, *, met: bool) -> None:
    assert need_met(on, BLOCKED, When.EACH) is met


@pytest.mark.parametrize(
    ("needed", "any_ok", "any_failed"),
    [
        ([DONE, DONE], True, False),
        ([DONE, FAILED], True, True),
        ([BY_HAND, BLOCKED], True, True),
        ([FAILED, FAILED], False, True),
        ([NOT_NEEDED, NOT_NEEDED], False, False),
    ],
)
def test_set_when_each_need_has_ended_then_one_of_them_is_enough(
    needed: list[NeedStanding], *, any_ok: bool, any_failed: bool
) -> None:
    assert all_met(When.ANY_OK, needed) is any_ok
    assert all_met(When.ANY_FAILED, needed) is any_failed
    assert all_met(When.EACH, needed)


@pytest.mark.parametrize(
    ("when", "needed", "reason"),
    [
        (When.ANY_FAILED, [DONE, DONE], Reason.NOT_NEEDED),
        (When.ANY_OK, [FAILED, NOT_NEEDED], Reason.DEPENDENCY),
        (When.ANY_OK, [NOT_NEEDED, NOT_NEEDED], Reason.NOT_NEEDED),
    ],
)
def test_set_when_it_cannot_be_met_then_the_reason_tells_a_failure_from_no_need(
    when: When, needed: list[NeedStanding], reason: Reason
) -> None:
    assert all_failed(when, 7, needed) == NeedFailed(needed=7, on=NeedOn.ANY, reason=reason)


@pytest.mark.parametrize(
    ("on", "when", "watches"),
    [
        (NeedOn.OK, When.EACH, False),
        (NeedOn.FAILED, When.EACH, True),
        (NeedOn.ANY, None, True),
        (NeedOn.ANY, When.ANY_OK, False),
        (NeedOn.ANY, When.ANY_FAILED, True),
    ],
)
def test_need_when_a_failure_lets_the_step_start_then_the_step_is_a_handler(
    on: NeedOn, when: When | None, *, watches: bool
) -> None:
    assert watches_failure(on, when) is watches
