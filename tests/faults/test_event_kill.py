"""Events under SIGKILL at the syscalls of an emit: sent again with its key, each reaches each of its jobs once."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StokerError
from tests.support import strace
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.strace import Attached, draw, points
from tests.support.work import alive, changes, end_of, shell, submit_many

if TYPE_CHECKING:
    from pathlib import Path

MISSING = strace.why_not()
OF_AN_EMIT = ["fdatasync", "pwrite64", "write", "sendmsg", "sendto", "writev"]
KILLS = 6

pytestmark = pytest.mark.timeout(600)


def waiting(daemon: DaemonProcess, name: str) -> list[int]:
    """Three jobs that may run again when the kill comes while they run."""
    job = shell("exit 0", wait_for=f"event:{name}", on_orphan="requeue", max_orphanings=9)
    with daemon.client() as client:
        return [answer["id"] for answer in submit_many(client, [job] * 3)]


def emit(daemon: DaemonProcess, name: str) -> None:
    with daemon.client() as client:
        client.call("event.emit", {"name": name, "data": name, "idempotency_key": name})


@pytest.mark.long
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_event_when_the_daemon_is_killed_at_a_syscall_then_each_job_gets_it_once(
    daemon: DaemonProcess, seed: int, tmp_path: Path
) -> None:
    first = waiting(daemon, "first")
    attached = Attached(daemon.pid, tmp_path / "trace")
    emit(daemon, "first")
    with daemon.client() as client:
        for job in first:
            end_of(client, job)
    attached.detach()
    killed = 0
    # More than are wanted: on a busy machine a later run may make fewer calls, and never come to the one that kills.
    drawn = draw(points(tmp_path / "trace", "", OF_AN_EMIT), 4 * KILLS, random.Random(seed))
    for number, point in enumerate(drawn):
        if killed == KILLS:
            break
        name = f"e{number}"
        jobs, pid = waiting(daemon, name), daemon.pid
        attached = Attached(pid, tmp_path / f"trace.{number}", f"trace={point.syscall}", point.kill())
        with contextlib.suppress(StokerError, OSError):
            emit(daemon, name)
            with daemon.client() as client:
                for job in jobs:
                    end_of(client, job)
        attached.detach()
        killed += not alive(pid)
        with contextlib.suppress(DaemonDied):
            if not alive(pid):
                daemon.wait()
        if not alive(pid):
            daemon.start()

        emit(daemon, name)

        with daemon.client() as client:
            for job in jobs:
                assert end_of(client, job) == ("succeeded", "exit")
            assert [len(changes(client, job, "condition_met")) for job in jobs] == [1, 1, 1]
            (event,) = client.call("event.list", {"name": name})["events"]
            assert event["reached"] == len(jobs)
    assert killed > KILLS // 2
