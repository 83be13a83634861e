"""The decision that all running jobs wait for jobs that are queued behind them, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from stoker.core.explain import explain
from stoker.core.job.model import Queue
from stoker.core.job_facts import JobFacts
from stoker.core.standstill import Standing, Standstill, Wait, standstill
from tests.support.jobs import NOW, job

NINE, TEN, FLOW = Wait(jobs=(9,)), Wait(jobs=(10,)), Wait(workflow=3)
QUEUED = Standing(queues=frozenset({"bulk"}))
ELSEWHERE = Standing(queues=frozenset({"bulk", "other"}))
HELD_UP = Standing(held_up=True)


def judged(waits: Mapping[int, Sequence[Wait]], **standings: Standing) -> Standstill | None:
    known = {NINE: standings.get("nine", QUEUED), TEN: standings.get("ten", QUEUED), FLOW: QUEUED}
    return standstill("bulk", waits, known, ["bulk"])


def test_standstill_when_all_wait_for_jobs_behind_them_then_it_names_each() -> None:
    found = judged({5: [NINE], 6: [FLOW]})

    assert str(found) == (
        "all 2 running jobs of queue 'bulk' wait for jobs that are queued behind them: "
        "job 5 waits for job 9, job 6 waits for workflow 3"
    )
    assert found is not None
    assert found.remedy.startswith("stoker queue set bulk --max-running 3; ")


def test_standstill_when_queues_block_each_other_then_it_names_both() -> None:
    known = {NINE: QUEUED, TEN: Standing(queues=frozenset({"other"}))}

    found = standstill("bulk", {5: [TEN], 6: [NINE], 7: [NINE]}, known, ["bulk", "other"], {"other": 2})

    assert str(found).startswith(
        "all 3 running jobs of queues 'bulk', 'other' wait for jobs that are queued behind them: job 5 waits for job 10"
    )
    assert found is not None
    assert found.remedy.startswith("stoker queue set bulk --max-running 2; ")


@pytest.mark.parametrize(
    "nine",
    [
        Standing(),
        Standing(queues=frozenset({"bulk"}), moves=True),
        Standing(held_up=True, moves=True),
        ELSEWHERE,
    ],
)
def test_standstill_when_what_one_waits_for_may_end_then_there_is_none(nine: Standing) -> None:
    assert judged({5: [NINE], 6: [TEN]}, nine=nine) is None
    assert judged({5: [TEN, NINE], 6: [TEN]}, nine=nine) is None


def test_standstill_when_one_job_does_not_wait_then_there_is_none() -> None:
    assert judged({5: [NINE], 6: []}) is None
    assert judged({}) is None


def test_standstill_when_one_waits_for_another_that_waits_then_both_belong_to_it() -> None:
    assert judged({5: [NINE], 9: [TEN]}, nine=HELD_UP) is not None
    assert judged({9: [TEN], 10: [NINE]}, nine=HELD_UP, ten=HELD_UP) is None  # nothing is queued behind them


def test_standstill_when_it_is_that_of_the_daemon_then_the_remedy_is_its_setting() -> None:
    found = standstill(
        None, {5: [Wait(jobs=tuple(range(11, 18)))]}, {Wait(jobs=tuple(range(11, 18))): QUEUED}, ["bulk"]
    )

    assert str(found) == (
        "the only running job waits for jobs that are queued behind it: "
        "job 5 waits for jobs 11, 12, 13, 14, 15 and 2 more"
    )
    assert found is not None
    assert found.remedy.startswith("set [daemon] max_running to 2 or more, then: stoker config reload; ")


def test_standstill_when_many_jobs_wait_then_the_sentence_stays_short() -> None:
    assert str(judged({job_id: [NINE] for job_id in range(21, 28)})).endswith(
        "job 24 waits for job 9, job 25 waits for job 9, and 2 more jobs"
    )


@pytest.mark.parametrize("full", [{"queue_running": 2}, {"running": 2, "slots": 2}])
def test_why_when_all_running_jobs_wait_then_they_are_named_in_place_of_the_limit(full: Mapping[str, int]) -> None:
    found = judged({5: [NINE], 6: [FLOW]})

    blocker = explain(
        job(),
        JobFacts(now=NOW, queue=Queue(name="bulk", max_running=2), standstill=found, **full),  # type: ignore[arg-type]
    )

    assert (blocker.code, blocker.message) == ("standstill", str(found))
    assert blocker.details == {
        "queue": "bulk",
        "waits": [{"job": 5, "jobs": [9], "workflow": None}, {"job": 6, "jobs": [], "workflow": 3}],
    }
