"""A client that repeats a request all the time, whatever happens to the daemon.

Owns its thread, its random numbers, and the counts of answers and refusals. Subclasses define the request (`step`).
Invariant: an error that no client should see ends it, and `finish` raises that error.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from stoker.core.errors import DaemonUnreachable, StokerError, StorageFailed
from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

NOT_TOLD = (DaemonUnreachable, StorageFailed)  # it is not known whether it was carried out; a later answer may show it


class Restless(threading.Thread):
    """Takes steps until it is stopped; while no daemon answers, it tries again after a moment."""

    def __init__(self, daemon: DaemonProcess, seed: str) -> None:
        super().__init__(name=seed, daemon=True)
        self._daemon = daemon
        self._broken: BaseException | None = None
        self.dice = random.Random(seed)
        self.enough = threading.Event()
        self.done: Counter[str] = Counter()

    def step(self, client: stoker.Client) -> None:
        """One request, which may raise `NOT_TOLD`."""
        raise NotImplementedError

    def run(self) -> None:
        with self._daemon.client() as client:
            while not self.enough.is_set():
                try:
                    self.step(client)
                except NOT_TOLD:
                    self.enough.wait(0.01)
                except BaseException as error:  # noqa: BLE001 - `finish` raises the error of the thread
                    self._broken = error
                    return

    def ask(self, client: stoker.Client, method: str, params: dict[str, Any]) -> None:
        """Send a request and count the answer or the refusal. A refusal that would be a bug is raised."""
        try:
            client.call(method, params)
            self.done[method] += 1
        except NOT_TOLD:
            raise
        except StokerError as error:
            if error.code == "internal":
                raise
            self.done[f"{method} refused: {error.code}"] += 1

    def finish(self) -> None:
        """Stop, and raise the error that ended the thread early, if there is one."""
        self.enough.set()
        self.join(DEADLINE_S)
        if self._broken is not None:
            raise self._broken
        assert not self.is_alive(), "the client hangs"
