"""From root to a user: the directory of the user, the user's groups and ids, and the launcher in place of this process.

Owns what happens in the child that the spawner forks for a request. As root it touches only the directory that root
owns, and makes the user's own in it. All below that is opened once the privileges are gone, so whatever a user puts
there leads no further than the user's own rights.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import sys
from typing import TYPE_CHECKING, NoReturn

from .packets import HOST, RefusedError

if TYPE_CHECKING:
    from .accounts import Account
    from .packets import LaunchRequest
    from .policy import RunAsPolicy

PROGRAM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "launcher", "__main__.py")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
ROOMS = ("launchers", "outcomes", "logs", "work")
# Root of the directory: read by the daemon's group, and its files keep that group.
ROOT_MODE, ROOM_MODE, FILE_MODE = 0o2750, 0o770, 0o640
UMASK = 0o007
# As the launcher finds them (launcher/main.py): stdin, ready, stderr, lock.
NULL_IN, READY, ERRORS, LOCK = range(4)
PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_directory(policy: RunAsPolicy, uid: int) -> int:
    """A descriptor of the user's directory, made if it is missing. Raises RefusedError, and OSError of the host.

    Its parent belongs to root, so no user can put anything else in its place.
    """
    parent = os.open(policy.directory, DIRECTORY)
    try:
        own_gid = os.getegid()
        os.setegid(policy.daemon_gid)  # so that the new directory has that group, and may keep the setgid bit
        try:
            os.mkdir(str(uid), 0o700, dir_fd=parent)
        except FileExistsError:
            return _existing(parent, policy, uid)
        finally:
            os.setegid(own_gid)
        return _new(parent, policy, uid)
    finally:
        os.close(parent)


def _new(parent: int, policy: RunAsPolicy, uid: int) -> int:
    made = os.open(str(uid), DIRECTORY, dir_fd=parent)
    own_gid = os.getegid()
    os.setegid(policy.daemon_gid)
    try:
        os.fchmod(made, ROOT_MODE)
        os.fchown(made, uid, -1)
    except OSError:
        os.close(made)
        os.rmdir(str(uid), dir_fd=parent)  # else the next request would find one that is half made
        raise
    finally:
        os.setegid(own_gid)
    return made


def _existing(parent: int, policy: RunAsPolicy, uid: int) -> int:
    found = os.open(str(uid), DIRECTORY, dir_fd=parent)
    state = os.fstat(found)
    if (state.st_uid, state.st_gid) != (uid, policy.daemon_gid):
        os.close(found)
        path = f"{policy.directory}/{uid}"
        owner = f"uid {state.st_uid}, gid {state.st_gid}"
        raise RefusedError(HOST, f"{path} belongs to {owner}; expected uid {uid}, gid {policy.daemon_gid}")
    return found


def drop_privileges(account: Account) -> None:
    """Become the user, for good: groups first, as only root may set them. Raises OSError."""
    os.setgroups(account.gids)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise PermissionError(f"uid {account.uid}: the privileges of root were not given up whole")


def open_files_of(directory: int, launcher: str) -> tuple[int, int]:
    """The locked file and the stderr of a launcher, with the user's rights. Raises OSError."""
    os.umask(0)
    for room in ROOMS:
        try:
            os.mkdir(room, ROOM_MODE, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(room, dir_fd=directory, follow_symlinks=False).st_mode):
                raise
    os.umask(UMASK)
    launchers = os.open("launchers", DIRECTORY, dir_fd=directory)
    lock = os.open(f"{launcher}.lock", MAKE, FILE_MODE, dir_fd=launchers)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock, os.open(f"{launcher}.err", MAKE | os.O_APPEND, FILE_MODE, dir_fd=launchers)


def become_launcher(request: LaunchRequest, ready: int, policy: RunAsPolicy, lock: int, errors: int) -> NoReturn:
    """Execute the launcher with four descriptors, a fixed environment and its own session. Raises OSError."""
    os.chdir("/")
    _number({NULL_IN: os.open(os.devnull, os.O_RDONLY), READY: ready, ERRORS: errors, LOCK: lock})
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    program = [sys.executable, "-I", "-S", "-X", "utf8", PROGRAM]
    options = ["--state-dir", f"{policy.directory}/{request.uid}", "--id", request.launcher]
    options += ["--instance", request.instance, "--open-files", str(request.open_files)]
    options += ["--daemon-uid", str(policy.daemon_uid)]
    environment = {"PATH": PLAIN_PATH, "STOKER_INSTANCE": request.instance, "STOKER_LAUNCHER": request.launcher}
    os.execve(sys.executable, program + options, environment)  # noqa: S606 - a program of Stoker


def _number(wanted: dict[int, int]) -> None:
    """Give the descriptors these numbers, by way of higher ones, and close all others."""
    high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, len(wanted)) for number, fd in wanted.items()}
    for number, fd in high.items():
        os.dup2(fd, number)
    os.closerange(len(wanted), os.sysconf("SC_OPEN_MAX"))
