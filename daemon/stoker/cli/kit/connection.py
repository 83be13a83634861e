"""The way to the daemon: a connection, one request, and patience while the daemon is full or being restarted.

Owns when to try again. Refuses it for a first contact with a daemon that is not there: that is said at once. One that
answered and then went away, that is starting or draining, or that has no place free is waited for, because jobs take
days and upgrades happen."""

from __future__ import annotations

import os
import time

from stoker.cli.kit import render
from stoker.core.errors import DaemonUnreachable, Draining, TooManyConnections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stoker.cli.kit.parser import Given
    from stoker.rpc.client import Client

PATIENCE_S = 120.0
CHEAPEST = "queue.list"  # answered from memory: whether anybody is there
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
PASSING = (DaemonUnreachable, Draining, TooManyConnections)


def connect(given: Given) -> Client:
    from stoker.rpc.client import Client  # noqa: PLC0415 - `checkpoint save` does without it

    return Client(given["socket"])


def call(given: Given, method: str, params: dict[str, Any]) -> Any:
    """One request and its result."""
    with connect(given) as client:
        return client.call(method, params)


def patiently(given: Given, action: Callable[[Client], Any], *, known: bool = False) -> Any:
    """What `action`, which only looks, gives; called again with a new connection when the daemon goes away under it.

    `known`: the daemon has answered before, so that it is waited for from the first.
    """
    client = connect(given)
    if not known:
        client.call(CHEAPEST)
    while True:
        with client:
            try:
                return action(client)
            except (*PASSING, ConnectionResetError):
                pass
        client = _reconnect(given)


def _reconnect(given: Given) -> Client:
    """A connection to the daemon once it is back. Raises what it met last when that takes too long."""
    render.note("the daemon went away; waiting for it to come back")
    patience = Patience(PATIENCE_S)
    while True:
        patience.pause()
        client = connect(given)
        try:
            client.call(CHEAPEST)
        except PASSING:
            if patience.over:
                raise
        else:
            return client


class Patience:
    """Pauses between attempts, longer and longer, never all alike, and the moment to give up."""

    def __init__(self, seconds: float) -> None:
        self._give_up = time.monotonic() + seconds
        self._pause_s = FIRST_PAUSE_S

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._give_up

    def pause(self) -> None:
        # Who was refused together must not come back together.
        time.sleep(self._pause_s * (0.5 + os.urandom(1)[0] / 256))
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
