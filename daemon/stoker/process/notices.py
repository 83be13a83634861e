"""The datagram socket on which the worker of one attempt sends sd_notify(3) messages to the daemon.

Owns binding, receiving and the check of the sender; core.job.notice parses the text. Invariants: a socket in the file
system has mode 0600 from its first instant, and is opened to a user only in a directory that lets in that user and us;
descriptors in a message are closed at once, as `systemd-notify` waits for that; nothing here reads the memory of a
worker (environ, cmdline), as that can hang for ever.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import stat
import struct
from typing import NamedTuple

from stoker.core.job.notice import MAX_NOTICE_BYTES
from stoker.foreign import PLACE, reached
from stoker.process.identity import read_stat

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7))
MAX_FDS = 16  # the kernel drops any more
ANCILLARY_BYTES = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
MSG_CMSG_CLOEXEC = 0x40000000  # of Linux; Python has no name for it
GENERATIONS = 64


class Datagram(NamedTuple):
    """`pid` is 0 if the sender is in another pid namespace; `uid` is None if the kernel gave no credentials."""

    data: bytes
    pid: int
    uid: int | None


def listen(address: str) -> socket.socket:
    """A socket bound to a path, or to an abstract name (`@name`). Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if address.startswith("@"):
            sock.bind(f"\0{address[1:]}")
        else:
            os.fchmod(sock.fileno(), 0o600)
            with reached(address) as name:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)  # noqa: PTH108 - of a daemon that died; the name belongs to this run
                sock.bind(name)
                if PLACE.owner_of(address) is not None:
                    _let_in(name)
    except OSError:
        sock.close()
        raise
    return sock


def _let_in(name: str) -> None:
    """Let the user of the directory send to our new socket. By a descriptor: the user may have replaced it by now."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if stat.S_ISSOCK(state.st_mode) and state.st_uid == os.geteuid():
            os.chmod(f"/proc/self/fd/{descriptor}", 0o666)  # noqa: PTH101, S103 - the directory bars all others
    finally:
        os.close(descriptor)


def receive(sock: socket.socket) -> Datagram | None:
    """The next datagram, cut to one byte more than the longest valid one; None when there is none now."""
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


def may_notify(datagram: Datagram, main: int | None, reaper: int | None, uid: int | None = None) -> bool:
    """Whether the sender is of the run's user (`uid`; None: our own) or root, and may be of the tree of `main`.

    A sender that has ended, as short programs have, or is a child of the launcher (`reaper`) is believed: only this run
    has the address, and the user is the same. So is one that cannot be examined for lack of a descriptor: that must not
    make a worker count as silent.
    """
    if datagram.uid not in (0, os.geteuid() if uid is None else uid):
        return False
    with contextlib.suppress(PermissionError):  # of an ancestor of another user, where /proc is mounted with hidepid=1
        return main is None or _is_below(datagram.pid, main, reaper)
    return False


def _is_below(pid: int, main: int, reaper: int | None) -> bool:
    for _ in range(GENERATIONS):
        try:
            stat = read_stat(pid) if pid > 0 else None
        except OSError:  # no descriptor is left
            return True
        if stat is None or main in (pid, stat.session) or stat.parent == reaper:
            return True
        pid = stat.parent
        if pid == 0:
            return False
    return False
