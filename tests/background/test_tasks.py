"""Background tasks: a failure is tried again or ends the daemon, and is always logged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stoker.background import tasks
from stoker.background.tasks import BackgroundTasks
from tests.support.facts import until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)


def failing(times: int, then: str = "done") -> Callable[[], Coroutine[None, None, str]]:
    """Work that fails so often before it succeeds."""
    left = iter(range(times))

    async def work() -> str:
        for number in left:
            raise OSError(24, f"no descriptor, {number}")
        return then

    return work


async def stay() -> None:
    await asyncio.Event().wait()


async def test_task_when_it_is_retried_then_it_runs_until_it_succeeds() -> None:
    background = BackgroundTasks()

    assert await background.retry("work", failing(3)) == "done"

    assert not background.failed.done()
    assert background.retrying == {}


async def test_task_when_it_waits_for_its_next_try_then_its_last_error_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 3_600.0)
    background = BackgroundTasks()

    background.retry("work", failing(1))

    await until_async(lambda: background.retrying, why="a task that waits")
    assert background.retrying == {"work": "OSError: [Errno 24] no descriptor, 0"}
    await background.close()
    assert background.retrying == {}


async def test_task_when_it_may_not_fail_and_does_then_that_is_the_end_of_the_daemon() -> None:
    background = BackgroundTasks()

    task = background.group().start("work", failing(1)())
    await asyncio.wait({task})

    with pytest.raises(OSError, match="no descriptor"):
        background.failed.result()


@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt()])
async def test_failure_when_it_is_no_exception_then_it_is_reported_like_one(error: BaseException) -> None:
    background = BackgroundTasks()

    background.fail("work", error)

    with pytest.raises(type(error)):
        background.failed.result()


async def test_close_when_tasks_run_then_all_end_and_the_daemon_goes_on() -> None:
    background = BackgroundTasks()
    running = [background.start("one", stay()), background.group().start("two", stay())]
    running.append(background.retry("three", stay))

    await background.close()
    await background.close()

    assert all(task.cancelled() for task in running)
    assert not background.failed.done()


async def test_group_when_it_is_closed_then_the_others_go_on() -> None:
    background = BackgroundTasks()
    group = background.group()
    other, ours = background.start("other", stay()), group.start("ours", stay())

    await group.close()

    assert ours.cancelled()
    assert not other.done()
    await background.close()


async def test_start_when_the_group_is_closed_then_the_task_only_ends() -> None:
    background = BackgroundTasks()
    await background.close()

    late = background.start("late", stay())

    await asyncio.wait([late])
    assert late.cancelled()


async def test_duty_when_the_host_fails_it_then_it_is_shown_until_its_next_turn() -> None:
    background = BackgroundTasks()
    left = iter(range(2))

    def duty() -> None:
        for _ in left:
            raise OSError(24, "no descriptor")

    shown = []
    for _ in range(3):
        background.perform("duty", duty, again_in_s=1.0)
        shown.append(background.retrying.get("duty"))

    assert shown == ["OSError: [Errno 24] no descriptor"] * 2 + [None]


async def test_duty_when_it_has_a_bug_then_that_is_not_taken_for_a_shortage() -> None:
    background = BackgroundTasks()

    def duty() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        background.perform("duty", duty, again_in_s=1.0)
