"""The limits of open connections, per user and in total, and the reserve beyond them.

Owns the counts. The reserve is for short requests that must get through while thousands of connections wait or stream:
a cancel, a drain, the checkpoint of a running job. One user gets at most half of it, so that root always gets in.
"""

from __future__ import annotations

from collections import Counter

from stoker.core.errors import TooManyConnections

RESERVE = 32
TRY_AGAIN = "try again in a moment; one connection serves any number of requests"


class Capacity:
    def __init__(self, most: int, most_of_user: int) -> None:
        self.most = most
        self.most_of_user = most_of_user
        self._ordinary: Counter[int] = Counter()
        self._reserved: Counter[int] = Counter()

    def enter(self, uid: int) -> bool:
        """Count a connection: True for an ordinary one, False for one of the reserve. Raises TooManyConnections."""
        refusal = self.refusal(uid)
        if refusal is None:
            self._ordinary[uid] += 1
            return True
        if self._reserved.total() >= RESERVE or self._reserved[uid] >= RESERVE // 2:
            raise refusal
        self._reserved[uid] += 1
        return False

    def of_user(self, uid: int) -> int:
        """The open connections of a user."""
        return self._ordinary[uid] + self._reserved[uid]

    def promote(self, uid: int) -> bool:
        """Make a connection of the reserve an ordinary one, if the limits allow it."""
        if self.refusal(uid) is not None:
            return False
        self._reserved[uid] -= 1
        self._ordinary[uid] += 1
        return True

    def leave(self, uid: int, *, ordinary: bool) -> None:
        (self._ordinary if ordinary else self._reserved)[uid] -= 1

    def refusal(self, uid: int) -> TooManyConnections | None:
        """The error for a further ordinary connection; None if the limits allow it."""
        if self._ordinary.total() >= self.most:
            return TooManyConnections(
                f"{self.most} connections are open, the limit (rpc.max_connections)", hint=TRY_AGAIN
            )
        if self._ordinary[uid] >= self.most_of_user:
            return TooManyConnections(
                f"uid {uid} has {self.most_of_user} open connections, the limit (rpc.max_connections_per_uid)",
                hint=TRY_AGAIN,
            )
        return None
