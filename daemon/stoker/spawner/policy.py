"""The policy of the spawner: which users may get a launcher, and where. Root alone writes it.

Owns reading and checking `/etc/stoker/run-as.toml`. A file with any mistake is refused as a whole: a rule that is read
wrongly could start the jobs of a user who was to be kept out.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tomllib
from typing import Any, NamedTuple

from .packets import FORBIDDEN, POLICY, RefusedError

MAX_BYTES = 64 * 1024
MAX_UID = (1 << 32) - 2
OVERFLOW_UID = 65_534
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class RunAsPolicy(NamedTuple):
    """`users` and `groups` (numbers) may get a launcher, or all from `min_uid` on where both are empty."""

    daemon_uid: int
    daemon_gid: int
    directory: str
    min_uid: int
    allow_root: bool
    users: frozenset[int]
    groups: frozenset[int]


def read_policy(path: str) -> RunAsPolicy:
    """Raises RefusedError that names the file, the key and what it may hold."""
    try:
        text = _read_trusted(path)
    except OSError as error:
        raise RefusedError(POLICY, f"{path}: {error.strerror}") from error
    try:
        return _policy(tomllib.loads(text.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise RefusedError(POLICY, f"{path}: {error}") from error


def check_trusted(path: str) -> None:
    """Raises RefusedError unless root owns all directories down to `path` and root alone can write to them."""
    while True:
        try:
            state = os.lstat(path)
        except OSError as error:
            raise RefusedError(POLICY, f"{path}: {error.strerror}") from error
        _check_owner(path, state)
        sticky = stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX
        if not stat.S_ISDIR(state.st_mode) or (state.st_mode & WRITABLE_BY_OTHERS and not sticky):
            raise RefusedError(POLICY, f"{path} is not a directory that only root can write to: chmod go-w {path}")
        if path == "/":
            return
        path = os.path.dirname(path)


def _check_owner(path: str, state: os.stat_result) -> None:
    if state.st_uid != 0:
        raise RefusedError(POLICY, f"{path} belongs to uid {state.st_uid}; it must belong to root: chown root {path}")


def _read_trusted(path: str) -> bytes:
    check_trusted(os.path.dirname(path))
    descriptor = os.open(path, READ)
    try:
        state = os.fstat(descriptor)
        _check_owner(path, state)
        if not stat.S_ISREG(state.st_mode) or state.st_mode & WRITABLE_BY_OTHERS:
            raise RefusedError(POLICY, f"{path} is not a file that only root can write to: chmod go-w {path}")
        if state.st_size > MAX_BYTES:
            raise RefusedError(POLICY, f"{path} has {state.st_size} bytes; it has at most {MAX_BYTES}")
        return os.read(descriptor, MAX_BYTES)
    finally:
        os.close(descriptor)


def _policy(given: dict[str, Any]) -> RunAsPolicy:
    unknown = sorted(given.keys() - KEYS.keys())
    if unknown:
        raise ValueError(f"{unknown[0]}: no such key; there are {', '.join(KEYS)}")
    values = {}
    for key, (default, kind, says) in KEYS.items():
        values[key] = given.get(key, default)
        if type(values[key]) is not kind:
            raise ValueError(f"{key} = {values[key]!r}: it is {says}")
    directory = values["directory"]
    if os.path.normpath(directory) != directory or not directory.startswith("/") or directory == "/":
        raise ValueError(f"directory = {directory!r}: it is an absolute path without . and ..")
    if not 0 <= values["min_uid"] <= MAX_UID:
        raise ValueError(f"min_uid = {values['min_uid']}: it is 0 to {MAX_UID}")
    account = _account_of(values["daemon_user"])
    return RunAsPolicy(
        account.pw_uid,
        account.pw_gid,
        directory,
        values["min_uid"],
        values["allow_root"],
        frozenset(_number("users", one) for one in values["users"]),
        frozenset(_number("groups", one) for one in values["groups"]),
    )


# The default, the type and the words for it.
KEYS = {
    "daemon_user": ("stoker", str, "the name of the user as whom stokerd runs"),
    "directory": ("/var/lib/stoker-users", str, "the path under which each user gets a directory"),
    "min_uid": (1_000, int, "the lowest uid that may run jobs"),
    "allow_root": (False, bool, "true or false: whether root may run jobs"),
    "users": ([], list, "a list of names or uids; empty: all users"),
    "groups": ([], list, "a list of names or gids; empty: all groups"),
}


def _account_of(name: str) -> pwd.struct_passwd:
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise ValueError(f"daemon_user = {name!r}: there is no such user") from None
    if account.pw_uid == 0:
        raise ValueError(f"daemon_user = {name!r}: the daemon must not be root")
    return account


def _number(key: str, given: object) -> int:
    if type(given) is int and 0 <= given <= MAX_UID:
        return given
    try:
        if isinstance(given, str):
            return pwd.getpwnam(given).pw_uid if key == "users" else grp.getgrnam(given).gr_gid
    except (KeyError, ValueError):  # ValueError: a NUL in a name
        pass
    raise ValueError(f"{key}: there is no {given!r} on this host")


def check_uid(policy: RunAsPolicy, uid: int) -> None:
    """Raises RefusedError if no rule of the policy can admit the uid, before anything is looked up for it."""
    if uid == 0:
        if not policy.allow_root:
            raise RefusedError(FORBIDDEN, "uid 0: root runs no jobs, as allow_root is false")
    elif uid > MAX_UID or uid == OVERFLOW_UID:
        raise RefusedError(FORBIDDEN, f"uid {uid} stands for a user that is not known here")
    elif uid == policy.daemon_uid:
        raise RefusedError(FORBIDDEN, f"uid {uid} is the daemon itself, whose jobs need no spawner")
    elif uid < policy.min_uid:
        raise RefusedError(FORBIDDEN, f"uid {uid} is below min_uid {policy.min_uid}")


def check_member(policy: RunAsPolicy, uid: int, gids: list[int]) -> None:
    """Raises RefusedError unless the user, or one of the user's groups, is listed, where there is a list."""
    listed = uid in policy.users or not policy.groups.isdisjoint(gids)
    if (policy.users or policy.groups) and not listed:
        raise RefusedError(FORBIDDEN, f"uid {uid} is neither in users nor a member of one of groups")
