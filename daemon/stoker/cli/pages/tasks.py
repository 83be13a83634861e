"""The tasks of the web page that run beside its requests.

Owns their start and the report of their errors: a task that fails prints its traceback on stderr, which systemd keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def start_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The caller keeps the task and cancels it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a task of the web page failed", "exception": error})
