"""Start of the spawner: `python -I -S .../spawner --policy FILE --socket PATH`.

Owns the command line, the check of the policy at the start, and the listening socket, which only the daemon's user may
connect to.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from typing import NoReturn

from .packets import RefusedError
from .policy import RunAsPolicy, check_trusted, read_policy
from .server import BACKLOG, SpawnServer, report

POLICY = "/etc/stoker/run-as.toml"
SOCKET = "/run/stoker-launcher/spawner.sock"
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
EX_USAGE, EX_NOPERM, EX_CONFIG = 64, 77, 78
PARENT_MODE = 0o755


def main(arguments: list[str]) -> int:
    options = {"--policy": POLICY, "--socket": SOCKET}
    if len(arguments) % 2 or not options.keys() >= set(arguments[::2]):
        report(f"usage: stoker-spawner [--policy FILE] [--socket PATH], not {' '.join(arguments)}")
        return EX_USAGE
    options |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    if os.geteuid() != 0:
        report("the spawner must run as root: it starts the launchers of other users")
        return EX_NOPERM
    os.umask(0o077)
    os.setgroups([])
    try:
        policy = read_policy(options["--policy"])
        _prepare(policy)
        listener = listen(options["--socket"], policy)
    except RefusedError as error:
        report(error.words)
        return EX_CONFIG
    except OSError as error:
        report(str(error))
        return EX_CONFIG
    report(f"serving uid {policy.daemon_uid} at {options['--socket']}")
    SpawnServer(listener, options["--policy"]).run()
    return 0


def _prepare(policy: RunAsPolicy) -> None:
    """The directory above those of the users. Raises RefusedError unless root alone can write to it."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(policy.directory, PARENT_MODE)
        os.chmod(policy.directory, PARENT_MODE)  # mkdir(2) takes the umask away
    check_trusted(policy.directory)


def listen(path: str, policy: RunAsPolicy) -> socket.socket:
    """A socket that the daemon's user alone may connect to, in a directory that only root can write to.

    Raises RefusedError, and OSError.
    """
    check_trusted(os.path.dirname(path))
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):  # of a spawner that was killed
            os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.fchmod(listener.fileno(), 0o600)
    listener.bind(path)
    os.chown(path, policy.daemon_uid, -1)
    listener.listen(BACKLOG)
    return listener


def run() -> NoReturn:
    """The command `stoker-spawner`: this interpreter again, with the standard library alone."""
    os.execv(sys.executable, [sys.executable, "-I", "-S", PROGRAM, *sys.argv[1:]])  # noqa: S606 - ourselves
