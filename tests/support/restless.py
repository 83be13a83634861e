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

NOT_TOLD = (DaemonUnreachable, StorageFailed)  # whether it was done is not known; a later answer may tell


class Restless(threading.Thread):
    """Takes steps until told to stop; where no daemon answers it tries again in a moment."""

    def __init__(self, daemon: DaemonProcess, seed: str) -> None:
        super().__init__(name=seed, daemon=True)
        self._daemon = daemon
        self._broken: BaseException | None = None
        self.dice = random.Random(seed)
        self.enough = threading.Event()
        self.done: Counter[str] = Counter()

    def step(self, client: stoker.Client) -> None:
        """Ask something; `NOT_TOLD` may be raised by anything that is asked."""
        raise NotImplementedError

    def run(self) -> None:
        with self._daemon.client() as client:
            while not self.enough.is_set():
                try:
                    self.step(client)
                except NOT_TOLD:
                    self.enough.wait(0.01)
                except BaseException as error:  # noqa: BLE001 - a thread's end is told by `finish`
                    self._broken = error
                    return

    def ask(self, client: stoker.Client, method: str, params: dict[str, Any]) -> None:
        """A refusal is an answer too, unless it is a bug."""
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
        """Stop, and raise what ended the thread before its time."""
        self.enough.set()
        self.join(DEADLINE_S)
        if self._broken is not None:
            raise self._broken
        assert not self.is_alive(), "the client hangs"
