"""Threads that exist before they are needed.

Owns `start_threads`: where a job has used up the processes of its user, no thread can be started any more, and a daemon
that starts its threads when they are first needed fails just then.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def start_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool all of whose threads run. RuntimeError where there are none to be had."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    together = Barrier(count + 1)  # a pool starts a thread only while all it has are busy
    for _ in range(count):
        pool.submit(together.wait)
    together.wait()
    return pool
