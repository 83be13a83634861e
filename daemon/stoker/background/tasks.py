"""Background tasks, with one owner for the whole daemon, so that each failure is noticed.

Owns the set of running tasks, the pauses between tries, and the end of all. The first error of a task from `start` sets
`failed`, and the daemon ends. A task from `retry` is logged and run again, as a shortage of descriptors or a read error
may pass. A periodic duty (`perform`) that fails waits for its next turn. Invariant: after `close` no task of the group
runs, and a task that is started later is cancelled at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

T = TypeVar("T")


class BackgroundTasks:
    """All tasks of the daemon, or (`group`) those of one part, which may end earlier than the rest."""

    def __init__(self, parent: BackgroundTasks | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._groups: list[BackgroundTasks] = []
        self._closed = False
        self.failed: asyncio.Future[None] = parent.failed if parent else asyncio.get_running_loop().create_future()
        self.retrying: dict[str, str] = parent.retrying if parent else {}
        """By name, the last error of each task or duty that waits for its next try."""

    def group(self) -> BackgroundTasks:
        """The tasks of one part: closed with the whole, or before it."""
        group = BackgroundTasks(self)
        self._groups.append(group)
        return group

    def is_running(self, name: str) -> bool:
        """Whether a task of this name runs."""
        return any(task.get_name() == name and not task.done() for task in self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end. If it raises, the daemon ends with that error."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        if self._closed:
            task.cancel()
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def retry(
        self, name: str, work: Callable[[], Coroutine[Any, Any, T]], *, longest_pause_s: float = LONGEST_PAUSE_S
    ) -> asyncio.Task[T]:
        """Run `work()` until it ends without an error. It must be safe to begin it again."""
        return self.start(name, self._until_it_succeeds(name, work, longest_pause_s))

    async def _until_it_succeeds(
        self, name: str, work: Callable[[], Coroutine[Any, Any, T]], longest_pause_s: float
    ) -> T:
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                try:
                    return await work()
                except Exception as error:  # noqa: BLE001 - the boundary: the error is logged, and the task runs again
                    log(LogEvent.BACKGROUND_RETRIED, task=name, error=error, again_in_s=pause_s)
                    self.retrying[name] = _text(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_pause_s)
        finally:
            self.retrying.pop(name, None)

    def perform(self, name: str, duty: Callable[[], None], *, again_in_s: float) -> bool:
        """Do a periodic duty now. An OSError is logged once, and the next turn of the duty is the next try.

        Returns whether it was done.
        """
        try:
            duty()
        except OSError as error:
            if self.retrying.get(name) != _text(error):
                log(LogEvent.BACKGROUND_RETRIED, task=name, error=error, again_in_s=again_in_s)
            self.retrying[name] = _text(error)
            return False
        self.retrying.pop(name, None)
        return True

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(task.get_name(), error)

    def fail(self, name: str, error: BaseException) -> None:
        """End the daemon because of an error that no caller can handle."""
        log(LogEvent.BACKGROUND_FAILED, task=name, error=error)
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # seen: a daemon that ends for another reason does not await it

    async def close(self) -> None:
        """Cancel every task and wait for its end. Safe to call twice."""
        self._closed = True
        for group in self._groups:
            await group.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
