"""Workers of one daemon whose pids decoys take, while the daemon cannot look.

Owns the three moments at which that happens: everything dead before a start, launcher and workers dead under a daemon
that stands still, and survivors dead behind the back of the daemon that adopted them (with cancels on top). Workers and
decoys have one command line. Refuses to pass when no number was used again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stoker.core.errors import AlreadyFinished, NotAllowed
from stoker.process.identity import mark_of
from tests.support import reuse
from tests.support.facts import until
from tests.support.policies import identities_on_disk
from tests.support.reuse import Guise
from tests.support.work import attempts_of, end_of, job_view, kill9, running, shell, submit_many

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.reuse import Decoy

PATIENCE = 10


class Crowd:
    """`connect` gives a client of the user of the jobs; `strangers` are the users of the decoys (None: our own).

    A stranger that is not `user` has the mark of the run whose pid it takes: every user can give it to a process.
    """

    def __init__(
        self,
        daemon: DaemonProcess,
        size: int,
        connect: Callable[[], stoker.Client] | None = None,
        *,
        user: int | None = None,
        strangers: Sequence[int | None] = (None,),
    ) -> None:
        self.daemon, self.size = daemon, size
        self.never = daemon.home / "never"
        self.decoys: list[Decoy] = []
        self.jobs: list[int] = []
        self.runs: list[str] = []
        self.pids: list[int] = []
        self._connect, self._user, self._strangers = connect or daemon.client, user, strangers
        if not self.never.exists():
            os.mkfifo(self.never)
            self.never.chmod(0o644)

    def run(self, *, survive: bool) -> None:
        work = shell(f"read _ < {self.never}; exit 3", survive=survive, working_dir="/")
        with self._connect() as client:
            self.jobs = [answer["id"] for answer in submit_many(client, [work] * self.size)]
            running(client, *self.jobs)
            self.pids = [job_view(client, job)["pid"] for job in self.jobs]
            self.runs = [attempts_of(client, job)[-1]["run_id"] for job in self.jobs]

    def launcher(self) -> int:
        """The pid of the newest launcher of these jobs."""
        with self.daemon.client() as client:
            launchers: list[Any] = client.call("system.status")["launchers"]
        suffix = "" if self._user is None else f"-{self._user}"
        return [int(one["pid"]) for one in launchers if one["id"].endswith(suffix)][-1]

    def replace(self) -> None:
        """Kill the workers and give their pids to decoys: some without a sign, some of another instance."""
        reuse.end(self.pids)
        argv = ("/bin/sh", "-c", f"read _ < {self.never}; exit 3")
        for number, pid in enumerate(self.pids):
            named = {"STOKER_INSTANCE": "0" * 16, "STOKER_RUN_ID": f"{self.jobs[number]}.1.0000000000000000"}
            uid = self._strangers[number % len(self._strangers)]
            guise = Guise(uid, None if uid in (None, self._user) else mark_of(self.runs[number]))
            decoy = reuse.take(pid, argv, named if number % 2 else {}, guise)
            if decoy is not None:
                self.decoys.append(decoy)

    def ends(self) -> set[tuple[str, str | None]]:
        with self._connect() as client:
            endings = {end_of(client, job) for job in self.jobs}
            until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
            return endings

    def cancel_some(self) -> None:
        with self._connect() as client:
            for job in self.jobs[::3]:
                try:
                    client.cancel(job)
                except (AlreadyFinished, NotAllowed):
                    continue

    def signalled(self) -> list[list[str]]:
        """End all decoys; returns the signals that they got."""
        got = [decoy.got() for decoy in self.decoys]
        self.leave()
        return [names for names in got if names]

    def leave(self) -> None:
        for decoy in self.decoys:
            decoy.reap()
        self.decoys.clear()


def all_dead(crowd: Crowd) -> None:
    """Daemon, launcher and workers are all dead before the next start."""
    crowd.run(survive=False)
    until(lambda: len(identities_on_disk(crowd.daemon)) == crowd.size, why="all identities on disk")
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
        until(lambda: client.status()["recovery"]["adopted"] == crowd.size, why="the adoption of all")
    crowd.daemon.signal(signal.SIGSTOP)
    crowd.replace()
    crowd.daemon.signal(signal.SIGCONT)
    crowd.cancel_some()


ENDS: dict[Callable[[Crowd], None], set[tuple[str, str]]] = {
    all_dead: {("failed", "orphaned")},
    launcher_dead: {("failed", "orphaned")},
    survivors_lost: {("failed", "lost"), ("cancelled", "user")},
}


def strike(crowd: Crowd, happen: Callable[[Crowd], None], wanted: int) -> None:
    """Let it happen until so many numbers were used again: no decoy gets a signal, and each job has its end."""
    rounds = PATIENCE * max(1, wanted // crowd.size)
    reused = 0
    for _ in range(rounds):  # on a busy host other processes take pids first: the total counts
        happen(crowd)

        assert crowd.ends() <= ENDS[happen]
        reused += len(crowd.decoys)
        assert crowd.signalled() == []
        if reused >= wanted:
            return
    raise AssertionError(f"only {reused} numbers were used again")
