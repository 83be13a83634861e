"""The connection to the daemon, one request on it, and waiting while the daemon is full or restarts.

Owns when to try again. A daemon that does not answer the first contact is reported at once. A daemon that answered
before, that is starting or draining, or that has no free connection is waited for: jobs take days, and daemons are
upgraded meanwhile.
"""

from __future__ import annotations

import os
import time

from stoker import paths
from stoker.cli.kit import render
from stoker.core.errors import DaemonUnreachable, Draining, TooManyConnections

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stoker.cli.kit.parser import Given
    from stoker.rpc.client import Client

PATIENCE_S = 120.0
PROBE = "queue.list"  # answered from memory
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
TEMPORARY = (DaemonUnreachable, Draining, TooManyConnections)


def connect(given: Given) -> Client:
    from stoker.rpc.client import Client  # noqa: PLC0415 - `checkpoint save` does without it

    return Client(given["socket"])


def call(given: Given, method: str, params: dict[str, Any]) -> Any:
    with connect(given) as client:
        return client.call(method, params)


def state_dir(given: Given) -> str:
    """The state directory that was named, else that of the running daemon, else the usual one.

    A directory that the daemon named is `given` from then on, so that hints name it, too.
    """
    if given["state_dir"] is None:
        try:  # noqa: SIM105 - `submit` does without contextlib
            given["state_dir"] = str(call(given, "system.status", {})["state_dir"])
        except DaemonUnreachable:
            pass
    return paths.state_dir(given["state_dir"], os.environ, os.getuid())


def patiently(given: Given, action: Callable[[Client], Any], *, answered: bool = False) -> Any:
    """The result of `action`, which changes nothing: it is called again whenever the connection breaks.

    `answered`: the daemon has answered before, so wait for it even on the first contact.
    """
    client = connect(given)
    if not answered:
        client.call(PROBE)
    while True:
        with client:
            try:
                return action(client)
            except (*TEMPORARY, ConnectionResetError):
                pass
        client = _reconnect(given)


def _reconnect(given: Given) -> Client:
    """A new connection once the daemon is back. Raises the last error when that takes too long."""
    render.note("the daemon went away; waiting for it to come back")
    patience = Patience(PATIENCE_S)
    while True:
        patience.pause()
        client = connect(given)
        try:
            client.call(PROBE)
        except TEMPORARY:
            if patience.over:
                raise
        else:
            return client


class Patience:
    """Pauses between attempts, each longer than the last and with jitter, and the time to give up."""

    def __init__(self, seconds: float) -> None:
        self._give_up = time.monotonic() + seconds
        self._pause_s = FIRST_PAUSE_S

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._give_up

    def pause(self) -> None:
        # Jitter: clients that were refused at the same time must not return at the same time.
        time.sleep(self._pause_s * (0.5 + os.urandom(1)[0] / 256))
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
