"""Whether the daemon works: a read from the database, a turn of the loop, an answer of the launcher.

Owns the check behind `system.health` and behind the watchdog, which beats only when all three answered: a
process that merely exists is not healthy. Refuses repair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Check = Callable[[], Awaitable[object]]

PATIENCE_S = 5.0


class Health:
    """Named checks, each of which must answer in time."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    async def look(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """{ok, checks: {name: "ok" or what is wrong}}."""
        answers = await asyncio.gather(*(_ask(check, patience_s) for check in self._checks.values()))
        found = dict(zip(self._checks, answers, strict=True))
        return {"ok": all(answer == "ok" for answer in answers), "checks": found}


async def _ask(check: Check, patience_s: float) -> str:
    try:
        await asyncio.wait_for(check(), patience_s)
    except TimeoutError:
        return f"no answer within {patience_s:g} s"
    except Exception as error:  # noqa: BLE001 - the boundary: whatever is wrong is the answer
        return f"{type(error).__name__}: {error}"
    return "ok"
