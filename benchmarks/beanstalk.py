"""A client of beanstalkd, and as a program (`python -m benchmarks.beanstalk SOCKET`) a worker of it.

beanstalkd only stores jobs; a worker reserves one, runs it, and deletes it. Owns the part of its protocol that this
takes. A job is a command as JSON.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_RUN_S = 60


class BeanstalkClient:
    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def put(self, command: Sequence[str]) -> None:
        body = json.dumps(command).encode()
        self._ask(b"put 0 0 %d %d\r\n%b\r\n" % (LONGEST_RUN_S, len(body), body), b"INSERTED")

    def run_next(self) -> None:
        """Wait for a job, run it, and delete it if it succeeded."""
        identifier, size = self._ask(b"reserve\r\n", b"RESERVED")
        command = json.loads(self._answers.read(int(size) + 2))
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        self._ask(b"delete %b\r\n" % identifier, b"DELETED")

    def _ask(self, request: bytes, expected: bytes) -> list[bytes]:
        self._socket.sendall(request)
        word, *values = self._answers.readline().split()
        if word != expected:
            raise AssertionError(f"beanstalkd answered {word!r} to {request[:20]!r}")
        return values


if __name__ == "__main__":
    with BeanstalkClient(sys.argv[1]) as beanstalkd:
        while True:
            beanstalkd.run_next()
