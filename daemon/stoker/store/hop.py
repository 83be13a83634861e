"""A call in the thread of a connection, as its task awaits it.

A future lets its task go on in the next round of the event loop. The thread reports to a round of its own, so a hop
lets the task go on at once: that saves each turn a round, with its system call. Invariant: a task never goes on inside
another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from functools import partial
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")


class Hop(Generic[T]):
    """The result of a call in the thread, for the one task that awaits it.

    The thread calls `set_result` or `set_exception` by `call_soon_threadsafe`. The other methods are what a task of
    asyncio asks of the object that it awaits.
    """

    _asyncio_future_blocking = False  # by this a task knows what it can await

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._end: Callable[[], T] | None = None  # gives the result or raises the error; None: not there yet
        self._resume: Callable[[], object] = _nothing

    def __await__(self) -> Generator[Hop[T], None, T]:
        if self._end is None:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake_task: Callable[[Hop[T]], object], *, context: Context) -> None:
        self._resume = partial(context.run, wake_task, self)

    def done(self) -> bool:
        return self._end is not None

    def result(self) -> T:
        assert self._end is not None, "the task goes on before the end of the call"
        return self._end()

    def set_result(self, result: T) -> None:
        self._end = lambda: result
        self._go_on()

    def set_exception(self, error: BaseException) -> None:
        self._end = partial(_raise, error)
        self._go_on()

    def cancel(self, msg: object = None) -> bool:
        """The task is cancelled, by another one: it goes on after that. The call itself goes on in its thread."""
        if self._end is not None:
            return False
        self._end = partial(_raise, asyncio.CancelledError(msg) if msg else asyncio.CancelledError())
        self._loop.call_soon(self._go_on)
        return True

    def _go_on(self) -> None:
        resume, self._resume = self._resume, _nothing  # which holds this object
        resume()


def _nothing() -> None: ...


def _raise(error: BaseException) -> NoReturn:
    raise error
