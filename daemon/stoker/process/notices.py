"""The datagram socket on which the worker of one attempt speaks sd_notify(3) to the daemon, and who sent what.

Owns binding, receiving and the look at the sender. Refuses to read what was said (core.notice). Invariants: a socket in
the file system has mode 0600 from its first instant; descriptors that come along are closed at once, which is what
`systemd-notify` waits for; nothing here reads the memory of a worker (environ, cmdline), as that can hang for ever.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import NamedTuple

from stoker.core.job.notice import MAX_NOTICE_BYTES
from stoker.process.identity import read_stat

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7))
MAX_FDS = 16  # more than these the kernel drops by itself
ANCILLARY_BYTES = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
MSG_CMSG_CLOEXEC = 0x40000000  # of Linux; Python knows no name for it
GENERATIONS = 64


class Datagram(NamedTuple):
    """`pid` is 0 where the sender cannot be seen from here, `uid` None where the kernel did not say."""

    data: bytes
    pid: int
    uid: int | None


def listen(address: str) -> socket.socket:
    """Bound to a path, or to the abstract name that `@` stands for. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if address.startswith("@"):
            sock.bind(f"\0{address[1:]}")
        else:
            os.fchmod(sock.fileno(), 0o600)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)  # noqa: PTH108 - a daemon that died left it; its name is this run's alone
            sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def receive(sock: socket.socket) -> Datagram | None:
    """The next datagram, cut one byte behind the longest that counts; None when there is none now."""
    try:
        data, ancillary, _, _ = sock.recvmsg(MAX_NOTICE_BYTES + 1, ANCILLARY_BYTES, MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    pid, uid = 0, None
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            _close_all(payload)
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid, uid, _ = CREDENTIALS.unpack(payload[: CREDENTIALS.size])
    return Datagram(data, pid, uid)


def _close_all(payload: bytes) -> None:
    fds = array.array("i")
    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    for fd in fds:
        os.close(fd)


def may_speak(datagram: Datagram, main: int | None, reaper: int | None) -> bool:
    """Whether the sender is of our user, or root, and not plainly somebody else than the worker `main` and its tree.

    Who is gone by now, as short programs are, or was left to the launcher (`reaper`), is given the benefit of the
    doubt: it came through a name that only this run was told, and it is of the same user.
    """
    if datagram.uid not in (0, os.geteuid()):
        return False
    if main is None:
        return True
    pid = datagram.pid
    for _ in range(GENERATIONS):
        stat = read_stat(pid) if pid > 0 else None
        if stat is None or main in (pid, stat.session) or stat.parent == reaper:
            return True
        pid = stat.parent
        if pid == 0:
            return False
    return False
