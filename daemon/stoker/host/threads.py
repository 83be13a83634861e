"""Threads of the daemon: pools that start at once, and a thread of its own for code that may never return.

`start_threads` starts all threads of a pool at the beginning: when a job has used up the processes of its user, the
kernel refuses further threads. `run_apart` keeps the user's code out of the pools. Invariant: a thread that hangs
delays neither the shutdown of its pool nor the end of the process.
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
    """A pool whose shutdown waits for no thread, as one may hang in a file system that is gone."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def start_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool with all its threads running. Raises RuntimeError if the kernel refuses a thread."""
    pool = UnjoinedPool(count, thread_name_prefix=name)
    together = Barrier(count + 1)  # keeps all threads busy: otherwise the executor starts no further one
    for _ in range(count):
        pool.submit(together.wait)
    together.wait()
    return pool


def run_apart(function: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Call `function` in a daemon thread of its own. Raises RuntimeError if the kernel refuses the thread."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the waiting task gets every exception
            result.set_exception(error)

    threading.Thread(target=call, name=name, daemon=True).start()
    return asyncio.wrap_future(result)


def count_threads(name: str) -> int:
    """The number of threads of that name that still run."""
    return sum(thread.name == name for thread in threading.enumerate())
