"""The environments of processes, read in a child of this process.

For that read the kernel takes the lock of the process's memory. A thread of the process may hold the lock for as long
as a file system does not answer, and of all signals only SIGKILL ends the wait for it. So a child reads, and is killed
at a process where it hangs.
Invariant: the child has no descriptor of ours but its pipe, and has ended when `read_environments` returns.
"""

from __future__ import annotations

import errno
import os
import select
import struct

from . import kernel
from .error_log import log_error
from .lean_stdlib import signal

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

READ_S = 1.0  # a read takes microseconds, and longer on a busy host
PIECE_BYTES = 65_536
HEAD = struct.Struct("Q")  # the size of an environment


def read_environments(pids: Sequence[int]) -> Iterator[tuple[int, list[bytes]]]:
    """The variables of each process, except of those that are gone or hide them, and those where the read hangs.

    Raises OSError if the host lacks what a child takes.
    """
    while pids:
        environments = _read_in_child(pids)
        yield from ((pid, variables) for pid, variables in zip(pids, environments, strict=False) if variables)
        pids = pids[len(environments) :]
        if pids:
            log_error(f"pid {pids[0]}: the read of its environment hangs")
            pids = pids[1:]


def _read_in_child(pids: Sequence[int]) -> list[list[bytes]]:
    """The variables of the first processes, until a read hangs; empty for processes that are gone or hide them."""
    pipe, pipe_end = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            child = os.fork()
            if child == 0:
                _run_child(pids, pipe_end)
        finally:
            os.close(pipe_end)
        try:
            data, complete = _receive(pipe)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    finally:
        os.close(pipe)
    environments = list(_parse(data))
    if complete and len(environments) < len(pids):
        raise OSError(errno.EAGAIN, "the child that reads environments did not finish")
    return environments


def _receive(pipe: int) -> tuple[bytes, bool]:
    """The output of the child, and whether it has ended: if it writes nothing for READ_S, it hangs."""
    data = b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while poll.poll(READ_S * 1_000):
        piece = os.read(pipe, PIECE_BYTES)
        if not piece:
            return data, True
        data += piece
    return data, False


def _parse(data: bytes) -> Iterator[list[bytes]]:
    at = 0
    while at + HEAD.size <= len(data):
        size: int = HEAD.unpack_from(data, at)[0]
        at += HEAD.size
        environment = data[at : at + size]
        if len(environment) < size:
            return
        at += len(environment)
        yield environment.split(b"\0") if environment else []


def _run_child(pids: Sequence[int], pipe: int) -> NoReturn:
    """Read in the child and exit: it must never return into the launcher's loop."""
    try:
        os.closerange(0, pipe)  # a child that hangs must not keep the lock of a launcher that died
        os.closerange(pipe + 1, kernel.open_files_limit())
        with open(pipe, "wb") as stream:
            for pid in pids:
                environment = _environment_of(pid)
                stream.write(HEAD.pack(len(environment)) + environment)
                stream.flush()
    finally:
        os._exit(0)


def _environment_of(pid: int) -> bytes:
    """The environment of a process; empty if the process is gone or hides it."""
    try:
        return kernel.read_proc(pid, "environ")
    except kernel.GONE_OR_HIDDEN:
        return b""
