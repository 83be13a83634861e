"""How long each running attempt was frozen: limits on the run time do not count that time.

Owns the begin of each freeze and the sum of earlier ones (steady milliseconds); the executor does the freezing. Nothing
is stored: for an attempt of an earlier daemon the count begins at zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.engine.timers import Alarm


class Freezes:
    def __init__(self) -> None:
        self._since: dict[str, int] = {}
        self._before: Counter[str] = Counter()  # milliseconds of freezes that are over

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._since

    def run_ids(self) -> list[str]:
        """The attempts that are frozen now."""
        return list(self._since)

    def freeze(self, run_ids: Iterable[str], at: int) -> None:
        for run_id in run_ids:
            self._since.setdefault(run_id, at)

    def thaw(self, run_ids: Iterable[str], at: int) -> None:
        for run_id in run_ids:
            if run_id in self._since:
                self._before[run_id] += at - self._since.pop(run_id)

    def frozen_ms(self, run_id: str, at: int) -> int:
        """The frozen time in all, until `at`."""
        return self._before[run_id] + (at - self._since.get(run_id, at))

    def forget(self, run_id: str) -> None:
        self._since.pop(run_id, None)
        self._before.pop(run_id, None)

    def postponed(self, alarm: Alarm, now: Now) -> Alarm | None:
        """The alarm, later by the frozen time that was not added yet; None if there was no such time."""
        frozen_ms = self.frozen_ms(alarm.run_id, now.steady)
        if frozen_ms <= alarm.granted_ms:
            return None
        return replace(alarm, at=alarm.at + frozen_ms - alarm.granted_ms, granted_ms=frozen_ms)
