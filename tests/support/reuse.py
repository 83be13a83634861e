"""Reused pids: a worker ends, and a foreign process gets its pid at once.

Owns workers that are children of the test (so that it decides when their pid is free), the forcing of a pid through
ns_last_pid, and decoys: same command line, of the same or of another user, every signal blocked, so that the kernel
keeps a list of the signals that each of them got. A decoy that did not get the pid is thrown away.
"""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from stoker.core.job.model import Attempt, Identity
from stoker.core.job.run_id import RunId
from stoker.process import identity as identities
from stoker.process.identity import mark_of
from tests.support.facts import until
from tests.support.instance import shows_itself

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROC = Path("/proc")
NS_LAST_PID = PROC / "sys/kernel/ns_last_pid"


def why_not() -> str | None:
    """Why no pid can be forced here; None if one can. Everybody may open the file, only root may write to it."""
    if os.geteuid() != 0 or not os.access(NS_LAST_PID, os.W_OK):
        return f"{NS_LAST_PID} is not ours to write: needs root"
    return None


def identity_of(pid: int) -> Identity:
    """The identity of that process as a launcher would record it."""
    stat = identities.read_stat(pid)
    assert stat is not None
    pidfd = os.pidfd_open(pid)
    inode = os.fstat(pidfd).st_ino
    os.close(pidfd)
    return Identity(
        pid=pid,
        start_ticks=stat.start_ticks,
        boot_id=identities.boot_id(),
        pid_namespace=identities.pid_namespace(),
        pidfs_inode=inode,
    )


class Guise(NamedTuple):
    """The user and the mark of the run (identity.mark_of) of a child; None: as the test has it."""

    uid: int | None = None
    mark: int | None = None

    def words(self) -> list[str]:
        """The programs that take it on, each in the same process: every user can take on the mark of any run."""
        user = [] if self.uid is None else ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        return user if self.mark is None else [*user, "prlimit", f"--rttime={self.mark}:"]


PLAIN = Guise()


class Child:
    """A child of the test; its pid stays taken until `reap`."""

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], *, guise: Guise = PLAIN, deaf: bool = False
    ) -> None:
        mask = signal.valid_signals() if deaf else ()
        words = [*guise.words(), *argv]
        self.pid = os.posix_spawnp(words[0], words, dict(environ), setsid=True, setsigmask=mask)
        self._argv, self._environ = argv, environ
        self._reaped = False

    def await_exec(self) -> None:
        until(self._shows_itself, why="the end of an exec")

    def _shows_itself(self) -> bool:
        """Whether the last exec is over, or the child ended before."""
        words = (PROC / str(self.pid) / "cmdline").read_bytes().split(b"\0")[:-1]
        is_last = words == [os.fsencode(word) for word in self._argv]
        return self.ended or (is_last and shows_itself(self.pid, self._environ))

    @property
    def ended(self) -> bool:
        stat = None if self._reaped else identities.read_stat(self.pid)
        return stat is None or stat.ended

    def reap(self) -> None:
        """Kill and reap it, so that its pid is free."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._reaped = True


class Decoy(Child):
    """A foreign process that looks like a worker and blocks every signal."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], guise: Guise = PLAIN) -> None:
        super().__init__(argv, environ, guise=guise, deaf=True)

    def got(self) -> list[str]:
        """The signals that it got; `SIGKILL` if it is gone."""
        if self.ended:
            return ["SIGKILL"]
        pending = 0
        for line in (PROC / str(self.pid) / "status").read_text().splitlines():
            if line.startswith(("SigPnd:", "ShdPnd:")):
                pending |= int(line.split()[1], 16)
        return [signal.Signals(number).name for number in range(1, 32) if pending >> (number - 1) & 1]


