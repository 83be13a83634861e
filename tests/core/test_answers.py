"""The answers of commands on a job."""

from __future__ import annotations

import msgspec
import pytest

from stoker.core.answers import job_standing
from stoker.core.job.model import Reason, State
from tests.support.jobs import job


@pytest.mark.parametrize("state", State)
def test_standing_when_a_job_has_a_state_then_it_has_state_and_reason(state: State) -> None:
    of = job(state)
    answer = job_standing(of)
    assert (answer.id, answer.state, answer.reason) == (of.id, state, of.reason)


def test_standing_when_a_job_has_ended_then_it_has_the_end_and_later_runs() -> None:
    ended = job(State.FAILED, reason=Reason.EXIT, exit_code=3, superseded_by=9)
    assert msgspec.to_builtins(job_standing(ended, stopping=True, taken_up=[4, 5])) == {
        "id": ended.id,
        "state": "failed",
        "reason": "exit",
        "exit_code": 3,
        "signal": None,
        "superseded_by": 9,
        "stopping": True,
        "taken_up": (4, 5),
    }
