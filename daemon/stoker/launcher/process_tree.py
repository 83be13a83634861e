"""The process trees of runs, and the orphans among them that the launcher adopts as subreaper.

Owns the adopted processes (children of ours that are not the main process of a run) and the walk down a tree. An
adopted process belongs to a run if it shows the run's id or mark, is in its session or cgroup, or if no other run can
have started it. If its run is uncertain it is leaked: it is counted, and killed once all runs that may own it are over.

Invariants: a child of ours is unreaped, so its pid is not used again; any other process is pinned by a pidfd and proven
to be the child of a living member of the tree before it gets a signal; a lack of descriptors or memory is raised as
OSError, and never taken for the end of a process.
"""

from __future__ import annotations

import os

from . import kernel
from .environments import read_environments
from .lean_stdlib import signal, suppress
from .marks import read_mark
from .runs import ENDED

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .runs import Run, Runs

RUN_ID = b"STOKER_RUN_ID="
INSTANCE = b"STOKER_INSTANCE="
# Bounds for hostile trees, so that one signal never keeps the launcher: deeper or newer processes get the next signal,
# and the ladder repeats SIGKILL until none is left.
MAX_DEPTH = 64
MAX_PASSES = 16
NOT_CONTINUED = frozenset(
    {0, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT}
)


class Delivery:
    """One signal to a tree: the processes that it reached, and those that the kernel does not let us signal.

    A launcher that is not root cannot signal a program that became another user, as sudo does.
    """

    def __init__(self, signum: int) -> None:
        self.refused: set[int] = set()
        self._signum = signum
        self._group: int | None = None
        self._reached: set[tuple[int, int]] = set()

    def __bool__(self) -> bool:
        """Whether it reached a process."""
        return bool(self._reached)

    @property
    def met(self) -> int:
        return len(self._reached) + len(self.refused)

    def send_to_main(self, main: int) -> None:
        """`main` is an unreaped child of ours, so its pid is not used again."""
        self._kill(main, self._signum)

    def send_to_group(self, main: int) -> None:
        """Signal the process group of `main`. killpg(2) does not say which members it could not signal."""
        self._group = main
        with suppress(*kernel.GONE_OR_HIDDEN):
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
        """Signal each process once; for a member of the group, only check that it could be signalled."""
        try:
            stat = kernel.read_stat(pid)
            key = (pid, stat.start_ticks)
            if key not in self._reached and pid not in self.refused:
                _send(pidfd, 0 if stat.group == self._group else self._signum)
                self._reached.add(key)
        except PermissionError:
            self.refused.add(pid)
        except ProcessLookupError:
            return


class ProcessTree:
    """The adopted children by pid, each with the ids of the runs that may own it. A single one does own it."""

    def __init__(self, runs: Runs, instance: str) -> None:
        self._runs = runs
        self._instance = instance
        self._children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        self._adopted: dict[int, frozenset[str]] = {}
        self._ended_owners: frozenset[str] = frozenset()
        self._killed: set[int] = set()
        self.stopped = 0  # how many leaked processes have ended by our SIGKILL

    def __bool__(self) -> bool:
        return bool(self._adopted)

    @property
    def leaked(self) -> int:
        return sum(len(owners) != 1 for owners in self._adopted.values())

    def adopt(self) -> bool:
        """Take in the children that we got since the last call. Returns whether there were any.

        Raises OSError while /proc cannot be read; the next call takes in the rest.

        Those that have ended are reaped at once. Otherwise a tree that forks faster than we read /proc would leave more
        of them each time, and soon no process could be started on the host.
        """
        mains, adopted = self._runs.mains, self._adopted
        newcomers = [pid for pid in self._read_children() if pid not in mains and pid not in adopted]
        living = [pid for pid in newcomers if not _reap(pid)]
        if living:
            # Possible owners: the open runs, and the owners of adopted processes that ended and left their children to
            # us.
            suspects = self._ended_owners | self._runs.open_ids()
            adopted.update((pid, self._find_owners(pid, suspects)) for pid in living)
        self._ended_owners = frozenset()
        return bool(newcomers)

    def forget(self, pid: int) -> None:
        """Forget an adopted child that was reaped."""
        self._ended_owners |= self._adopted.pop(pid, frozenset())
        self.stopped += pid in self._killed
        self._killed.discard(pid)

    def has(self, run_id: str) -> bool:
        """Whether a process of this run is left besides its main process and the descendants of that."""
        return bool(self._adopted) and {run_id} in self._adopted.values()

    def is_in_leaf(self, run: Run, pid: int) -> bool:
        """Whether the process is in the leaf of the run; True for one that has ended."""
        inside = _read_cgroup(pid)
        if inside is None or run.cgroup is None:
            return kernel.has_ended(pid)
        return _is_inside(inside, run.cgroup)

    def count(self, run: Run) -> int:
        """How many processes of its tree live besides the main one."""
        return sum(1 for _ in self._members(run))

    def stop_leaked(self) -> None:
        """SIGKILL to leaked processes that can belong to no open run."""
        if not self.leaked:
            return
        open_ids = self._runs.open_ids()
        for pid, owners in self._adopted.items():
            if len(owners) != 1 and not owners & open_ids:
                self._killed.add(pid)
                for _, pidfd in _subtree(pid):
                    with suppress(*kernel.GONE_OR_HIDDEN):  # those that live on stay counted
                        _send(pidfd, signal.SIGKILL)

    def signal_tree(self, run: Run, delivery: Delivery) -> None:
        """Signal every process of the tree once, also those that appear meanwhile."""
        if self._runs.main_lives(run):
            # killpg includes forks under way. The id is not used again, as the leader is not reaped yet.
            delivery.send_to_group(run.pid)
        self.adopt()
        for _ in range(MAX_PASSES):
            before = delivery.met
            for pid, pidfd in self._members(run):
                delivery.send(pid, pidfd)
            # Our own children come last: orphans whose parent ended meanwhile have become our children.
            if not self.adopt() and delivery.met == before:
                break

    # --- inside

    def _read_children(self) -> list[int]:
        """The file is kept open, which makes this cheap for the many runs that leave no process."""
        data = b""
        while more := os.pread(self._children, 65_536, len(data)):
            data += more
        return [int(pid) for pid in data.split()]

    def _find_owners(self, pid: int, suspects: frozenset[str]) -> frozenset[str]:
        """The runs that may own a process, by its mark, session, cgroup or environment.

        A program that changed its user id hides its environment. It comes last, as to read it takes a fork.
        """
        owner = self._runs.of_mark(read_mark(pid)) or self._runs.of_session(_read_session(pid))
        owner = owner or self._find_by_cgroup(pid)
        if owner is not None:
            return frozenset({owner.run_id})
        run_id = _read_run_id(pid, self._instance)
        if run_id is None:
            return suspects
        # If that run is over, no open run can own the process.
        run = self._runs.get(run_id)
        return frozenset({run_id}) if run is not None and run.state is not ENDED else frozenset()

    def _find_by_cgroup(self, pid: int) -> Run | None:
        runs = [run for run in self._runs if run.cgroup is not None and run.state is not ENDED]
        inside = _read_cgroup(pid) if runs else None
        if inside is None:
            return None
        return next((run for run in runs if run.cgroup is not None and _is_inside(inside, run.cgroup)), None)

    def _members(self, run: Run) -> Iterator[tuple[int, int]]:
        """The living processes of a tree without the main one, children before parents, each pinned by a pidfd."""
        if self._runs.main_lives(run):
            yield from _descendants(run.pid)
        for pid, owners in tuple(self._adopted.items()):
            if owners == {run.run_id}:
                yield from _subtree(pid)


