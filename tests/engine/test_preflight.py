"""Checks of commands before a job is stored: the result for one request does not depend on other requests."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.requests import JobWork
from stoker.engine.intake import CommandRequest
from stoker.host import programs
from stoker.service import preflight
from tests.support.clocks import SetClock
from tests.support.facts import until_async

if TYPE_CHECKING:
    from pathlib import Path

    from stoker.core.errors import StokerError


def ask(checks: preflight.Preflight, *jobs: JobWork) -> asyncio.Future[list[StokerError | None]]:
    """The problem of each command, without a check if it is known already."""
    request = CommandRequest[None](jobs)

    async def check() -> list[StokerError | None]:
        await checks.check(request)
        return list(request.problems)

    if not checks.check_known(request):
        return asyncio.ensure_future(check())
    answered: asyncio.Future[list[StokerError | None]] = asyncio.get_running_loop().create_future()
    answered.set_result(list(request.problems))
    return answered


async def problems_of(checks: preflight.Preflight, *names: str) -> list[bool]:
    """For each command, whether it has a problem."""
    return [problem is not None for problem in await ask(checks, *(JobWork(command=name) for name in names))]


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: SetClock) -> preflight.Preflight:
    monkeypatch.setattr(preflight, "PATIENCE_S", 60.0)
    monkeypatch.setattr(preflight, "KEEP_MANY", 2)
    (tmp_path / "tool").touch(mode=0o755)
    (tmp_path / "text").touch(mode=0o644)
    (tmp_path / "folder").mkdir()
    return preflight.Preflight(clock, f"/no/such/folder:{tmp_path}")


async def test_check_when_the_cache_is_full_then_the_answer_still_has_every_fact_it_needs(
    checks: preflight.Preflight,
) -> None:
    first = await problems_of(checks, "a", "b", "tool", "c")
    again = await problems_of(checks, "a", "b", "tool", "d")

    assert first == [True, True, False, True]
    assert again == [True, True, False, True]
    checks.close()


async def test_check_when_a_name_stands_for_no_program_then_that_is_reported(checks: preflight.Preflight) -> None:
    assert await problems_of(checks, "text", "folder", "tool") == [True, True, False]
    checks.close()


async def test_check_when_a_result_is_old_then_one_request_checks_it_again(
    checks: preflight.Preflight, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = DeadMount(monkeypatch)
    monkeypatch.setattr(preflight, "PATIENCE_S", 60.0)  # nothing hangs here, but a thread may start late
    await ask_in(checks, "/")
    for times in (2, 3):
        clock.steady += preflight.KEEP_MS + 1
        first, second = ask_in(checks, "/"), ask_in(checks, "/")

        assert (first.done(), second.done()) == (False, True)
        assert [*map(str, await first)] == [*map(str, second.result())] != ["None"]
        assert mount.asked == ["/"] * times
    checks.close()


class DeadMount:
    """File system checks as on a mount whose server is gone: those of `/dead...` hang until `back`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.back = threading.Event()
        self._problem = programs.problem
        monkeypatch.setattr(programs, "problem", self.problem)
        monkeypatch.setattr(preflight, "PATIENCE_S", 0.2)

    def problem(self, command: str, working_dir: str, path: str) -> programs.CommandProblem:
        self.asked.append(working_dir)
        if working_dir.startswith("/dead"):
            self.back.wait()
        return self._problem(command, working_dir, path)


def ask_in(checks: preflight.Preflight, directory: str) -> asyncio.Future[list[StokerError | None]]:
    """The future result for a missing program in that directory."""
    return ask(checks, JobWork(command="no-tool", working_dir=directory))


async def test_check_when_a_directory_hangs_then_it_is_not_asked_again_until_it_answers(
    checks: preflight.Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = DeadMount(monkeypatch)
    try:
        while not checks._hanging:
            assert await ask_in(checks, "/dead") == [None]
        again = ask_in(checks, "/dead")
        assert again.done()
        assert again.result() == [None]
        monkeypatch.setattr(preflight, "PATIENCE_S", 60.0)
        assert await ask_in(checks, "/") != [None]  # another directory is checked as usual
    finally:
        mount.back.set()

    await until_async(lambda: not checks._hanging)

    assert await ask_in(checks, "/dead") != [None]
    assert mount.asked == ["/dead", "/", "/dead"]
    checks.close()


async def test_check_when_every_thread_hangs_then_jobs_are_accepted_without_a_look(
    checks: preflight.Preflight, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = DeadMount(monkeypatch)
    try:
        while len(checks._hanging) < preflight.THREADS:
            await ask_in(checks, f"/dead/{len(checks._hanging)}")
        accepted = ask_in(checks, "/")
        assert accepted.done()
        assert accepted.result() == [None]
        assert mount.asked == ["/dead/0", "/dead/1"]
    finally:
        mount.back.set()

    await until_async(lambda: not checks._hanging)

    monkeypatch.setattr(preflight, "PATIENCE_S", 60.0)
    assert await ask_in(checks, "/") != [None]
    checks.close()
