"""The record of what was denied: a line of the log and a counter.

Owns how often a line is written: one a second for each user, with the number of those before it, so that a client that
keeps trying cannot fill the log. The users are remembered in a bounded table.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from stoker.core.errors import StokerError
from stoker.rpc.peer import Peer
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

LINE_S = 1.0
MOST_USERS = 1_024


class Denials:
    """`count`: called for each."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count
        self._unlogged: OrderedDict[int, tuple[float, int]] = OrderedDict()  # by uid: time of the next line, and since

    def note(self, peer: Peer, method: str, error: StokerError) -> None:
        self._count()
        now = time.monotonic()
        due, number = self._unlogged.pop(peer.uid, (0.0, 0))
        if now < due:
            self._unlogged[peer.uid] = due, number + 1
            return
        log(
            LogEvent.ACCESS_DENIED,
            method=method,
            uid=peer.uid,
            pid=peer.pid,
            role=peer.role.word,
            error=error,
            denied=number + 1,
        )
        self._unlogged[peer.uid] = now + LINE_S, 0
        while len(self._unlogged) > MOST_USERS:
            self._unlogged.popitem(last=False)
