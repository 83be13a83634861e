"""A launcher that dies between fork and exec of a worker: the child shows no run, holds the launcher's lock, and execs.

Owns that moment, which strace makes as long as a test wants it (a delay at the child's execve). A worker that had not
begun when its job started again must not run beside it. Refuses to pass when no child was caught in the moment.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import strace
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.strace import Attached
from tests.support.work import alive, end_of, kill9, lines, shell, state, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.work import Gate

MISSING = strace.why_not()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SETTINGS = "[launcher]\nstuck_ms = 1000\n"
AN_HOUR_US = 3_600_000_000
ROUTES: dict[str, dict[str, Any]] = {"posix_spawn": {}, "fork": {"nice": 5}}


@pytest.fixture
def held_back(daemon: DaemonProcess, tmp_path: Path) -> Iterator[Attached]:
    """strace on the daemon's launcher that delays the exec of every child."""
    with daemon.client() as client:
        pid = client.call("system.status")["launchers"][0]["pid"]
    attached = Attached(pid, tmp_path / "trace", "trace=execve", f"inject=execve:delay_enter={AN_HOUR_US}")
    yield attached
    attached.detach()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(("route", "with_the_daemon"), [("posix_spawn", False), ("fork", True)])
def test_unborn_worker_when_its_launcher_is_killed_then_its_job_never_runs_beside_it(
    daemon: DaemonProcess, held_back: Attached, gate: Gate, tmp_path: Path, route: str, *, with_the_daemon: bool
) -> None:
    ledger = tmp_path / "ledger"
    work = shell(f"echo $$ >> {ledger}; read _ < {gate.path}; :", on_orphan="requeue", **ROUTES[route])
    with daemon.client() as client:
        launcher = client.call("system.status")["launchers"][0]["pid"]
        job = submit(client, work)
    unborn = until(lambda: children_of(launcher), why="a child between fork and exec")

    if with_the_daemon:
        daemon.kill9()
    kill9(launcher)
    if with_the_daemon:
        daemon.start()
    with daemon.client() as client:
        until(lambda: daemon.events("launcher_stuck"), why="a launcher that does not answer")
        waited = (state(client, job), client.get(job)["attempts"], lines(ledger))
        held_back.detach()
        until(lambda: client.get(job)["attempts"] == 2 and client.get(job)["pid"], why="the second worker")
        beside = [pid for pid in unborn if alive(pid)]
        gate.open()
        end = end_of(client, job)

    assert (waited, beside, end) == (("running", 1, []), [], ("succeeded", "exit"))
