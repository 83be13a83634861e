"""A disk that fails or is full under a launcher: it lives, keeps its orders, and its runs are settled.

Owns ENOSPC and EIO at the writes of a launcher to the state directory while a daemon works and while none is there, at
points drawn by the seed. Refuses to pass when no fault fired, or when a launcher died of one.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import strace
from tests.support.lives import Lives
from tests.support.strace import Attached, calls_of, points
from tests.support.work import alive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

LIVES = int(os.environ.get("STOKER_FAULTS", "12"))
MISSING = strace.why_not()
# The calls that make log directories and write and sync outcomes; they fail with ENOSPC or EIO.
ERRORS = {
    "mkdir": ["ENOSPC", "EDQUOT"],
    "write": ["ENOSPC", "EIO"],
    "fsync": ["EIO", "ENOSPC"],
}


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.timeout(300 + 8 * LIVES)
def test_promises_when_the_disk_fails_a_launcher_then_it_lives_and_all_are_kept(
    tortured: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    lives = Lives(tortured, seed, LIVES)
    traced = f"trace={','.join(ERRORS)}"
    attached = Attached(lives.newest_launcher()[1], tmp_path / "trace", traced)
    work_and_go(lives)
    attached.detach()
    every = points(tmp_path / "trace", "", list(ERRORS))
    drawn, struck = lives.draw(every), Counter[str]()

    for number, point in enumerate(drawn):
        _, pid = lives.newest_launcher()
        error = lives.dice.choice(ERRORS[point.syscall])
        trace = tmp_path / f"trace.{number}"
        attached = Attached(pid, trace, traced, f"inject={point.syscall}:error={error}:when={point.number}")
        lives.work()
        assert alive(pid), f"{point} {error}"
        work_and_go(lives)
        attached.detach()
        hit = [f"{call.syscall} {error}" for call in calls_of(trace) if call.injected]
        struck.update(hit)
        lives.fired += bool(hit)

    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={LIVES}: {dict(struck)} at {len(drawn)} of {len(every)}: ")
    assert lives.complaints() == []
    assert lives.fired > len(drawn) // 5


def work_and_go(lives: Lives) -> None:
    """Kill the daemon while jobs run, so that the launcher writes outcomes to its log."""
    with lives.daemon.client() as client:
        lives._submit(client, 6)
    lives.daemon.kill_and_start()
