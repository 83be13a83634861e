"""Purges by hand, and the rows and files that must be gone after them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from stoker.core.errors import JobNotFound
from tests.support.facts import until

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess


def purge(client: stoker.Client, **asked: Any) -> dict[str, int]:
    """Purge all that has ended, until nothing more goes; returns the sums."""
    before = int(time.time() * 1_000)
    until(lambda: int(time.time() * 1_000) > before, why="the next millisecond")
    total: dict[str, int] = {}
    more = True
    while more:
        answer = client.call("system.purge", {"before": before + 1, **asked})
        more = answer.pop("more", False)
        total = {name: total.get(name, 0) + value for name, value in answer.items()}
    return total


def gone(client: stoker.Client, job: int) -> bool:
    try:
        client.get(job)
    except JobNotFound as error:
        return "any more" in error.message
    return False


def log_of(daemon: DaemonProcess, job: int) -> Path:
    return daemon.state_dir / "logs" / str(job // 1000) / str(job)
