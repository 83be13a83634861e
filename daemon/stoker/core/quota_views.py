"""How the limits and the use of users are shown, for type checkers and editors. Never imported at run time.

Owns the answers of `system.limits` and `system.users` as TypedDicts; see `core.views`.
"""

from __future__ import annotations

from typing import TypedDict


class UserLimit(TypedDict):
    """A limit by its key in the settings; None: no limit. `used`: how much of it is in use now; None: not measured."""

    name: str
    limit: int | None
    used: int | None


class LimitsView(TypedDict):
    """The limits of the user who asks."""

    uid: int
    role: str
    limits: list[UserLimit]


class UserView(TypedDict):
    """The jobs of a user that have not ended, by state, and its limits."""

    uid: int
    running: int
    queued: int
    waiting: int
    held: int
    limits: list[UserLimit]


class UserList(TypedDict):
    users: list[UserView]
