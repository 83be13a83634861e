"""The way to the daemon: a connection, one request, and patience while the daemon is being restarted.

Owns when to try again. Refuses it for a first contact: a daemon that was not there says so at once; one that
answered and then went away is waited for, because jobs take days and upgrades happen.
"""

from __future__ import annotations

from stoker.cli import render
from stoker.core.errors import DaemonUnreachable, Draining

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stoker.cli.options import Given
    from stoker.rpc.client import Client

PATIENCE_S = 120.0
CHEAPEST = "queue.list"  # answered from memory: whether anybody is there
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


def connect(given: Given) -> Client:
    from stoker.rpc.client import Client  # noqa: PLC0415 - `--help` and completions need no socket

    return Client(given["socket"])


def call(given: Given, method: str, params: dict[str, Any]) -> Any:
    """One request and its result."""
    with connect(given) as client:
        return client.call(method, params)


def patiently(given: Given, action: Callable[[Client], Any]) -> Any:
    """What `action`, which only looks, gives; called again with a new connection when the daemon goes away under it."""
    client = connect(given)
    client.call(CHEAPEST)
    while True:
        with client:
            try:
                return action(client)
            except (DaemonUnreachable, Draining, ConnectionResetError):
                pass
        client = _reconnect(given)


def _reconnect(given: Given) -> Client:
    """A connection to the daemon once it is back. Raises what it met last when that takes too long."""
    import time  # noqa: PLC0415 - only for those who wait

    render.note("the daemon went away; waiting for it to come back")
    give_up, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
    while True:
        time.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        client = connect(given)
        try:
            client.call(CHEAPEST)
        except (DaemonUnreachable, Draining):
            if time.monotonic() > give_up:
                raise
        else:
            return client
