"""Pids that are used again under real daemons: decoys take the numbers of workers whose daemon could not look.

Owns three moments: everything dead before a start, launcher and workers dead under a daemon that stands still, and
survivors dead behind the back of the daemon that adopted them (with cancels on top). Decoys have the user and the
command line of the workers, and every signal blocked. Refuses to pass when no number was used again.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import AlreadyFinished, NotAllowed
from tests.support import reuse
from tests.support.daemon import BIN, DaemonProcess
from tests.support.facts import until
from tests.support.policies import identities_on_disk
from tests.support.work import end_of, job_view, kill9, running, shell, submit_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.reuse import Decoy

WORKERS = min(int(os.environ.get("STOKER_FAULTS", "6")), 60)
ROUNDS = max(1, int(os.environ.get("STOKER_FAULTS", "6")) // WORKERS)
PATIENCE = 10
MISSING = reuse.why_not()
SETTINGS = f"[daemon]\nmax_running = {WORKERS + 2}\n"

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(300 + 60 * ROUNDS),
]

# Replaces the one function that reads inodes of pidfds, as on a kernel before 6.9.
OLD_KERNEL = """#!{python}
from stoker.process import identity
identity.pidfs_inode = lambda _pidfd: None
from stoker.daemon import main
main()
"""


class Crowd:
    """Workers of one daemon, and the decoys that took their pids."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.never = daemon.home / "never"
        self.decoys: list[Decoy] = []
        self.jobs: list[int] = []
        self.pids: list[int] = []
        os.mkfifo(self.never)

    def run(self, *, survive: bool) -> None:
        work = shell(f"read _ < {self.never}; exit 3", survive=survive)
        with self.daemon.client() as client:
            self.jobs = [answer["id"] for answer in submit_many(client, [work] * WORKERS)]
            running(client, *self.jobs)
            self.pids = [job_view(client, job)["pid"] for job in self.jobs]

    def launcher(self) -> int:
        with self.daemon.client() as client:
            pid: int = client.call("system.status")["launchers"][-1]["pid"]
            return pid

    def replace(self) -> None:
        """Kill the workers and give their pids to decoys: some without a sign, some of another instance."""
        reuse.end(self.pids)
        argv = ("/bin/sh", "-c", f"read _ < {self.never}; exit 3")
        for number, pid in enumerate(self.pids):
            named = {"STOKER_INSTANCE": "0" * 16, "STOKER_RUN_ID": f"{self.jobs[number]}.1.0000000000000000"}
            decoy = reuse.take(pid, argv, named if number % 2 else {})
            if decoy is not None:
                self.decoys.append(decoy)

    def ends(self) -> set[tuple[str, str | None]]:
        with self.daemon.client() as client:
            endings = {end_of(client, job) for job in self.jobs}
            until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
            return endings

    def signalled(self) -> list[list[str]]:
        """End all decoys; returns the signals that they got."""
        got = [decoy.got() for decoy in self.decoys]
        self.leave()
        return [names for names in got if names]

    def leave(self) -> None:
        for decoy in self.decoys:
            decoy.reap()
        self.decoys.clear()


@pytest.fixture(params=["pidfs", "no pidfs"])
def crowd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crowd]:
    programs = BIN
    if request.param == "no pidfs":
        programs = tmp_path
        (programs / "stokerd").write_text(OLD_KERNEL.format(python=BIN / "python"))
        (programs / "stokerd").chmod(0o755)
    with DaemonProcess(SETTINGS, programs=programs) as daemon:
        submitted = Crowd(daemon)
        yield submitted
        submitted.leave()


def all_dead(crowd: Crowd) -> None:
    """Daemon, launcher and workers are all dead before the next start."""
    crowd.run(survive=False)
    until(lambda: len(identities_on_disk(crowd.daemon)) == WORKERS, why="all identities on disk")
    launcher = crowd.launcher()
    crowd.daemon.kill9()
    kill9(launcher)
    crowd.replace()
    crowd.daemon.start()


def launcher_dead(crowd: Crowd) -> None:
    """Launcher and workers die while the daemon stands still."""
    crowd.run(survive=False)
    launcher = crowd.launcher()
    crowd.daemon.signal(signal.SIGSTOP)
    kill9(launcher)
    crowd.replace()
    crowd.daemon.signal(signal.SIGCONT)


def survivors_lost(crowd: Crowd) -> None:
    """Adopted workers without a launcher die while the daemon stands still; some are cancelled at once."""
    crowd.run(survive=True)
    launcher = crowd.launcher()
    crowd.daemon.kill9()
    kill9(launcher)
    with crowd.daemon.start().client() as client:
        until(lambda: client.status()["recovery"]["adopted"] == WORKERS, why="the adoption of all")
        crowd.daemon.signal(signal.SIGSTOP)
        crowd.replace()
        crowd.daemon.signal(signal.SIGCONT)
        for job in crowd.jobs[::3]:
            try:
                client.cancel(job)
            except (AlreadyFinished, NotAllowed):
                continue


ENDS: dict[Callable[[Crowd], None], set[tuple[str, str]]] = {
    all_dead: {("failed", "orphaned")},
    launcher_dead: {("failed", "orphaned")},
    survivors_lost: {("failed", "lost"), ("cancelled", "user")},
}


@pytest.mark.parametrize("happen", ENDS)
def test_strangers_when_they_have_the_numbers_of_workers_then_no_daemon_signals_them(
    crowd: Crowd, happen: Callable[[Crowd], None]
) -> None:
    reused = 0
    for _ in range(PATIENCE * ROUNDS):  # on a busy host other processes take pids first: the total counts
        happen(crowd)

        assert crowd.ends() <= ENDS[happen]
        reused += len(crowd.decoys)
        assert crowd.signalled() == []
        if reused >= ROUNDS * WORKERS // 2:
            return
    raise AssertionError(f"only {reused} numbers were used again")
