"""Daemons that run one after the other over the same state, each ended by a fault at a chosen syscall.

Owns the programme of such a life (submits, a cancel, the ends of short jobs), the points at which faults may strike,
and the checks after the last life. Tests choose the faults.
"""

from __future__ import annotations

import contextlib
import random
import sys
from itertools import cycle
from typing import TYPE_CHECKING

from stoker.core.errors import AlreadyFinished, AttemptMayLive, DaemonUnreachable, DiskFull, NotAllowed
from tests.support.audit import Audit
from tests.support.descriptors import count_fds
from tests.support.facts import NeverCame, until
from tests.support.flows import draw_flow
from tests.support.ledger import Ledger
from tests.support.strace import SYSCALLS, Point, Strace, draw, points
from tests.support.torture import FDS_ALLOWED, LIVE, become_quiet, draw_job, zombies_of
from tests.support.work import alive

if TYPE_CHECKING:
    from collections.abc import Sequence

    import stoker
    from tests.support.daemon import DaemonProcess

OPENED = "state/lock"  # the first thing that a daemon does to its directory
READY = '"READY=1'


class Lives:
    """Each daemon gets the same short load, until the fault ends it."""

    def __init__(self, daemon: DaemonProcess, seed: int, most: int) -> None:
        self.daemon = daemon
        self.most = most
        self.ledger = Ledger(daemon.home / "ledger")
        self.dice = random.Random(f"lives {seed}")
        self.fired = 0
        self.before_ready = 0
        self.twice_before_ready = 0
        self.unfired: list[Point] = []
        self._died_starting = False
        self._fds = count_fds(daemon.pid)
        self.killed_launchers: set[str] = set()
        self.recovery: list[Point] = []
        self._number = 0

    def draw(self, every: list[Point]) -> list[Point]:
        return draw(every, self.most, self.dice)

    def explore(self, around: Strace, syscalls: Sequence[str] = SYSCALLS) -> list[Point]:
        """Run without a fault, to record the syscalls at which one can be injected."""
        with self.daemon.client() as client:
            self._submit(client, 8)
        self.daemon.kill_and_start()
        self.work()
        self.daemon.kill9()
        self.recovery = points(around.trace, OPENED, syscalls, before=READY)
        return points(around.trace, OPENED, syscalls)

    def draw_with_recoveries(self, every: list[Point]) -> list[Point]:
        """Four points: two during the load, then two before READY, in a recovery and in the recovery after it."""
        drawn = iter(self.draw(sorted(set(every) - set(self.recovery))))
        starting = cycle(self.draw(self.recovery))
        turns = [starting if number % 4 > 1 else drawn for number in range(min(self.most, len(every)))]
        return [point for turn in turns if (point := next(turn, None)) is not None]

    def work(self) -> None:
        """Submit a job, a workflow and a batch, cancel one, and wait for ends; the daemon may die meanwhile."""
        with contextlib.suppress(DaemonUnreachable, NeverCame), self.daemon.client(timeout_s=5) as client:
            self._submit(client, 1)
            self._submit_flow(client)
            jobs = self._submit(client, 6)
            with contextlib.suppress(AlreadyFinished, AttemptMayLive, NotAllowed):
                client.cancel(jobs[0] if jobs else 1)
            until(lambda: not client.list(states=LIVE, limit=1)["jobs"], timeout_s=2)

    def _submit(self, client: stoker.Client, count: int) -> list[int]:
        keys = [f"k{self._number + index}" for index in range(count)]
        self._number += count
        for key in keys:
            self.ledger.send(key, draw_job(self.dice, self.ledger, key))
        answers = client.call("job.submit_many", {"jobs": [self.ledger.sent[key] for key in keys]})["jobs"]
        taken = {key: answer["id"] for key, answer in zip(keys, answers, strict=True) if "id" in answer}
        for key, job in taken.items():
            self.ledger.answer(key, job)
        return list(taken.values())

    def _submit_flow(self, client: stoker.Client) -> None:
        """In the ledger the key of a workflow is that of its first step."""
        key = f"k{self._number}"
        self._number += 1
        sent = self.ledger.send(key, draw_flow(self.dice, self.ledger, key))
        self.ledger.answer(key, min(client.call("workflow.submit", sent)["steps"].values()))

    def accepted(self, client: stoker.Client) -> bool:
        """Whether another job is accepted; only a full disk may refuse it."""
        try:
            return bool(self._submit(client, 1))
        except DiskFull:
            return False

    def end(self, point: Point, *, ready: bool) -> None:
        """SIGKILL, unless the fault has ended the daemon."""
        process = self.daemon.process
        assert process is not None
        if process.poll() is None:
            self.daemon.kill9()
            self.unfired.append(point)
        else:
            assert process.returncode == -9, f"it ended by itself: {self.daemon.tail()}"
            self.fired += 1
            self.before_ready += not ready
            self.twice_before_ready += self._died_starting and not ready
        self._died_starting = not ready

    def complaints(self) -> list[str]:
        """Wait until nothing runs, drain, and return all breaches."""
        become_quiet(self.daemon)
        # The kernel reports the end of a launcher to strace first, so the daemon may reap it a second later.
        until(lambda: not zombies_of(self.daemon.pid), why="that every launcher that ended is reaped")
        assert count_fds(self.daemon.pid) <= self._fds + FDS_ALLOWED
        with self.daemon.client() as client:
            client.call("system.drain", {"stop": True})
        assert self.daemon.wait() == 0
        until(lambda: not list(self.daemon.processes()), why="the end of every process of this instance")
        # A child of the launcher is traced until its exec, so the fault may kill a worker before it began.
        audit = Audit(
            self.daemon.state_dir / "stoker.db",
            self.ledger,
            self.killed_launchers,
            newborn=True,
            log=self.daemon.stderr,
        )
        starting = f"{self.before_ready} before READY, {self.twice_before_ready} of them in the recovery of such a one"
        unfired = [tuple(point) for point in self.unfired]
        sys.stderr.write(f"{self.fired} fired ({starting}), not {unfired}; {audit.summary()}\n")
        return [*audit.complaints(), *audit.unfinished()]

    def newest_launcher(self) -> tuple[str, int]:
        """Id and pid of the newest launcher, which would start the next attempt."""
        with self.daemon.client() as client:
            events = until(
                lambda: [one for one in client.call("system.status")["launchers"] if alive(one["pid"])],
                why="a living launcher",
            )
        return events[-1]["id"], events[-1]["pid"]
