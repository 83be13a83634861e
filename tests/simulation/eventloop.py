"""An asyncio loop without selector and clock: the world says when it turns and what time it is.

Owns the callbacks of one life of the daemon, and its calls to threads. Every error of a task or a callback is kept in
`errors`, where the world finds it. There are no real descriptors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.simulation.host import Host


def answer(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    """Set the result or error of a future, if it is not done."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class NoSelector:
    """A selector without descriptors: the world delivers all events itself."""

    def select(self, _timeout: float | None) -> list[Any]:
        return []


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop that runs one iteration when the world calls `turn`."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._selector = NoSelector()
        self._scheduled: list[asyncio.TimerHandle]
        self._ready: deque[asyncio.Handle]
        self.threads: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self.errors: list[BaseException | str] = []
        self.set_exception_handler(lambda _loop, context: self._note(context))

    def time(self) -> float:
        return self._host.boot_ms / 1_000

    def _note(self, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or str(context["message"]))

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no events of a selector."""

    def _write_to_self(self) -> None:
        """No selector has to be woken."""

    @property
    def restless(self) -> bool:
        """Whether a turn would run anything now."""
        return bool(self._ready) or (bool(self._scheduled) and self._scheduled[0].when() <= self.time())

    def next_ms(self) -> int | None:
        """Time until the next timer."""
        return max(0, int((self._scheduled[0].when() - self.time()) * 1_000) + 1) if self._scheduled else None

    def turn(self) -> None:
        """Run all callbacks that are ready, once."""
        with self.running():
            self._run_once()  # type: ignore[attr-defined]

    def running(self) -> Running:
        return Running(self)

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()
        self.threads.append((future, lambda: function(*args)))
        return future

    def run_thread(self) -> None:
        """Carry out one call that was sent to a thread, and deliver its result."""
        future, call = self.threads.popleft()
        try:
            self.call_soon(answer, future, call(), None)
        except Exception as error:  # noqa: BLE001 - belongs to the task that awaits it
            self.call_soon(answer, future, None, error)

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        def wake() -> None:
            self.call_soon(callback, *args)

        self._host.readers[fd] = wake
        if self._host.is_readable(fd):
            wake()

    def remove_reader(self, fd: int) -> bool:  # type: ignore[override]
        return self._host.readers.pop(fd, None) is not None

    def abandon(self) -> None:
        """The process is dead: drop all tasks without warnings."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if coroutine is not None:
                with suppress(RuntimeError):  # it awaits something in a `finally`, and there is no loop any more
                    coroutine.close()
        self._ready.clear()
        self._scheduled.clear()
        self.errors.clear()
        self.close()


class Running:
    """Makes a loop the running one during a turn."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        asyncio._set_running_loop(self._loop)

    def __exit__(self, *_: object) -> None:
        asyncio._set_running_loop(None)
