"""The ends of a needed job that meet a need: the whole table of three needs and ten states."""

from __future__ import annotations

import pytest

from stoker.core.job.dependencies import need_failed, need_met
from stoker.core.job.events import NeedFailed
from stoker.core.job.model import NeedOn, Reason, State
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
