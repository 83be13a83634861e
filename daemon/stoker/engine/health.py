"""Whether the daemon works: a read from the database, a turn of the loop, an answer of the launcher.

Owns the check behind `system.health` and behind the watchdog, which beats only when all three answered: a
process that merely exists is not healthy. Refuses repair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Check = Callable[[], Awaitable[object]]


class Health:
    """Named checks, each of which must answer within `patience_s`."""

    def __init__(self, checks: Mapping[str, Check], patience_s: float) -> None:
        self._checks = checks
        self._patience_s = patience_s

    async def look(self) -> dict[str, Any]:
        """{ok, checks: {name: "ok" or what is wrong}}."""
        answers = await asyncio.gather(*(self._ask(check) for check in self._checks.values()))
        found = dict(zip(self._checks, answers, strict=True))
        return {"ok": all(answer == "ok" for answer in answers), "checks": found}

    async def _ask(self, check: Check) -> str:
        try:
            await asyncio.wait_for(check(), self._patience_s)
        except TimeoutError:
            return f"no answer within {self._patience_s:g} s"
        except Exception as error:  # noqa: BLE001 - the boundary: whatever is wrong is the answer
            return f"{type(error).__name__}: {error}"
        return "ok"


async def beat(health: Health, signal: Callable[[], object], interval_s: float) -> None:
    """Give a sign of life each interval, as long as everything answers."""
    while True:
        # The cadence is the manager's: it counts the time between signs of life.
        await asyncio.sleep(interval_s)
        if (await health.look())["ok"]:
            signal()
