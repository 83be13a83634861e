"""stokerd with a door, through which a test sees its tasks: `python -m tests.support.task_door` in place of stokerd.

Owns the program around such a daemon, the tasks that it lists when it gets SIGUSR1, and, where STOKER_RECORD names a
file, a line for each task and thread that is started, with the module of the daemon that is nearest to the start.
It changes nothing in the daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from stoker import daemon
from stoker.telemetry.stalls import Stalls
from tests.support.facts import until

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess

PACKAGE = Path(daemon.__file__).parent
ROOT = Path(__file__).parents[2]
LIST = os.environ.get("STOKER_TASKS", "")  # the daemon removes STOKER_* from its environment
RECORD = os.environ.get("STOKER_RECORD")


def add_door(process: DaemonProcess, *, record: bool = False) -> None:
    """The next starts of the daemon use this program."""
    programs = process.home / "door"
    programs.mkdir()
    (programs / "stoker").symlink_to(process.programs / "stoker")
    (programs / "stokerd").write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.task_door "$@"\n')
    (programs / "stokerd").chmod(0o755)
    process.programs = programs
    process.environ["PYTHONPATH"] = ":".join([str(ROOT), *filter(None, [process.environ.get("PYTHONPATH")])])
    process.environ["STOKER_TASKS"] = str(process.home / "tasks")
    if record:
        process.environ["STOKER_RECORD"] = str(process.home / "record")


def tasks_of(process: DaemonProcess) -> Counter[str]:
    """The tasks of a daemon now, by what they run."""
    listed = process.home / "tasks"
    listed.unlink(missing_ok=True)
    process.signal(signal.SIGUSR1)
    until(listed.exists, why="a list of tasks")
    return Counter(listed.read_text().split())


def threads_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def starts(process: DaemonProcess, kind: str) -> Counter[str]:
    """The number of tasks and threads that each module of the daemon started."""
    lines: list[dict[str, Any]] = list(map(json.loads, (process.home / "record").read_text().splitlines()))
    return Counter(line["started_by"] for line in lines if line["kind"] == kind)


# --- inside the daemon ------------------------------------------------------------------------------------


def _started_by() -> str:
    """The module of the daemon whose code is nearest to the start."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            return str(path.relative_to(PACKAGE))
        frame = frame.f_back
    return "nobody"


def _note(record: str, kind: str) -> None:
    line = json.dumps({"kind": kind, "started_by": _started_by()}) + "\n"
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def _list_tasks() -> None:
    names = [getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks()]
    fresh = Path(f"{LIST}.new")
    fresh.write_text("\n".join(names))
    fresh.rename(LIST)


def _record_starts(record: str) -> None:
    make = Stalls.measured_task

    def make_seen(self: Stalls, *given: Any, **more: Any) -> Any:
        _note(record, "task")
        return make(self, *given, **more)

    Stalls.measured_task = make_seen  # type: ignore[method-assign]


def _record_threads(record: str) -> None:
    start = threading.Thread.start

    def start_seen(self: threading.Thread) -> None:
        _note(record, "thread")
        start(self)

    threading.Thread.start = start_seen  # type: ignore[method-assign]


def _open_door() -> None:
    run = daemon.Daemon.run

    async def run_seen(self: daemon.Daemon) -> int:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _list_tasks)
        return await run(self)

    daemon.Daemon.run = run_seen  # type: ignore[method-assign]
    if RECORD is not None:
        _record_starts(RECORD)
        _record_threads(RECORD)


if __name__ == "__main__":
    _open_door()
    daemon.main()
