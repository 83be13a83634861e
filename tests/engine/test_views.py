"""The view of a job is never ahead of its committed state."""

from __future__ import annotations

from stoker.core.job.model import Queue, State
from stoker.engine.memory import LiveState, OpenRun
from stoker.service.views import job_view
from tests.support.jobs import attempt, job


def memory(of: OpenRun) -> LiveState:
    live = LiveState({"default": Queue(name="default")}, {}, 7, 0)
    live.runs[of.job.id] = of
    return live


def test_job_when_memory_knows_its_pid_then_that_is_shown() -> None:
    running = job(State.RUNNING, attempts=1, pid=77)

    shown = job_view(job(State.RUNNING, attempts=1), memory(OpenRun(running, attempt(running))), 0, None, None)

    assert shown["pid"] == 77


def test_job_when_its_next_attempt_is_not_yet_committed_then_no_view_shows_it() -> None:
    ahead = job(State.RUNNING, attempts=2, pid=77)
    in_memory = memory(OpenRun(ahead, attempt(ahead)))

    for committed in (job(State.QUEUED, attempts=1), job(State.RUNNING, attempts=1)):
        shown = job_view(committed, in_memory, 0, None, None)

        assert (shown["state"], shown["attempts"], shown["pid"]) == (committed.state, 1, None)
