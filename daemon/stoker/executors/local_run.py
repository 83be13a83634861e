"""One run of a subprocess as its executor knows it, from the order to the acknowledgement of its outcome.

Owns the stop of a run: the ladder through its launcher, and the one sweep past it. Every stop of a run shares that
sweep, because it remembers processes that are found only once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from stoker.core.job.model import Identity
from stoker.core.job.run_id import RunId
from stoker.process import messages
from stoker.process.stopping import Deliver, Ladder, Sweep, SweepResult
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log


class LocalRun:
    """The state of one run until its outcome is acknowledged.

    `gone`: its tree is empty. `reassigned`: how to end it without its launcher, once that is known not to answer.
    `past_launcher`: stops that we carried out ourselves, past its launcher. `unstoppable`: pids that the kernel does
    not let us signal.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._sweep: Sweep | None = None
        self.exit: messages.Exited | None = None
        self.gone = False
        self.grace_ms: int | None = None
        self.ladder: Ladder | None = None
        self.past_launcher: list[asyncio.Task[SweepResult]] = []
        self.reassigned: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.unstoppable: list[int] = []

    def sweep_of(self, instance: str, identity: Identity | None, deliver: Deliver | None = None) -> Sweep:
        """The sweep of this run. `identity`: of its main process, where that is known."""
        if self._sweep is None:
            self._sweep = Sweep(instance, [self._run_id], refused=self.note_unstoppable, deliver=deliver)
        if identity is not None:
            self._sweep.add_main(self._run_id, identity)
        return self._sweep

    def living(self) -> list[int]:
        """Pids of it that the sweep has met and that live."""
        return [] if self._sweep is None else self._sweep.living()

    def stopped_past_launcher(self) -> bool:
        """Whether a sweep has signalled it. A sweep that is still searching has not caused its end."""
        return bool(self.past_launcher) and self._sweep is not None and self._sweep.signalled

    def note_unstoppable(self, pids: Sequence[int]) -> None:
        """The stop goes on, as the rest of the tree may end; the attempt stays open while these live."""
        if list(pids) != self.unstoppable:
            self.unstoppable = list(pids)
            if pids:
                name = RunId.parse(self._run_id)
                log(LogEvent.WORKER_UNSTOPPABLE, job=name.job_id, attempt=name.ordinal, pids=self.unstoppable)

    def end_ladder(self) -> None:
        if self.ladder is not None:
            self.ladder.end()
            self.ladder = None

    def close(self) -> None:
        self.end_ladder()
        if self._sweep is not None:
            self._sweep.close()
