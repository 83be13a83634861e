"""The health check: a read from the database, a turn of the loop, an answer of the launcher.

`system.health` reports it, and the watchdog gives a sign of life only if all three succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.core.daemon_views import HealthView

Check = Callable[[], Awaitable[object]]

PATIENCE_S = 5.0


class Health:
    """Named checks, each of which must answer in time."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    async def check(self, patience_s: float = PATIENCE_S) -> HealthView:
        """Run all checks; the result has "ok" or the error of each."""
        results = await asyncio.gather(*(_run(check, patience_s) for check in self._checks.values()))
        return {
            "ok": all(result == "ok" for result in results),
            "checks": dict(zip(self._checks, results, strict=True)),
        }


async def _run(check: Check, patience_s: float) -> str:
    try:
        await asyncio.wait_for(check(), patience_s)
    except TimeoutError:
        return f"no answer within {patience_s:g} s"
    except Exception as error:  # noqa: BLE001 - a service boundary: the error is the result
        return f"{type(error).__name__}: {error}"
    return "ok"
