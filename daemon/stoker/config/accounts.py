"""The groups of the section [access] in numbers, and the account of a user.

Owns the look-up of names, which may ask a directory service and so take long: the daemon calls it at its start, at a
reload and before it starts the jobs of a user, in a thread.
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Final

from stoker.config.access_section import AccessSettings
from stoker.core.access import OVERFLOW, AccessRules

KERNEL: Final = Path("/proc/sys/kernel")


def missing_groups(settings: AccessSettings) -> list[str]:
    """A mistake for each group that does not exist."""
    return [
        f"[access] {key} = {name!r}: there is no such group on this machine; `groupadd {name}` makes it"
        for key, name in _used(settings).items()
        if _number(name) is None
    ]


def access_of(settings: AccessSettings) -> AccessRules:
    """The section in numbers. A group that is gone by now gives no right."""
    numbers = {key: _number(name) for key, name in _used(settings).items()}
    return AccessRules(
        own_uid=os.geteuid(),
        everyone=settings.users == "everyone",
        group=numbers.get("group"),
        operators=numbers.get("operator_group"),
        admins=numbers.get("admin_group"),
        overflow_uid=_kernel_number("overflowuid"),
        overflow_gid=_kernel_number("overflowgid"),
    )


def groups_of(uid: int) -> list[int] | None:
    """All groups of an account; None if this host has none for the uid."""
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return None
    return os.getgrouplist(account.pw_name, account.pw_gid)


def _used(settings: AccessSettings) -> dict[str, str]:
    """The names of groups that give a right, by their keys."""
    names = {"operator_group": settings.operator_group, "admin_group": settings.admin_group}
    if settings.users == "group":
        names["group"] = settings.group
    return {key: name for key, name in names.items() if name}


def _number(name: str) -> int | None:
    """A number stands for itself, as long as a group can have it."""
    if name.isascii() and name.isdigit():
        return int(name) if int(name) < 2**32 - 1 else None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _kernel_number(name: str) -> int:
    try:
        return int((KERNEL / name).read_text())
    except (OSError, ValueError):  # /proc is not mounted, or restricted
        return OVERFLOW
