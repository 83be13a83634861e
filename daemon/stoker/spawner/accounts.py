"""The account of a user, as this host knows it now: its groups and home, and whether it is locked or has expired.

Owns the reading of /etc/shadow (shadow(5)). An account that /etc/shadow does not list, as those of LDAP, is judged by
its entry in passwd alone.
"""

from __future__ import annotations

import os
import pwd
import time
from typing import NamedTuple

from .packets import ACCOUNT, RefusedError

SHADOW = "/etc/shadow"
DAY_S = 86_400
PASSWORD, EXPIRES = 1, 7  # the fields of a line of it


class Account(NamedTuple):
    uid: int
    gid: int
    gids: list[int]
    name: str
    home: str
    shell: str


def account_of(uid: int, shadow: str = SHADOW) -> Account:
    """Raises RefusedError for a user that is gone, locked or expired."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise RefusedError(ACCOUNT, f"uid {uid} has no account on this host") from None
    if why := _why_shut(entry.pw_name, shadow):
        raise RefusedError(ACCOUNT, f"the account {entry.pw_name} (uid {uid}) {why}")
    gids = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(uid, entry.pw_gid, gids, entry.pw_name, entry.pw_dir, entry.pw_shell or "/bin/sh")


def _why_shut(name: str, shadow: str) -> str | None:
    """A password behind `!` was locked by `passwd -l`. `!` or `*` alone is an account that never had a password."""
    try:
        with open(shadow, encoding="utf-8", errors="surrogateescape") as file:
            fields = next((line.rstrip("\n").split(":") for line in file if line.startswith(f"{name}:")), [])
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be checked: {shadow}: {error.strerror}"
    password, expires = (fields[at] if len(fields) > at else "" for at in (PASSWORD, EXPIRES))
    if password.startswith("!") and password.strip("!*"):
        return f"is locked: passwd -u {name}"
    if expires.isdecimal() and int(expires) * DAY_S <= time.time():
        return f"expired on day {expires} since 1970: chage -E -1 {name}"
    return None
