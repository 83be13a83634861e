"""The task of Huey that runs a command, for the benchmark and for Huey's consumer, which imports this module.

The consumer finds the queue of the file that BENCH_HUEY_FILE names as QUEUE.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from typing import Any

VARIABLE = "BENCH_HUEY_FILE"


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def queue_at(file: str) -> tuple[Any, Any]:
    """A queue that syncs what it accepts, and its task. Huey is optional and has no types."""
    huey = importlib.import_module("huey")
    queue = huey.SqliteHuey("bench", filename=file, results=False, fsync=True)
    return queue, queue.task()(run)


if VARIABLE in os.environ:
    QUEUE, _ = queue_at(os.environ[VARIABLE])
