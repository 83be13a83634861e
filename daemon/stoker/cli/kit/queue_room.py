"""`--block`: waiting for room in a full queue, and until a limit of the user admits more.

The daemon answers when there is room, so the client does not poll; a limit of submits in a second says how long it
lasts. Room for bytes and schedules comes only when something is removed, so a wait could last for ever.

Owns the note about the wait, and its time limit.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stoker.cli.kit import render
from stoker.core.errors import QueueFull, QuotaReached, StokerError, WaitTimeout

if TYPE_CHECKING:
    from stoker.cli.kit.parser import Given
    from stoker.rpc.client import Client

# A client may be woken and end without a submit. The others find the free place when they ask again.
ONE_WAIT_MS = 60_000
ASKED = ("places", "places_in_all", "workflow")  # of `queue.wait`, as the error has them
AWAITED = ("max_queued", "max_workflows", "max_submits_per_s")  # the limits that pass by themselves


class RoomWait:
    """Waits for room as often as needed, until the time of `--patience` is over."""

    def __init__(self, given: Given) -> None:
        self._patience_ms: int | None = given["patience_ms"]
        self._since: float | None = None

    def awaits(self, error: StokerError) -> bool:
        """Whether it passes by itself."""
        return isinstance(error, QueueFull) or (isinstance(error, QuotaReached) and error.details["quota"] in AWAITED)

    def wait(self, client: Client, full: StokerError) -> int:
        """Return when there may be room, and for how many jobs. Raises `full` once patience is over."""
        if not self.awaits(full):
            raise full
        if self._since is None:
            self._since = time.monotonic()
            render.note(f"{full.message}; waiting for room")
        waited_ms = int((time.monotonic() - self._since) * 1_000)
        left_ms = ONE_WAIT_MS if self._patience_ms is None else self._patience_ms - waited_ms
        if left_ms <= 0:
            full.message = f"{full.message}; gave up"
            raise full
        if "queue" not in full.details:
            time.sleep(min(left_ms, full.details["retry_after_ms"]) / 1_000)
            return 1
        params = {"name": full.details["queue"], "timeout_ms": min(left_ms, ONE_WAIT_MS)}
        params |= {name: full.details[name] for name in ASKED if name in full.details}
        try:
            places: int = client.call("queue.wait", params, again=True, patient=True)["places"]
        except WaitTimeout:
            return 1  # the next submit finds out whether there is room
        return max(1, places)  # others may have been faster
