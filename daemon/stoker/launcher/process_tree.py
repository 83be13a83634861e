"""Whose a process is: what lands on the launcher as subreaper, and the trees of runs.

Owns the adopted (children of ours that are no run's main process) and the walk down a tree. A stranger belongs
to a run if it shows the run's nonce or mark, sits in its session or cgroup, or no other run can have brought it.
What cannot be told is leaked: counted, and stopped once every run that may own it is over.

Invariants: a child of ours is unreaped, so its pid is its own; any other process is pinned by a pidfd and
proven to be a living tree member's child before it gets a signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from . import kernel
from .marks import read_mark
from .runs import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .runs import Run, Runs

NONCE = b"STOKER_RUN_ID="
INSTANCE = b"STOKER_INSTANCE="
# Bounds for hostile trees, so that one signal never keeps the launcher: what is deeper or newer is met
# by the next signal, and the ladder repeats SIGKILL until nothing is left.
MAX_DEPTH = 64
MAX_PASSES = 16
NOT_CONTINUED = frozenset(
    {0, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
)


class Delivery:
    """One signal on its way through a tree: whom it reached, and whom the kernel does not let us signal.

    A program that became another user, as sudo does, cannot be signalled by a launcher that is not root.
    """

    def __init__(self, signum: int) -> None:
        self.refused: set[int] = set()
        self._signum = signum
        self._group: int | None = None
        self._reached: set[tuple[int, int]] = set()

    def __bool__(self) -> bool:
        """Whether it reached anybody."""
        return bool(self._reached)

    @property
    def met(self) -> int:
        return len(self._reached) + len(self.refused)

    def send_to_main(self, main: int) -> None:
        """`main` is an unreaped child of ours, so its number is its own."""
        self._kill(main, self._signum)

    def send_to_group(self, main: int) -> None:
        """To its leader among others. The kernel passes over members whom it does not let us signal in silence."""
        self._group = main
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(main, self._signum)
            if self._signum not in NOT_CONTINUED:
                os.killpg(main, signal.SIGCONT)
        self._kill(main, 0)

    def _kill(self, main: int, signum: int) -> None:
        try:
            os.kill(main, signum)
        except PermissionError:
            self.refused.add(main)
        else:
            self._reached.add((main, 0))

    def send(self, pid: int, pidfd: int) -> None:
        """To each once: a member of the group is only asked whether it could be reached."""
        try:
            stat = kernel.read_stat(pid)
            key = (pid, stat.start_ticks)
            if key not in self._reached and pid not in self.refused:
                _send(pidfd, 0 if stat.group == self._group else self._signum)
                self._reached.add(key)
        except PermissionError:
            self.refused.add(pid)
        except OSError:  # it has ended
            return


class ProcessTree:
    """The adopted children, by pid: each with the run_ids that may own it. Exactly one means that it does."""

    def __init__(self, runs: Runs, instance: str) -> None:
        self._runs = runs
        self._instance = instance
        self._children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        self._adopted: dict[int, frozenset[str]] = {}
        self._bereft: frozenset[str] = frozenset()
        self._condemned: set[int] = set()
        self.stopped = 0  # how many leaked processes have ended by our SIGKILL

    def __bool__(self) -> bool:
        return bool(self._adopted)

    @property
    def leaked(self) -> int:
        return sum(len(owners) != 1 for owners in self._adopted.values())

    def survey(self) -> bool:
        """Takes in whoever landed on us since the last time. Returns whether there was anybody.

        Those who have ended by now are collected at once: of a tree that forks faster than we look there would be more
        at each look, each look would take longer, and soon no process could be started on the host.
        """
        mains, adopted = self._runs.mains, self._adopted
        strangers = [pid for pid in self._read_children() if pid not in mains and pid not in adopted]
        living = [pid for pid in strangers if not _collect(pid)]
        if living:
            # Who can be an owner: the open runs, and those of an adopted process that died and left us its own.
            suspects = self._bereft | self._runs.open_ids()
            adopted.update((pid, self._find_owners(pid, suspects)) for pid in living)
        self._bereft = frozenset()
        return bool(strangers)

    def forget(self, pid: int) -> None:
        """An adopted child was reaped."""
        self._bereft |= self._adopted.pop(pid, frozenset())
        self.stopped += pid in self._condemned
        self._condemned.discard(pid)

    def has(self, run_id: str) -> bool:
        """Whether anything of this run's tree is left besides its main process and what that still parents."""
        return any(owners == {run_id} for owners in self._adopted.values())

    def is_in_leaf(self, run: Run, pid: int) -> bool:
        """Also of one that has ended."""
        inside = _read_cgroup(pid)
        if inside is None or run.cgroup is None:
            return kernel.has_ended(pid)
        return _is_inside(inside, run.cgroup)

    def count(self, run: Run) -> int:
        """How many processes of its tree live besides the main one."""
        return sum(1 for _ in self._members(run))

    def stop_leaked(self) -> None:
        """SIGKILL to what was leaked and can belong to no open run any more."""
        if not self.leaked:
            return
        open_ids = self._runs.open_ids()
        for pid, owners in self._adopted.items():
            if len(owners) != 1 and not owners & open_ids:
                self._condemned.add(pid)
                for _, pidfd in _family(pid):
                    with contextlib.suppress(ProcessLookupError, PermissionError):  # who is left stays counted
                        _send(pidfd, signal.SIGKILL)

    def signal_tree(self, run: Run, delivery: Delivery) -> None:
        """To every process of the tree once, also to those that appear meanwhile."""
        if self._runs.main_lives(run):
            # The whole group at once, forks under way included. Its unreaped leader keeps the number its own.
            delivery.send_to_group(run.pid)
        self.survey()
        for _ in range(MAX_PASSES):
            before = delivery.met
            for pid, pidfd in self._members(run):
                delivery.send(pid, pidfd)
            # Looked for last: what left a dying parent before we came to it has landed on us by now.
            if not self.survey() and delivery.met == before:
                break

    # --- inside

    def _read_children(self) -> list[int]:
        """Reading an open file of our own is what makes `nothing is left` cheap for runs of which nothing is."""
        data = b""
        while more := os.pread(self._children, 65_536, len(data)):
            data += more
        return [int(pid) for pid in data.split()]

    def _find_owners(self, pid: int, suspects: frozenset[str]) -> frozenset[str]:
        """What may not be read says nothing: a program that set its user id is found by its mark, session or cgroup."""
        claimed = _read_nonce(pid, self._instance)
        if claimed is not None:
            # The nonce of a run that is over: nobody open can own it.
            run = self._runs.get(claimed)
            return frozenset({claimed}) if run is not None and run.state is not ENDED else frozenset()
        runs = self._runs
        owner = runs.of_mark(read_mark(pid)) or runs.of_session(_read_session(pid)) or self._find_by_cgroup(pid)
        return frozenset({owner.run_id}) if owner is not None else suspects

    def _find_by_cgroup(self, pid: int) -> Run | None:
        housed = [run for run in self._runs if run.cgroup is not None and run.state is not ENDED]
        inside = _read_cgroup(pid) if housed else None
        if inside is None:
            return None
        return next((run for run in housed if run.cgroup is not None and _is_inside(inside, run.cgroup)), None)

    def _members(self, run: Run) -> Iterator[tuple[int, int]]:
        """The living processes of a tree but its main one, children before parents, each pinned by a pidfd."""
        if self._runs.main_lives(run):
            yield from _descendants(run.pid)
        for pid, owners in tuple(self._adopted.items()):
            if owners == {run.run_id}:
                yield from _family(pid)


