"""stokerd with a door: `python -m tests.support.task_door` writes down who starts each of its tasks and threads.

Owns the record, a file of JSON lines that STOKER_DOOR names: `kind` (task or thread), `name`, and `started_by`, the
nearest function of the daemon above the start. Refuses to change what the daemon does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

from stoker import daemon

PACKAGE = Path(daemon.__file__).parent
RECORD = os.environ["STOKER_DOOR"]


def started_by() -> str:
    """`module.py:function` of the daemon's code that is nearest to the start."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents and not frame.f_code.co_name.startswith("<"):  # a comprehension or a lambda
            return f"{path.relative_to(PACKAGE)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "nobody"


def note(kind: str, name: str) -> None:
    line = json.dumps({"kind": kind, "name": name, "started_by": started_by()}) + "\n"
    descriptor = os.open(RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def make_task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, **options)
    note("task", f"{getattr(work, '__qualname__', work)}")
    return task


def open_door() -> None:
    run, start = daemon.Daemon.run, threading.Thread.start

    async def run_recorded(self: daemon.Daemon) -> int:
        asyncio.get_running_loop().set_task_factory(make_task)  # type: ignore[arg-type]
        return await run(self)

    def start_recorded(self: threading.Thread) -> None:
        note("thread", self.name)
        start(self)

    daemon.Daemon.run = run_recorded  # type: ignore[method-assign]
    threading.Thread.start = start_recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    open_door()
    daemon.main()
