"""Starting a worker that needs a set-up before its first instruction: fork, set up, exec.

Owns limits, niceness, the cgroup and the user. A fork copies the page tables of this process, so only jobs that need it
come here. Invariants: the child reports a failure through a pipe that an exec closes; no part of the set-up is left out
silently.
"""

from __future__ import annotations

import errno
import os

from . import kernel, rlimits
from .command import HOST_LACKS, PASSED_OVER, SpawnFailedError, candidates, enter, not_found, prepare
from .error_log import log_error
from .lean_stdlib import signal

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NoReturn

    from .frames import Message

REPORT_BYTES = 4_096
NEVER_EXECUTED = 127
# The limit of the job that can cause the error of an exec.
LIMITED_BY = {errno.ENOMEM: "memory_bytes", errno.EAGAIN: "processes"}


def fork_and_exec(order: Message, stdin: int, log: int) -> int:
    """The pid of the command that was executed. Raises SpawnFailedError.

    If the report of the child cannot be read, the command may run: it counts as executed.
    """
    report, report_end = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _run_child(order, stdin, log, report_end)
        finally:
            os.close(report_end)
        failure = _read_report(report)
    finally:
        os.close(report)
    if failure:
        os.waitpid(pid, 0)
        number, transient, text = failure.decode(errors="replace").split(" ", 2)
        raise SpawnFailedError(int(number), text, transient=transient == "True")
    return pid


def _read_report(report: int) -> bytes:
    try:
        return os.read(report, REPORT_BYTES)
    except OSError as error:
        log_error(f"the report of a worker's start cannot be read: {error}")
        return b""


def _run_child(order: Message, stdin: int, log: int, report_end: int) -> NoReturn:
    """Set up and exec in the child: it must never return into the launcher's loop."""
    try:
        failure = _failure_of(order, stdin, log)
        os.write(report_end, failure.encode(errors="replace")[:REPORT_BYTES])
    finally:
        os._exit(NEVER_EXECUTED)


def _failure_of(order: Message, stdin: int, log: int) -> str:
    """Become the worker; returns only if that fails."""
    try:
        _become(order, stdin, log)
    except SpawnFailedError as error:
        return f"{error.errno} {error.transient} {error.text}"
    except OSError as error:
        return f"{error.errno} {error.errno in HOST_LACKS} {error}"
    except BaseException as error:  # noqa: BLE001  (the boundary of the forked child: it reports, then it ends)
        return f"{errno.EINVAL} {False} {error!r}"


def _become(order: Message, stdin: int, log: int) -> NoReturn:
    setup = order["setup"]
    limits = setup.get("limits") or {}
    os.setsid()
    _reset_signals()
    for source, target in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    _join_cgroup(setup.get("cgroup"))
    prepare("the limit of open files", kernel.restore_open_files)
    _lower_limits(limits)
    _renice(setup.get("nice") or 0)
    enter(order["working_dir"])
    _exec(order["argv"], order["env"], limits)


def _reset_signals() -> None:
    for signum in kernel.IGNORED:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_leaf(cgroup: str) -> int:
    """Open the file of a cgroup to which the pids of its new processes are written."""
    try:
        return os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SpawnFailedError.of_host(f"cgroup {cgroup}", error) from error


def _join_cgroup(path: str | None) -> None:
    if path is None:
        return
    try:
        os.write(open_leaf(path), b"0")
    except OSError as error:
        raise SpawnFailedError.of_host(f"cgroup {path}", error) from error


def _lower_limits(limits: dict[str, int | None]) -> None:
    for name, wanted in limits.items():
        if wanted is not None and name != "memory_bytes":
            rlimits.lower(name, wanted)


def _renice(increment: int) -> None:
    if increment:
        try:
            os.nice(increment)
        except OSError as error:
            raise SpawnFailedError.about(f"nice {increment}", error) from error


def _exec(argv: list[str], env: dict[str, str], limits: dict[str, int | None]) -> NoReturn:
    paths = list(candidates(argv[0], env))
    refused: SpawnFailedError | None = None
    memory_bytes = limits.get("memory_bytes")
    if memory_bytes is not None:
        rlimits.lower("memory_bytes", memory_bytes)  # last: this interpreter may itself be larger
    for path in paths:
        try:
            os.execve(path, argv, env)  # noqa: S606
        except OSError as error:
            refused = SpawnFailedError.of_program(argv[0], path, error)
            if limits.get(LIMITED_BY.get(error.errno or 0, "")) is not None:
                refused.transient = False  # the limit is one that the job asked for
            if error.errno not in PASSED_OVER:
                break
    raise refused or SpawnFailedError.about(argv[0], not_found(argv[0], env))