def _collect(pid: int) -> bool:
    """Whether that child of ours has ended; then it is no more. What it parented landed on us before it ended."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _family(pid: int) -> Iterator[tuple[int, int]]:
    """A child of ours and all below it."""
    yield from _descendants(pid)
    with _pinned(pid) as pidfd:
        if pidfd is not None and not kernel.has_ended(pid):
            yield pid, pidfd


def _descendants(child: int) -> Iterator[tuple[int, int]]:
    with _pinned(child) as pidfd:
        if pidfd is not None:
            yield from _below(child, pidfd, MAX_DEPTH)


def _below(parent: int, parent_pidfd: int, depth: int) -> Iterator[tuple[int, int]]:
    for pid in _read_children_of(parent) if depth else ():
        with _pinned(pid) as pidfd:
            if pidfd is not None and _is_child(pid, parent, parent_pidfd):
                yield from _below(pid, pidfd, depth - 1)
                yield pid, pidfd


def _is_child(pid: int, parent: int, parent_pidfd: int) -> bool:
    """Proven: `pid` is pinned, names `parent` as its parent, and `parent` was then still the process it was."""
    try:
        stat = kernel.read_stat(pid)
    except OSError:
        return False
    return stat.parent == parent and not stat.ended and _exists(parent_pidfd)


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A pidfd, or None when the process is gone or no descriptor is left for it."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _read_children_of(pid: int) -> list[int]:
    """Of all its threads. What is missed here, because it moved meanwhile, lands on us and is met there."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            children += map(int, kernel.read_file(f"/proc/{pid}/task/{task}/children").split())
    return children


def _read_nonce(pid: int, instance: str) -> str | None:
    """The run id in its environment, if it is of this instance: a worker may itself be a Stoker that runs jobs."""
    try:
        variables = kernel.read_file(f"/proc/{pid}/environ").split(b"\0")
    except OSError:
        return None
    if INSTANCE + instance.encode() not in variables:
        return None
    nonce = next((variable for variable in variables if variable.startswith(NONCE)), None)
    return None if nonce is None else nonce[len(NONCE) :].decode(errors="replace")


def _read_session(pid: int) -> int:
    """0, which nobody's session is, when the process has ended."""
    try:
        return kernel.read_stat(pid).session
    except OSError:
        return 0


def _read_cgroup(pid: int) -> str | None:
    """As the kernel names it, from the top of the hierarchy we see; None for the top itself, where anybody may be."""
    with contextlib.suppress(OSError):
        for line in kernel.read_file(f"/proc/{pid}/cgroup").decode(errors="replace").split("\n"):
            if line.startswith("0::") and len(line) > len("0::/"):
                return line.removeprefix("0::")
    return None


def _is_inside(cgroup: str, leaf: str) -> bool:
    """Whether a process in `cgroup`, as the kernel names it, is in that leaf or in one that was made below it."""
    while cgroup:
        if leaf.endswith(cgroup):
            return True
        cgroup = cgroup.rpartition("/")[0]
    return False


def _send(pidfd: int, signum: int) -> None:
    signal.pidfd_send_signal(pidfd, signum)
    if signum not in NOT_CONTINUED:
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)


def _exists(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
