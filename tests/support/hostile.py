"""A worker that means harm: `python -I -S hostile.py DEED finish|stay`, run by the daemon as any other job.

Has one function for each deed. It stands alone (standard library, no import of ours), because it runs where nothing is
installed. When a deed is done, `ready.<pid>` appears in the working directory; then the main process ends (`finish`) or
hangs (`stay`). Its processes never leave that directory, by which tests find them whatever else they hide.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TERMS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
CHAIN_LINKS = 20_000  # a bound, so that a daemon that never catches the chain does not keep the machine
BOMB_DEPTH = 6
FILES = 10_000
PR_SET_NAME = 15
PIECE = b"y\n" * 32_768
ENVIRON = (50, 51)  # env_start and env_end, fields of proc_pid_stat(5)
STATE = 3  # the first field behind the name


def hang() -> None:
    while True:
        signal.pause()


def spawn(deed: Callable[[], object]) -> int:
    """Fork a child that runs `deed` and never returns."""
    pid = os.fork()
    if pid == 0:
        try:
            deed()
        finally:
            os._exit(0)
    return pid


def stubborn() -> None:
    for signum in TERMS:
        signal.signal(signum, signal.SIG_IGN)


def stubborn_child() -> None:
    stubborn()
    spawn(hang)


def daemonise(then: Callable[[], object] = hang) -> None:
    """The classic double fork, in a session of its own."""

    def leader() -> None:
        os.setsid()
        spawn(then)

    os.waitpid(spawn(leader), 0)


def daemonise_bare() -> None:
    """The same with an empty environment and a meaningless name."""
    daemonise(lambda: os.execve("/usr/bin/env", ["env", "-i", "/bin/sleep", "3600"], {}))


def daemonise_stubborn() -> None:
    stubborn()
    daemonise()


def chain() -> None:
    """Each process starts a session, forks the next and ends: a scan of /proc finds only what is about to end."""

    def link(left: int) -> None:
        while left:
            Path.cwd()  # the directory is gone with the test, so the chain ends
            os.setsid()
            if os.fork():
                os._exit(0)
            left -= 1
        hang()

    stubborn()
    spawn(lambda: link(CHAIN_LINKS))


def bomb() -> None:
    """A tree of 2 ** BOMB_DEPTH processes that ignore all signals they can, each in a process group of its own."""
    stubborn()

    def grow(depth: int) -> None:
        os.setpgid(0, 0)
        for left in range(depth):
            spawn(lambda left=left: grow(left))  # type: ignore[misc]
        hang()

    spawn(lambda: grow(BOMB_DEPTH))


def stop_child() -> None:
    spawn(lambda: os.kill(os.getpid(), signal.SIGSTOP))


def stop_main() -> None:
    """A child stops the main process, and reports that the deed is done."""
    main = os.getpid()

    def stopper() -> None:
        os.kill(main, signal.SIGSTOP)
        tell_ready()
        hang()

    spawn(stopper)
    hang()


def flood() -> None:
    """A child that outlives the main process writes to the log for ever."""
    spawn(_write_for_ever)


def flood_and_ignore() -> None:
    stubborn()
    flood()


def _write_for_ever() -> None:
    while True:
        os.write(1, PIECE)


def flood_deleted() -> None:
    """Remove the name of the log while it is open, then write to it for ever."""
    os.write(1, PIECE)  # with the first byte the log is made
    logs = Path(os.environ["STOKER_SOCKET"]).parent / "state" / "logs"
    while not (paths := list(logs.glob(f"*/{os.environ['STOKER_JOB_ID']}/*.log"))):
        os.sched_yield()
    paths[0].unlink()
    flood()


def truncate() -> None:
    def again_and_again() -> None:
        for _ in range(50):
            os.write(1, PIECE)
            with contextlib.suppress(OSError):  # it is a pipe
                os.truncate("/proc/self/fd/1", 0)
            os.close(os.open("/dev/stdout", os.O_WRONLY | os.O_TRUNC))
        hang()

    spawn(again_and_again)


def disguise() -> None:
    """A name that breaks careless parsers of /proc, and an empty environment."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, b") Z 1 1 (x\n", 0, 0, 0)
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = (int(fields[at - STATE]) for at in ENVIRON)
    ctypes.memset(start, 0, end - start)
    spawn(hang)


def close_all() -> None:
    os.closerange(0, 256)
    spawn(hang)


def fill_argv() -> None:
    """A megabyte of arguments and a megabyte of environment, which a scan of /proc has to read."""
    huge = ["x" * 100_000] * 10
    environ = {**os.environ, **{f"FILL_{number}": "x" * 100_000 for number in range(8)}}
    spawn(lambda: os.execve("/bin/sh", ["sh", "-c", "while :; do sleep 3600; done", *huge], environ))


def litter() -> None:
    for number in range(FILES):
        os.close(os.open(f"litter.{os.getpid()}.{number}", os.O_CREAT | os.O_WRONLY))


def submit() -> None:
    """Submit jobs to the daemon for ever, and drop the answers."""
    request = (
        b'{"jsonrpc":"2.0","id":1,"method":"job.submit","params":{"command":"/bin/true","run_at":9999999999999}}\n'
    )
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["STOKER_SOCKET"])

    def for_ever() -> None:
        while True:
            connection.sendall(request * 20)
            connection.recv(65_536)

    spawn(for_ever)


def connect() -> None:
    """Open as many connections as possible, and send nothing."""
    kept = []
    for _ in range(200):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(1)
        connection.connect(os.environ["STOKER_SOCKET"])
        kept.append(connection)
    spawn(hang)


def hunt() -> None:
    """Send the launcher every signal that it could ignore or handle."""
    for signum in (*TERMS, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD, signal.SIGTSTP, signal.SIGPIPE):
        os.kill(os.getppid(), signum)


def kill_launcher() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def stop_launcher() -> None:
    os.kill(os.getppid(), signal.SIGSTOP)


def tell_ready() -> None:
    Path(f"ready.{os.getpid()}").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    tell_ready()
    if sys.argv[2] == "stay":
        hang()
