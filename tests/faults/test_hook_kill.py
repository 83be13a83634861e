"""Hooks under SIGKILL at the syscalls around a change: each change has exactly one job of each hook."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StokerError
from tests.support import strace
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.facts import until
from tests.support.strace import Attached, draw, points
from tests.support.work import alive, end_of, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

MISSING = strace.why_not()
OF_A_CHANGE = ["fdatasync", "pwrite64", "write", "sendmsg", "sendto", "writev", "epoll_pwait"]
KILLS = 8
HOOK = 'on = ["job.failed", "job.held"]\ncommand = "/bin/true"\n'
SETTINGS = f"[recovery]\nmax_orphanings = 50\n[hooks.one]\n{HOOK}[hooks.two]\n{HOOK}"
CHANGES = "SELECT seq FROM changes WHERE kind = 'job' AND to_state IN ('failed', 'held') AND from_state <> to_state"
WANTED = f"""
SELECT seq, hooks.value FROM ({CHANGES} AND (SELECT hook FROM jobs WHERE id = job_id) IS NULL),
    json_each('["one", "two"]') AS hooks ORDER BY seq, hooks.value
"""
JOBS = "SELECT hook_change, hook FROM jobs WHERE hook IS NOT NULL ORDER BY hook_change, hook"
UNFINISHED = "SELECT id FROM jobs WHERE finished_at IS NULL"

pytestmark = pytest.mark.timeout(600)


def fail(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 3")))


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_hooks_when_the_daemon_is_killed_at_a_syscall_then_each_has_one_job(
    daemon: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    attached = Attached(daemon.pid, tmp_path / "trace")
    fail(daemon)
    until(lambda: not daemon.rows(UNFINISHED))
    attached.detach()
    killed = 0
    # More than are wanted: on a busy machine a later run may make fewer calls, and never come to the one that kills.
    drawn = draw(points(tmp_path / "trace", "", OF_A_CHANGE), 4 * KILLS, random.Random(seed))
    for number, point in enumerate(drawn):
        if killed == KILLS:
            break
        pid = daemon.pid
        attached = Attached(pid, tmp_path / f"trace.{number}", f"trace={point.syscall}", point.kill())
        with contextlib.suppress(StokerError, OSError):
            fail(daemon)
        with contextlib.suppress(StokerError):
            until(lambda pid=pid: not alive(pid) or not daemon.rows(UNFINISHED))  # type: ignore[misc]
        attached.detach()
        if alive(pid):
            continue
        killed += 1
        with contextlib.suppress(DaemonDied):
            daemon.wait()
        daemon.start()

    fail(daemon)

    until(lambda: not daemon.rows(UNFINISHED))
    assert killed > KILLS // 2
    assert daemon.rows(JOBS) == daemon.rows(WANTED)
    assert len(daemon.rows(JOBS)) > killed
    assert daemon.rows("SELECT DISTINCT state FROM jobs WHERE hook IS NOT NULL") == [("succeeded",)]
