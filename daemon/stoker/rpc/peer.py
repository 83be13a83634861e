"""The process at the other end of a connection, as the kernel knows it: numbers only, read once, when it is accepted.

Owns reading SO_PEERCRED and SO_PEERGROUPS. Both are of the moment in which the client connected: a process that drops
its groups afterwards keeps the rights of that connection. The pid is for the log, nothing is decided by it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import NamedTuple

from stoker.core.access import Role, Viewer

SO_PEERGROUPS = 59
MOST_GROUPS = 65_536  # NGROUPS_MAX of Linux
_CREDENTIALS = struct.Struct("=iII")  # struct ucred
_libc = ctypes.CDLL(None, use_errno=True)
_groups = (ctypes.c_uint32 * MOST_GROUPS)()  # socket.getsockopt has room for 256 of them


class Peer(NamedTuple):
    """`gids`: its group and its supplementary groups; `connection`: a number that is never used again."""

    uid: int
    pid: int
    gids: frozenset[int] = frozenset()
    connection: int = 0
    role: Role = Role.ADMIN

    @property
    def viewer(self) -> Viewer:
        return Viewer(self.uid, self.role)


def peer_of(sock: socket.socket, connection: int) -> Peer:
    """The peer of an accepted connection, as yet without a role of its own. Raises OSError."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(uid, pid, _supplementary(sock.fileno()) | {gid}, connection, Role.SUBMITTER)


def _supplementary(fd: int) -> frozenset[int]:
    size = ctypes.c_uint32(ctypes.sizeof(_groups))
    if _libc.getsockopt(fd, socket.SOL_SOCKET, SO_PEERGROUPS, _groups, ctypes.byref(size)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return frozenset(_groups[: size.value // 4])
