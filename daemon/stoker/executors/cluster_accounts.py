"""The accounts of a cluster's engine, about runs that it lists no more: it forgets a job minutes after its end.

Owns when they are asked: only about runs that a node began, that left no record, and that nothing else can tell of. A
cluster without accounts answers nothing, and nothing is concluded from that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any

from stoker.cluster.engine import ClusterEngine, EngineAway, EngineRefused
from stoker.core.clock import boot_ms
from stoker.executors.cluster_run import ClusterRun

AGAIN_MS = 30_000
AT_ONCE = 5_000  # numbers in one argument, which may have 128 KiB


class ClusterAccounts:
    """`in_thread` calls a function in a thread."""

    def __init__(self, engine: ClusterEngine, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._engine = engine
        self._in_thread = in_thread
        self._ask_at = 0

    async def ask(self, runs: Iterable[ClusterRun]) -> None:
        """Note the ends of the runs that the engine has forgotten."""
        if boot_ms() < self._ask_at:
            return
        forgotten = {run.number: run for run in islice((run for run in runs if run.is_forgotten), AT_ONCE)}
        if not forgotten:
            return
        self._ask_at = boot_ms() + AGAIN_MS
        try:
            ended = await self._in_thread(
                self._engine.accounts, {number: run.run_id for number, run in forgotten.items()}
            )
        except (EngineAway, EngineRefused):  # it keeps none, or they do not answer
            return
        for job in ended:
            forgotten[job.id].accounted = job
