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


def just_now() -> int:
    """A time that has come, after the end of all that has ended: even if that was in this millisecond."""
    ended_by = int(time.time() * 1_000)
    until(lambda: int(time.time() * 1_000) > ended_by, why="the next millisecond")
    return ended_by + 1


def purge(client: stoker.Client, **asked: Any) -> dict[str, int]:
    """Purge all that has ended, until nothing more goes; returns the sums."""
    before = just_now()
    total: dict[str, int] = {}
    more = True
    while more:
        answer = client.call("system.purge", {"before": before, **asked})
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
