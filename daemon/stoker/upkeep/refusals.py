"""The reasons to refuse all requests that change something: safe mode, a lost state directory, a full disk.

The disk is full while a commit waits for free space. Requests that only read are answered.
"""

from __future__ import annotations

from stoker.core.errors import DiskFull, StokerError
from stoker.engine.loop import Loop
from stoker.upkeep.housekeeping import Housekeeping
from stoker.upkeep.safe_mode import SafeModeSwitch

MAKE_ROOM_FIRST = (
    "free some space on its file system: work under way, limits and stops then go on; "
    "after that more room can be made: stoker purge --before 7d"
)
NO_ROOM = "the disk is full: nothing can be written, so nothing is decided until there is room"


class Refusals:
    def __init__(self, safe_mode: SafeModeSwitch, housekeeping: Housekeeping, loop: Loop) -> None:
        self._safe_mode = safe_mode
        self._housekeeping = housekeeping
        self._loop = loop

    def current(self) -> StokerError | None:
        if self._safe_mode.state is not None:
            return self._safe_mode.state.refusal()
        if self._housekeeping.lost is not None:
            return self._housekeeping.lost
        if self._loop.waiting:
            return DiskFull(NO_ROOM, hint=MAKE_ROOM_FIRST)
        return None

    def check(self) -> None:
        """Raises SafeMode, StateRefused or DiskFull."""
        if (refusal := self.current()) is not None:
            raise refusal
