"""Limits of time of nested workflows and of whole ones: when they begin, and which of them has passed."""

from __future__ import annotations

import pytest

from stoker.core.clock import Now
from stoker.core.workflow.definition import FlowLimits
from stoker.core.workflow.inner_limits import InnerLimit, TimeLimit, begun, in_words, passed

NOW = Now(wall=1_000, steady=50)


def test_limit_when_it_begins_then_only_the_deadline_counts() -> None:
    assert begun(FlowLimits(timeout_ms=5, deadline_ms=7), NOW) == InnerLimit(deadline=1_007)
    assert begun(FlowLimits(timeout_ms=5), NOW) == InnerLimit()


@pytest.mark.parametrize(
    ("deadline", "expires_at", "found"),
    [
        (None, None, None),
        (1_001, 51, None),
        (1_000, 51, TimeLimit.DEADLINE),
        (1_001, 50, TimeLimit.TIMEOUT),
        (1_000, 50, TimeLimit.DEADLINE),
    ],
)
def test_limit_when_its_time_has_come_then_it_has_passed(
    deadline: int | None, expires_at: int | None, found: TimeLimit | None
) -> None:
    assert passed(deadline, expires_at, NOW) is found


def test_limit_when_it_is_shown_then_the_words_are_those_of_the_file() -> None:
    limits = FlowLimits(timeout_ms=500, deadline_ms=700)

    assert [in_words(limits, one) for one in TimeLimit] == ["timeout_ms = 500", "deadline_ms = 700"]
