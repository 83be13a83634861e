"""Connections of other users: a process takes their numbers for good, connects, and hands the socket over.

Owns the program of that process. It is root's until it has loaded all that it needs, because the interpreter may be in
a directory that others cannot enter.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.rpc import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NEEDS_ROOT = "only root can connect as other users"
PROGRAM = """
import os, socket, sys
path, handle, uid, gid, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setresgid(*[int(gid)] * 3)
os.setresuid(*[int(uid)] * 3)
client = socket.socket(socket.AF_UNIX)
client.connect(path)
socket.send_fds(socket.socket(fileno=int(handle)), [b"."], [client.fileno()])
"""


class User(NamedTuple):
    uid: int
    groups: Sequence[int] = ()

    def connect(self, path: Path) -> RawClient:
        """A connection of a process with these numbers, which has ended by now."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            numbers = [path, theirs.fileno(), self.uid, self.uid, *self.groups]
            command = [sys.executable, "-I", "-S", "-c", PROGRAM, *map(str, numbers)]
            subprocess.run(command, pass_fds=[theirs.fileno()], check=True)
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        return RawClient(socket.socket(fileno=fd))


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """This process with the user and the groups that the kernel notes for a connection; it can leave them again."""
    groups = os.getgroups()
    os.setgroups(user.groups)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setgroups(groups)


def can_be_others() -> bool:
    return os.geteuid() == 0


def answer_of(client: RawClient, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; notifications of streams that come before it are left out."""
    answer = client.ask(method, method, **params)
    while "method" in answer:
        answer = client.hear()
    assert answer["id"] in (method, None)
    return dict(answer)


def code_of(answer: dict[str, Any]) -> str:
    """The code of the error; empty for a result."""
    return str(answer["error"]["data"]["code"]) if "error" in answer else ""


def result(client: RawClient, method: str, **params: Any) -> Any:
    """The result of a request that succeeds."""
    answer = answer_of(client, method, params)
    assert "result" in answer, answer
    return answer["result"]
