"""The daemon's side of the spawner: it asks for the launcher of a user, or whether the user could get one now.

Owns the bytes, as `stoker.spawner` stands alone. A request is asked in a thread, as the spawner looks the account up,
which may take a while. `tests/spawner` compares both sides.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct

from msgspec import Struct

MAGIC, CHECK_MAGIC = b"STK1", b"STKC"
REQUEST = struct.Struct(">4sIIQ4s8s")
ANSWER = struct.Struct(">BI")
MAX_ANSWER_BYTES = 16 * 1024
ANSWER_S = 15.0
STARTED, MALFORMED, HOST = 0, 1, 5


class SpawnRefused(Exception):
    """No launcher for this user. `transient`: the host is at fault, so another try may succeed."""

    def __init__(self, words: str, *, transient: bool) -> None:
        super().__init__(words)
        self.transient = transient


class UserAccount(Struct, frozen=True):
    """The variables of a job that come from the account of its user."""

    name: str
    home: str
    shell: str

    @property
    def variables(self) -> dict[str, str]:
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


class Wish(Struct, frozen=True):
    """A launcher for `uid`, named by the epoch and eight hex digits."""

    uid: int
    epoch: int
    nonce: str
    instance: str
    open_files: int

    @property
    def launcher(self) -> str:
        return f"{self.epoch}-{self.nonce}-{self.uid}"

    @property
    def packet(self) -> bytes:
        nonce, instance = bytes.fromhex(self.nonce), bytes.fromhex(self.instance)
        return REQUEST.pack(MAGIC, self.uid, self.open_files, self.epoch, nonce, instance)


def ask(path: str, wish: Wish, ready: int, directory: str) -> UserAccount:
    """Ask the spawner at `path`; the launcher writes a byte to `ready` once it listens. Raises SpawnRefused.

    `directory`: where the daemon looks for the files of users; the spawner must use the same.
    """
    try:
        answer = _exchange(path, wish.packet, [ready])
    except OSError as error:
        raise SpawnRefused(f"the spawner at {path}: {error.strerror or error}", transient=True) from error
    if len(answer) < ANSWER.size:
        raise SpawnRefused(f"the spawner at {path} gave no answer", transient=True)
    code, _pid = ANSWER.unpack_from(answer)
    words = answer[ANSWER.size :].decode(errors="replace")
    if code != STARTED:
        raise SpawnRefused(words, transient=code == HOST)
    name, home, shell, used, _launcher = words.split("\0")
    if used != directory:
        words = f"its policy run-as.toml has directory = {used!r}, and [run_as] directory of stokerd is {directory!r}"
        raise SpawnRefused(f"{words}: make them the same", transient=False)
    return UserAccount(name, home, shell)


def bar_of(path: str, uid: int) -> str | None:
    """Why the spawner would start no launcher for a user; None if it would, or is too old to say. Raises OSError."""
    answer = _exchange(path, REQUEST.pack(CHECK_MAGIC, uid, 1, 0, bytes(4), bytes(8)), [])
    if len(answer) < ANSWER.size or ANSWER.unpack_from(answer)[0] in (STARTED, MALFORMED, HOST):
        return None
    return answer[ANSWER.size :].decode(errors="replace")


def _exchange(path: str, packet: bytes, descriptors: list[int]) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(ANSWER_S)
        sock.connect(path)
        if _peer_uid(sock) != 0:
            raise PermissionError(1, "it is not run by root")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with contextlib.suppress(BrokenPipeError):  # it has refused already, and its words can be read
            sock.sendmsg([packet], rights)
        return sock.recv(MAX_ANSWER_BYTES)


def _peer_uid(sock: socket.socket) -> int:
    credentials = struct.Struct("3i")
    return int(credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1])
