"""How long each running attempt was frozen: limits of the run time do not count that time.

Owns when a freeze began and how long earlier ones took (steady milliseconds). The executor does the freezing. Nothing
here is stored: for an adopted attempt the count begins again at zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.engine.timers import Alarm


class Freezes:
    """By run id."""

    def __init__(self) -> None:
        self._since: dict[str, int] = {}
        self._before: Counter[str] = Counter()  # milliseconds of freezes that are over

    def __contains__(self, run_id: str) -> bool:
        """Whether it is frozen now."""
        return run_id in self._since

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
        """A limit of the run time, later by the frozen time that it was not given yet; None where that is none."""
        frozen_ms = self.frozen_ms(alarm.run_id, now.steady)
        if frozen_ms <= alarm.granted_ms:
            return None
        return replace(alarm, at=alarm.at + frozen_ms - alarm.granted_ms, granted_ms=frozen_ms)