def _reap(pid: int) -> bool:
    """Reap that child if it has ended, and say whether. Its own children were passed to us before that."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _subtree(pid: int) -> Iterator[tuple[int, int]]:
    yield from _descendants(pid)
    with Pinned(pid) as pidfd:
        if pidfd is not None and not kernel.has_ended(pid):
            yield pid, pidfd


def _descendants(child: int) -> Iterator[tuple[int, int]]:
    with Pinned(child) as pidfd:
        if pidfd is not None:
            yield from _below(child, pidfd, MAX_DEPTH)


def _below(parent: int, parent_pidfd: int, depth: int) -> Iterator[tuple[int, int]]:
    for pid in _read_children_of(parent) if depth else ():
        with Pinned(pid) as pidfd:
            if pidfd is not None and _is_child(pid, parent, parent_pidfd):
                yield from _below(pid, pidfd, depth - 1)
                yield pid, pidfd


def _is_child(pid: int, parent: int, parent_pidfd: int) -> bool:
    """Whether `pid`, which is pinned, has `parent` as its parent, and that has not ended."""
    try:
        stat = kernel.read_stat(pid)
    except kernel.GONE_OR_HIDDEN:
        return False
    return stat.parent == parent and not stat.ended and _exists(parent_pidfd)


class Pinned:
    """A pidfd of the process; None if it is gone."""

    __slots__ = ("_pid", "_pidfd")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pidfd: int | None = None

    def __enter__(self) -> int | None:
        with suppress(ProcessLookupError):
            self._pidfd = kernel.open_pidfd(self._pid)
        return self._pidfd

    def __exit__(self, *_: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)


def _read_children_of(pid: int) -> list[int]:
    """The children of all its threads; those of a thread that ends meanwhile become children of another one."""
    children: list[int] = []
    with suppress(*kernel.GONE_OR_HIDDEN):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(*kernel.GONE_OR_HIDDEN):
                children += map(int, kernel.read_proc(pid, f"task/{thread}/children").split())
    return children


def _read_run_id(pid: int, instance: str) -> str | None:
    """The run id in its environment, if that is of our instance: a worker may itself be a Stoker that runs jobs."""
    variables = dict(read_environments([pid])).get(pid, [])
    if INSTANCE + instance.encode() not in variables:
        return None
    variable = next((variable for variable in variables if variable.startswith(RUN_ID)), None)
    return None if variable is None else variable[len(RUN_ID) :].decode(errors="replace")


def _read_session(pid: int) -> int:
    """The session of a process; 0 if it has ended or may not be read: no session has that number."""
    try:
        return kernel.read_stat(pid).session
    except kernel.GONE_OR_HIDDEN:
        return 0


def _read_cgroup(pid: int) -> str | None:
    """The path from the top of the hierarchy that we see; None for the top itself, where any process may be."""
    with suppress(*kernel.GONE_OR_HIDDEN):
        for line in kernel.read_proc(pid, "cgroup").decode(errors="replace").split("\n"):
            if line.startswith("0::") and len(line) > len("0::/"):
                return line.removeprefix("0::")
    return None


def _is_inside(cgroup: str, leaf: str) -> bool:
    """Whether `cgroup`, a path as in /proc/PID/cgroup, is that leaf or below it."""
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
