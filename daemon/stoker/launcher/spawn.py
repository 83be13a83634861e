"""Starting a worker in its own session, with descriptors 0, 1 and 2 only, signal mask and dispositions reset.

Owns the choice between posix_spawn, which costs a fraction of a fork, and `fork_exec.py`. Every reason why a command
cannot be executed is raised as SpawnFailedError. Invariant: when `spawn` returns a pid, the command runs in it.
"""

from __future__ import annotations

import errno
import fcntl
import os

from . import fork_exec, kernel
from .command import PASSED_OVER, SpawnFailedError, candidates, enter, make_native, not_found, prepare
from .error_log import log_error, undo
from .marks import Marker

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable

    from .frames import Message

NULL = 0  # our own stdin, /dev/null, which children inherit
OOM_SCORE_MAX = 1_000
OOM_SCORE_RAISE = 500


class NumberedLow:
    """posix_spawn takes no descriptor above the limit of open files, which is then that of the worker: such a one
    becomes a copy with a low number, which was kept free for it.
    """

    __slots__ = ("_fd", "_is_low", "_reserved")

    def __init__(self, fd: int, reserved: int) -> None:
        self._fd, self._reserved = fd, reserved
        self._is_low = fd < kernel.worker_open_files

    def __enter__(self) -> int:
        if self._is_low:
            return self._fd
        return os.dup2(self._fd, self._reserved, inheritable=False)

    def __exit__(self, *_: object) -> None:
        if not self._is_low:
            undo(os.dup2, NULL, self._reserved, inheritable=False)


class Spawner:
    """Starts workers. Holds two low descriptors, the marker, and their score for the OOM killer."""

    def __init__(self) -> None:
        self._low_stdin, self._low_log = os.dup(NULL), os.dup(NULL)
        ours = int(kernel.read_file("/proc/self/oom_score_adj"))
        self._marker = Marker()
        self._oom_score_adj = str(min(ours + OOM_SCORE_RAISE, OOM_SCORE_MAX)).encode()

    def spawn(self, order: Message, log: int) -> int:
        """The pid of the worker's main process. Raises SpawnFailedError."""
        make_native(order)
        try:
            pid = self._spawn(order, log)
        except OSError as error:
            raise SpawnFailedError.about(order["argv"][0], error) from error
        except ValueError as error:  # a NUL byte, or a variable's name with "="
            raise SpawnFailedError(errno.EINVAL, str(error)) from error
        self._offer_to_oom_killer(pid)
        return pid

    def _spawn(self, order: Message, log: int) -> int:
        ours = os.umask(order["umask"])
        try:
            self._marker.lend(order["run_id"])
            try:
                return self._start(order, log)
            finally:
                self._marker.take_back()
        finally:
            os.umask(ours)

    def _start(self, order: Message, log: int) -> int:
        start = _route(order["setup"] or {})
        if order["stdin"] is None and log < kernel.worker_open_files:  # nearly always
            return start(order, NULL, log)
        stdin = NULL if order["stdin"] is None else _file_of(order["stdin"])
        try:
            with (
                NumberedLow(stdin, self._low_stdin) as low_in,
                NumberedLow(log, self._low_log) as low_log,
            ):
                return start(order, low_in, low_log)
        finally:
            if stdin != NULL:
                os.close(stdin)

    def _offer_to_oom_killer(self, pid: int) -> None:
        """So that the kernel kills a worker and not the parent of all of them. Best effort."""
        try:
            kernel.write_file(f"/proc/{pid}/oom_score_adj", self._oom_score_adj)
        except OSError:  # a set-user-id program: not permitted
            return


def _file_of(text: str) -> int:
    """A sealed file, so that a worker that writes to its stdin gets an error."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _route(setup: Message) -> Callable[[Message, int, int], int]:
    if setup.get("limits") or setup.get("nice"):
        return fork_exec.fork_and_exec
    if setup.get("cgroup") is None:
        return _posix_spawn
    return fork_exec.fork_and_exec if setup.get("born_inside", True) else _spawn_and_move


def _spawn_and_move(order: Message, stdin: int, log: int) -> int:
    """For a cgroup that sets no limit. Children forked before the move are found by their run id or session."""
    leaf = fork_exec.open_leaf(order["setup"]["cgroup"])
    try:
        pid = _posix_spawn(order, stdin, log)
        _move(pid, leaf)
        return pid
    finally:
        os.close(leaf)


def _move(pid: int, leaf: int) -> None:
    """Move a started worker into its cgroup. If that fails it goes on without."""
    try:
        os.write(leaf, str(pid).encode())
    except ProcessLookupError:  # it has ended
        return
    except OSError as error:
        log_error(f"pid {pid} is not in its cgroup: {error}")


def _posix_spawn(order: Message, stdin: int, log: int) -> int:
    # One thread only: the child can inherit a working directory and a limit that are set for a moment.
    enter(order["working_dir"])
    try:
        prepare("the limit of open files", kernel.restore_open_files)
        return _search_and_spawn(order["argv"], order["env"], stdin, log)
    finally:
        _go_back()


def _go_back() -> None:
    """Undo what the child was to inherit."""
    undo(kernel.allow_open_files)
    undo(os.chdir, "/")


def _search_and_spawn(argv: list[str], env: dict[str, str], stdin: int, log: int) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    if stdin != NULL:  # which the child inherits
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    refused: SpawnFailedError | None = None
    for path in candidates(argv[0], env):
        try:
            return os.posix_spawn(
                path, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=kernel.IGNORED
            )
        except OSError as error:
            refused = SpawnFailedError.of_program(argv[0], path, error)
            if error.errno not in PASSED_OVER:
                break
    raise refused or not_found(argv[0], env)
