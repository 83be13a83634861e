"""The runs that wait for the engine of a cluster, some of whose queues are full."""

from __future__ import annotations

from typing import Any

from stoker.core.job.model import Attempt, ExecutionMode, State
from stoker.executors.base import Start
from stoker.executors.cluster_line import FIRST_PAUSE_MS, LONGEST_PAUSE_MS, ClusterLine
from stoker.executors.cluster_run import ClusterRun
from tests.support import jobs


def waiting(line: ClusterLine, *runs: tuple[str, str]) -> list[ClusterRun]:
    """Put a run into the line for each name and queue."""
    made = []
    for name, queue in runs:
        job = jobs.job(State.RUNNING, asked=jobs.spec(execution_mode=ExecutionMode.CLUSTER, queue=queue), attempts=1)
        attempt = Attempt(run_id=name, job_id=job.id, ordinal=1, launcher="cluster", created_at=1)
        made.append(ClusterRun(name, Start(job, attempt)))
        line.add(made[-1])
    return made


def taken(line: ClusterLine, now: int, most: int = 8) -> list[str]:
    return [run.run_id for run in line.take(most, now)]


def test_line_when_a_queue_is_full_then_the_runs_of_others_go_on() -> None:
    line = ClusterLine()
    first, *_ = waiting(line, ("a", "full"), ("b", "full"), ("c", "free"), ("d", "full"))
    assert taken(line, 0, most=1) == ["a"]

    assert line.put_back(first, "full", "at most 2", 0)

    assert (line.full["full"].why, line.due_in_ms(500)) == ("at most 2", FIRST_PAUSE_MS - 500)
    assert taken(line, 1) == ["c"]


def test_line_when_the_pause_is_over_then_one_run_asks_again_and_pauses_double() -> None:
    line = ClusterLine()
    (first, _) = waiting(line, ("a", "full"), ("b", "full"))
    line.take(1, 0)
    line.put_back(first, "full", "at most 2", 0)

    now, pauses = 0, []
    for _ in range(7):
        pauses.append(line.due_in_ms(now))
        now += pauses[-1] or 0
        assert taken(line, now) == ["a"]
        assert not line.put_back(first, "full", "at most 2", now)

    assert pauses == [min(FIRST_PAUSE_MS * 2**power, LONGEST_PAUSE_MS) for power in range(7)]


def test_line_when_the_engine_takes_jobs_again_then_all_go_in_their_order() -> None:
    line = ClusterLine()
    runs = waiting(line, ("a", "full"), ("b", "full"), ("c", "full"))
    for run in reversed(line.take(2, 0)):
        line.put_back(run, "full", "at most 2", 0)
    assert taken(line, 1) == []

    assert line.reopen("full")

    assert taken(line, 1) == [run.run_id for run in runs]
    assert (line.reopen("full"), dict(line.full), line.due_in_ms(1)) == (False, {}, None)


def test_line_when_all_runs_of_a_full_queue_were_stopped_then_none_asks() -> None:
    line = ClusterLine()
    (first,) = waiting(line, ("a", "full"))
    line.take(1, 0)
    line.put_back(first, "full", "at most 2", 0)
    first.start = None

    assert line.unasked(FIRST_PAUSE_MS - 1) == []
    assert taken(line, FIRST_PAUSE_MS) == []
    assert line.unasked(FIRST_PAUSE_MS) == ["full"]


def test_line_when_a_run_was_stopped_then_it_is_not_handed_over() -> None:
    line = ClusterLine()
    first: Any = waiting(line, ("a", "free"), ("b", "free"))[0]
    first.start = None

    assert taken(line, 0) == ["b"]
