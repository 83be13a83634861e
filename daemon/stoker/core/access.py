"""The users of the daemon and their roles. Pure: numbers only, as the kernel gives them for a connection.

Owns the roles and the rule that gives a peer its role. Root and the daemon's own user are always admins. Invariant: a
number that stands for an unknown user or group (the kernel's overflow number, as of another user namespace) gives no
right.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

from msgspec import Struct

OVERFLOW = 65_534  # the kernel's default for an unknown user or group


class Role(IntEnum):
    """Each has the rights of those before it."""

    SUBMITTER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()


def role_by_number(uid: int, own_uid: int) -> Role:
    """The role of a user who is not connected, so that the groups are not known."""
    return Role.ADMIN if uid in (0, own_uid) else Role.SUBMITTER


class Viewer(Struct, frozen=True):
    """The user of a request. In a list an operator sees the jobs of all, but not what they run."""

    uid: int = 0
    role: Role = Role.ADMIN

    @property
    def sees(self) -> int | None:
        """The owner whose jobs it may see; None: those of all."""
        return self.uid if self.role is Role.SUBMITTER else None

    @property
    def owns(self) -> int | None:
        """The owner of the things that it may look into and change; None: those of all."""
        return None if self.role is Role.ADMIN else self.uid

    def looks_into(self, owner_uid: int) -> bool:
        return self.owns in (None, owner_uid)


class AccessRules(Struct, frozen=True, kw_only=True):
    """The section [access] in numbers. `group`: whose members may submit; None if the daemon's user alone may.

    `overflow_uid` and `overflow_gid`: as in /proc/sys/kernel.
    """

    own_uid: int
    everyone: bool = False
    group: int | None = None
    operators: int | None = None
    admins: int | None = None
    overflow_uid: int = OVERFLOW
    overflow_gid: int = OVERFLOW

    def role_of(self, uid: int, gids: Collection[int]) -> Role | None:
        """The role of a process with that user and those groups; None if it may not use the daemon."""
        if (certain := role_by_number(uid, self.own_uid)) is Role.ADMIN:
            return certain
        if uid == self.overflow_uid:
            return None
        known = {gid for gid in gids if gid != self.overflow_gid}
        for group, role in ((self.admins, Role.ADMIN), (self.operators, Role.OPERATOR)):
            if group in known:
                return role
        return Role.SUBMITTER if self.everyone or self.group in known else None

    @property
    def shared(self) -> bool:
        """Whether anybody but root and the daemon's own user may use it."""
        return self.everyone or not {self.group, self.operators, self.admins} <= {None}
