"""How long a user waits for answers while another one opens 10 000 connections at a time, again and again.

The crowd is a process of its own with the ids of that user: it connects, sends a request on each connection and reads
nothing, until it has them all; then it hangs up and begins anew. Those beyond the limits of the daemon are refused. The
other user has a connection already: a new one would wait behind those that the kernel keeps until they are accepted.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.harness import RawConnection, Scale, daemon, request
from benchmarks.table import Row
from tests.support.facts import line_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONNECTIONS = 10_000
SAMPLES_A_ROUND = 1_000
UID = 70_001
SETTINGS = '[access]\nusers = "everyone"\n'
LINE = request("system.limits", {})
CROWD = """
import os, resource, socket, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
path, uid, number, line = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
if uid != os.getuid():
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
while True:
    held = []
    for _ in range(min(number, hard - 64)):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        held.append(client)
        try:
            client.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused
    print("all", flush=True)
    for client in held:
        client.close()
"""


def rows(scale: Scale) -> Iterator[Row]:
    number = min(CONNECTIONS, 5 * scale.jobs)
    with daemon(settings=SETTINGS) as process, RawConnection(process.socket) as kept:
        process.home.chmod(0o711)
        idle = _p99_ms(lambda: kept.ask(LINE))
        with _crowd(process.socket, number):
            beside = [_p99_ms(lambda: kept.ask(LINE)) for _ in range(scale.rounds)]
    figures = f"{number} connections at a time, idle {idle:.2f} ms"
    yield Row("an answer beside a crowd of connections, p99", beside, 250, 100, figures, unit=" ms")


@contextlib.contextmanager
def _crowd(path: Path, number: int) -> Iterator[None]:
    """The connections of another user, if this one is root and may become it; else of the same."""
    uid = UID if os.getuid() == 0 else os.getuid()
    command = [sys.executable, "-I", "-S", "-c", CROWD, str(path), str(uid), str(number), LINE.decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crowd:
        try:
            line_with(crowd, crowd.stdout, "all")
            yield
            if crowd.poll() is not None:
                raise AssertionError(f"the crowd has ended with status {crowd.returncode}")
        finally:
            crowd.kill()


def _p99_ms(ask: Callable[[], object]) -> float:
    times = []
    for _ in range(SAMPLES_A_ROUND):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1_000)
    return statistics.quantiles(times, n=100)[98]
