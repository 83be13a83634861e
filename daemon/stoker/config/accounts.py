"""The groups of the section [access] and the users of [quotas] in numbers, and the account of a user.

Owns the look-up of names, which may ask a directory service and so take long: the daemon calls it at its start, at a
reload and before it starts the jobs of a user, in a thread.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from msgspec import UNSET
from msgspec.structs import asdict

from stoker.config.access_section import AccessSettings
from stoker.config.quota_section import QuotaSection, QuotaSettings
from stoker.core.access import OVERFLOW, AccessRules
from stoker.core.quotas import Quota, Quotas

KERNEL: Final = Path("/proc/sys/kernel")
PASSWD: Final = Path("/etc/passwd")


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


def is_listed(uid: int) -> bool:
    """Whether the account stands in /etc/passwd, where its absence is a fact: a directory service may be away."""
    with PASSWD.open("rb") as lines:
        return any(line.split(b":")[2:3] == [b"%d" % uid] for line in lines)


def wrong_users(names: Iterable[str]) -> list[str]:
    """A mistake for each user that does not exist, and for each that stands there twice, by name and by number."""
    mistakes, earlier = list[str](), dict[int, str]()
    for name in names:
        uid = _uid(name)
        if uid is None:
            mistakes.append(f"[quotas.users.{name}]: there is no such user on this machine (a name, or a number)")
        elif earlier.setdefault(uid, name) != name:
            mistakes.append(
                f"[quotas.users.{name}]: is the same user as [quotas.users.{earlier[uid]}]; keep one of them"
            )
    return mistakes


def quotas_of(usual: QuotaSettings, users: Mapping[str, QuotaSection]) -> Quotas:
    """Both in numbers. A user who is gone by now has no limits of its own."""
    own = {uid: _quota(usual, section) for name, section in users.items() if (uid := _uid(name)) is not None}
    return Quotas(usual=_quota(usual), of_user=own, spared={0, os.geteuid()})


def _quota(usual: QuotaSettings, own: QuotaSection | None = None) -> Quota:
    set_here = {} if own is None else {name: most for name, most in asdict(own).items() if most is not UNSET}
    return Quota(**{name: most or None for name, most in (asdict(usual) | set_here).items()})


def _used(settings: AccessSettings) -> dict[str, str]:
    """The names of groups that give a right, by their keys."""
    names = {"operator_group": settings.operator_group, "admin_group": settings.admin_group}
    if settings.users == "group":
        names["group"] = settings.group
    return {key: name for key, name in names.items() if name}


def _number(name: str) -> int | None:
    """A number stands for itself, as long as a group can have it."""
    if name.isascii() and name.isdigit():
        return _possible(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _uid(name: str) -> int | None:
    """As `_number`, of a user."""
    if name.isascii() and name.isdigit():
        return _possible(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _possible(digits: str) -> int | None:
    return int(digits) if int(digits) < 2**32 - 1 else None


def _kernel_number(name: str) -> int:
    try:
        return int((KERNEL / name).read_text())
    except (OSError, ValueError):  # /proc is not mounted, or restricted
        return OVERFLOW