def take(pid: int, argv: Sequence[str], environ: Mapping[str, str], guise: Guise = PLAIN) -> Decoy | None:
    """A decoy with that pid; None if another process on this machine has taken it."""
    elsewhere = NS_LAST_PID.read_text()
    try:
        while not (PROC / str(pid)).exists():
            NS_LAST_PID.write_text(str(pid - 1))
            decoy = Decoy(argv, environ, guise)
            if decoy.pid == pid:
                decoy.await_exec()
                return decoy
            decoy.reap()
    finally:
        NS_LAST_PID.write_text(elsewhere)  # far from the pids that new processes of this machine get
    return None


def end(pids: Sequence[int]) -> None:
    """SIGKILL to all, and return once each is reaped."""
    pidfds = [os.pidfd_open(pid) for pid in pids]
    for pidfd in pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in pidfds:
        until(lambda pidfd=pidfd: _reaped(pidfd), why="the end of a worker")  # type: ignore[misc]
        os.close(pidfd)


def _reaped(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    return False


class Herd:
    """Workers of one instance without a launcher, and the decoys that got their pids.

    `user` of the workers, whose runs name it, and `stranger`, whom the decoys then are: each has all signs of the run.
    """

    def __init__(self, user: int | None = None, stranger: int | None = None) -> None:
        self.instance = secrets.token_hex(8)
        self.workers: dict[str, Child] = {}
        self.identities: dict[str, Identity] = {}
        self.decoys: list[Decoy] = []
        self.argv = ("/bin/sleep", "86400")
        self._user, self._stranger = user, stranger

    def worker(self) -> str:
        """Start a worker; returns its run id."""
        run_id = str(RunId(len(self.workers) + 1, 1, secrets.token_hex(8), self._user))
        worker = Child(self.argv, self._signs(run_id), guise=Guise(self._user))
        worker.await_exec()
        self.workers[run_id] = worker
        self.identities[run_id] = identity_of(worker.pid)
        return run_id

    def _signs(self, run_id: str) -> dict[str, str]:
        return {"STOKER_INSTANCE": self.instance, "STOKER_RUN_ID": run_id}

    def attempts(self) -> list[Attempt]:
        """The rows of their attempts, which are open and of a dead launcher."""
        return [
            Attempt(
                run_id=run_id,
                job_id=RunId.parse(run_id).job_id,
                ordinal=1,
                launcher="1-dead0000",
                created_at=1,
                identity=identity,
            )
            for run_id, identity in self.identities.items()
        ]

    def disguises(self, run_id: str) -> list[dict[str, str]]:
        """The ways in which a decoy may look: without any sign, with our instance, with the run id.

        With both it is ours, if it has the user of the run.
        """
        if self._stranger is not None:
            return [self._signs(run_id)]
        return [
            {},
            {"STOKER_INSTANCE": self.instance, "STOKER_RUN_ID": f"{run_id}0"},
            {"STOKER_INSTANCE": secrets.token_hex(8), "STOKER_RUN_ID": run_id},
        ]

    def reuse(self, run_id: str) -> None:
        """End a worker and give its pid to a decoy that starts in the same clock tick as the worker did."""
        worker = self.workers[run_id]
        worker.reap()
        disguises = self.disguises(run_id)
        guise = PLAIN if self._stranger is None else Guise(self._stranger, mark_of(run_id))
        decoy = take(worker.pid, self.argv, disguises[len(self.decoys) % len(disguises)], guise)
        if decoy is not None:
            self.decoys.append(decoy)
            self.identities[run_id] = replace(self.identities[run_id], start_ticks=identity_of(decoy.pid).start_ticks)

    def reuse_all(self) -> None:
        for run_id in self.workers:
            self.reuse(run_id)

    def signalled(self) -> dict[int, list[str]]:
        """Decoys that got a signal; there must be none. Fails if no pid could be reused, as on a very busy host."""
        assert len(self.decoys) > len(self.workers) // 5, "the numbers were not used again"
        return {decoy.pid: got for decoy in self.decoys if (got := decoy.got())}

    def end(self) -> None:
        for child in [*self.workers.values(), *self.decoys]:
            child.reap()
