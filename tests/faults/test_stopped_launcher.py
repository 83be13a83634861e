"""A launcher that is stopped while the daemon is restarted twenty times under load: nothing runs twice.

Owns the SIGSTOP and the restarts, each of which leaves a connection in the launcher's backlog until the kernel says
EAGAIN. The daemon is not asked whether two workers of one job ran at once: every worker locks a file of its job.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from stoker.process.connection import dial
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.torture import launchers
from tests.support.work import Gate, end_of, lines, running, shell, state, submit

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock(1)")

RESTARTS = 20
SETTINGS = "[launcher]\nstuck_ms = 1000\n[daemon]\nmax_running = 8\n"


class Ledger:
    """The lines that workers write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def spec(self, name: str, work: str = ":", **options: Any) -> dict[str, Any]:
        """A worker that writes a line when it begins and ends, and when another worker of its job runs at that time."""
        once = f"exec 9> {self.path}.{name}; flock -n 9 || echo TWICE {name} >> {self.path}"
        return shell(f"{once}; echo START {name} >> {self.path}; {work}; echo END {name} >> {self.path}", **options)

    def count(self, word: str) -> Counter[str]:
        """How many lines of that kind each job has."""
        records = [line.split() for line in lines(self.path)]
        return Counter(name for what, name in records if what == word)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_jobs_when_their_launcher_is_stopped_for_twenty_restarts_then_all_run_once(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger, jobs = Ledger(tmp_path / "ledger"), dict[str, int]()
    waits = f"read _ < {gate.path}"
    policies = {"safe": "requeue", "unsafe": "fail"}
    ((launcher, pid),) = launchers(daemon.state_dir).items()
    with daemon.client() as client:
        for name, on_orphan in policies.items():
            jobs[name] = submit(client, ledger.spec(name, waits, on_orphan=on_orphan))
        running(client, *jobs.values())
        until(lambda: ledger.count("START").total() == 2, why="two workers")

        os.kill(pid, signal.SIGSTOP)
        for name, on_orphan in policies.items():  # whose orders lie in the launcher's socket from now on
            jobs[f"late-{name}"] = submit(client, ledger.spec(f"late-{name}", waits, on_orphan=on_orphan))
        until(lambda: all(client.get(job)["attempts"] == 1 for job in jobs.values()), why="four orders")

    for restart in range(RESTARTS):
        daemon.kill_and_start()
        with daemon.client() as client:
            load = {
                f"load-{restart}-{name}": submit(client, ledger.spec(f"load-{restart}-{name}", on_orphan=on_orphan))
                for name, on_orphan in policies.items()
            }
            ends = {end_of(client, job) for job in load.values()}
            assert ends == {("succeeded", "exit")}
            assert [(state(client, job), client.get(job)["attempts"]) for job in jobs.values()] == [("running", 1)] * 4
    with pytest.raises(BlockingIOError):  # the fault has fired: there is no room for one connection more
        dial(daemon.state_dir, launcher).close()

    os.kill(pid, signal.SIGCONT)
    with daemon.client() as client:
        again = [jobs[name] for name in ("safe", "late-safe", "late-unsafe")]
        until(lambda: all(client.get(job)["attempts"] == 2 for job in again), why="the second attempts")
        running(client, *again)
        gate.open()
        endings = {name: end_of(client, job) for name, job in jobs.items()}

    starts = ledger.count("START")
    assert endings == {"unsafe": ("failed", "orphaned")} | dict.fromkeys(
        ("safe", "late-safe", "late-unsafe"), ("succeeded", "exit")
    )
    assert ledger.count("TWICE") == {}
    expected = {"safe": 2, "unsafe": 1, "late-safe": 1, "late-unsafe": 1}
    assert {name: starts[name] for name in jobs} == expected, f"{lines(ledger.path)}\n{daemon.tail()}"
    assert {number for name, number in starts.items() if name.startswith("load")} == {1}
    assert len(starts) == len(jobs) + RESTARTS * len(policies)
