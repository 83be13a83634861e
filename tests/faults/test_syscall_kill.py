"""SIGKILL at a chosen syscall of the daemon or of its launcher, one life after the other over the same state.

Owns which syscalls: each life starts on what the one before left behind, so submit, launch, settle and recover (also of
a recovery) are all cut through. The seed draws some of the points; `STOKER_FAULTS=300` draws so many, or takes all
there are. Refuses to pass when no fault fired, or none in the recovery of a recovery.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import DaemonUnreachable
from tests.support import strace
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.lives import Lives
from tests.support.rollbacks import Rollbacks
from tests.support.strace import Attached, Point, Strace, points
from tests.support.work import alive

if TYPE_CHECKING:
    from pathlib import Path

PARTS = 3  # each on a state of its own, and so on any processor
POINTS = int(os.environ.get("STOKER_FAULTS", "60"))
LIVES = max(1, POINTS // PARTS)
# A start makes its epoch durable before it recovers: killed there twice in a row, it was in the recovery of a recovery.
AT_THE_EPOCH = [Point("fdatasync", 1)] * 2
MISSING = strace.why_not()

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(300 + 5 * LIVES),
]


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_promises_when_the_daemon_is_killed_at_any_syscall_then_all_are_kept(
    tortured: DaemonProcess, seed: int, part: int
) -> None:
    lives, around = Lives(tortured, seed + part, LIVES), Strace(tortured)
    every = lives.explore(around)
    drawn = [*AT_THE_EPOCH, *lives.draw_with_recoveries(every)]

    for point in drawn:
        around.set(f"trace={point.syscall}", point.kill())
        ready = False
        with contextlib.suppress(DaemonDied, DaemonUnreachable):
            tortured.start()
            ready = True
            lives.work()
        lives.end(point, ready=ready)
    around.set("trace=none")
    tortured.start()

    sys.stderr.write(f"\nSTOKER_SEED={seed} part {part}: {len(drawn)} of {len(every)} points: ")
    assert lives.complaints() == []
    assert lives.fired > len(drawn) // 5
    assert lives.twice_before_ready > 0


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_promises_when_a_launcher_is_killed_at_any_syscall_then_all_are_kept(
    tortured: DaemonProcess, seed: int, part: int, tmp_path: Path
) -> None:
    lives = Lives(tortured, seed + part, LIVES)
    attached = Attached(lives.newest_launcher()[1], tmp_path / "trace")
    lives.work()
    attached.detach()
    every = points(tmp_path / "trace", "")
    drawn = lives.draw(every)

    for number, point in enumerate(drawn):
        launcher, pid = lives.newest_launcher()
        attached = Attached(pid, tmp_path / f"trace.{number}", f"trace={point.syscall}", point.kill())
        lives.work()
        attached.detach()
        if alive(pid):
            lives.unfired.append(point)
        else:
            lives.fired += 1
            lives.killed_launchers.add(launcher)
        if lives.dice.random() < 0.3:
            tortured.kill_and_start()

    sys.stderr.write(f"\nSTOKER_SEED={seed} part {part}: {len(drawn)} of {len(every)} points: ")
    assert lives.complaints() == []
    assert lives.fired > len(drawn) // 5


def test_rollback_when_the_daemon_is_killed_at_any_syscall_then_it_is_all_or_nothing(
    tortured: DaemonProcess, seed: int
) -> None:
    lives = Rollbacks(tortured, seed, POINTS // 8)
    every, starting = lives.explore_rollback()
    drawn = lives.draw(every)

    for point in drawn:
        lives.live(point, starting)

    sys.stderr.write(
        f"\nSTOKER_SEED={seed} STOKER_FAULTS={POINTS}: {len(drawn)} of {len(every)} points: {lives.interrupted} "
    )
    assert lives.complaints() == []
    assert lives.fired > len(drawn) // 5
    assert lives.interrupted["after"] > 0
