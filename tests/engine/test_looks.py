"""The look at commands before a job is stored: what one request is told does not depend on what others ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Now
from stoker.core.requests import JobWork
from stoker.engine import preflight

if TYPE_CHECKING:
    from pathlib import Path

    from stoker.core.errors import StokerError


class Standing:
    """A clock on which no time passes."""

    def now(self) -> Now:
        return Now(0, 0)


async def told(checks: preflight.Preflight, *names: str) -> list[bool]:
    """For each of the commands, whether something speaks against it."""
    answered: asyncio.Future[list[StokerError | None]] = asyncio.get_running_loop().create_future()
    checks.find([JobWork(command=name) for name in names], answered.set_result)
    return [problem is not None for problem in await answered]


@pytest.fixture
async def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> preflight.Preflight:
    monkeypatch.setattr(preflight, "PATIENCE_S", 60.0)
    monkeypatch.setattr(preflight, "KEEP_MANY", 2)
    (tmp_path / "tool").touch(mode=0o755)
    (tmp_path / "text").touch(mode=0o644)
    (tmp_path / "folder").mkdir()
    return preflight.Preflight(Standing(), f"/no/such/folder:{tmp_path}", BackgroundTasks())


async def test_find_when_much_was_looked_at_then_what_this_request_relies_on_is_told_all_the_same(
    checks: preflight.Preflight,
) -> None:
    first = await told(checks, "a", "b", "tool", "c")
    again = await told(checks, "a", "b", "tool", "d")

    assert first == [True, True, False, True]
    assert again == [True, True, False, True]
    checks.close()


async def test_find_when_a_name_stands_for_no_program_then_that_is_told(checks: preflight.Preflight) -> None:
    assert await told(checks, "text", "folder", "tool") == [True, True, False]
    checks.close()
