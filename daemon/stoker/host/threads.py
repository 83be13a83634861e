"""Threads of the daemon: pools that exist before they are needed, and a thread for code that may never return.

Owns `start_threads`: where a job has used up the processes of its user, no thread can be started any more, and a daemon
that starts its threads when they are first needed fails just then. Owns `run_apart`: code of the user's own takes no
thread of a pool. Invariant: a thread that hangs keeps neither a pool nor the process from its end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


class UnjoinedPool(ThreadPoolExecutor):
    """A pool whose shutdown waits for no thread: one of them may hang in a file system that is gone."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def start_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool all of whose threads run. RuntimeError where there are none to be had."""
    pool = UnjoinedPool(count, thread_name_prefix=name)
    together = Barrier(count + 1)  # a pool starts a thread only while all it has are busy
    for _ in range(count):
        pool.submit(together.wait)
    together.wait()
    return pool


def run_apart(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call `function` in a daemon thread of its own. RuntimeError where no thread is to be had."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the waiting task gets it, whatever it is
            result.set_exception(error)

    threading.Thread(target=call, name=name, daemon=True).start()
    return asyncio.wrap_future(result)


def count_threads(name: str) -> int:
    """How many threads of that name have not returned."""
    return sum(thread.name == name for thread in threading.enumerate())
