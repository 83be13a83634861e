"""The use that each user makes of the daemon, beside the quotas.

Owns these views; all numbers are those of the memory of the engine, except connections, which the server counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from stoker.core.access import Viewer
from stoker.core.job.model import State
from stoker.service.engine import Engine

if TYPE_CHECKING:
    from stoker.core.quota_views import LimitsView, UserLimit, UserList, UserView


class Connections(Protocol):
    """The open connections of each user, and their limit."""

    most_of_user: int

    def of_user(self, uid: int) -> int: ...


class UserService:
    """`connections` are those of the server, once there is one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.connections: Connections | None = None

    async def limits(self, viewer: Viewer) -> LimitsView:
        """The limits of the one who asks, and how much of each is in use."""
        return {"uid": viewer.uid, "role": viewer.role.word, "limits": self._limits(viewer.uid)}

    async def users(self) -> UserList:
        """All users who have something that counts for a limit, the one with the most jobs first."""
        memory = self._engine.memory
        uids = memory.users.uids() | {run.workflow.owner_uid for run in memory.workflows.runs.values()}
        uids |= {schedule.owner_uid for schedule in memory.schedules}
        if memory.users.quotas.bound_bytes:
            uids |= memory.users.bytes.owners()
        views = [self._user(uid) for uid in uids]
        return {"users": sorted(views, key=lambda each: (-each["running"] - each["queued"], each["uid"]))}

    def _user(self, uid: int) -> UserView:
        users = self._engine.memory.users
        return {
            "uid": uid,
            "running": users.running[uid],
            "queued": users.counts[uid, State.QUEUED],
            "waiting": users.counts[uid, State.WAITING],
            "held": users.counts[uid, State.HELD],
            "limits": self._limits(uid),
        }

    def _bytes(self, name: str, uid: int) -> int | None:
        """None: not measured, as no user has a limit, or not yet."""
        users = self._engine.memory.users
        return users.bytes[name, uid] if users.quotas.bound_bytes and users.bytes.is_measured else None

    def _limits(self, uid: int) -> list[UserLimit]:
        memory = self._engine.memory
        quota, now = memory.users.quotas.of(uid), self._engine.clock.now().steady
        limits: list[UserLimit] = [
            {"name": "max_queued", "limit": quota.max_queued, "used": memory.users.pending(uid)},
            {"name": "max_running", "limit": quota.max_running, "used": memory.users.running[uid]},
            {"name": "max_workflows", "limit": quota.max_workflows, "used": memory.workflows.live_of(uid)},
            {"name": "max_schedules", "limit": quota.max_schedules, "used": len(memory.schedules.names(uid))},
            {
                "name": "max_submits_per_s",
                "limit": quota.max_submits_per_s,
                "used": memory.users.submitted_now(uid, now),
            },
        ]
        limits += (
            {"name": name, "limit": getattr(quota, name), "used": self._bytes(name, uid)}
            for name in ("max_stored_bytes", "max_log_bytes")
        )
        if self.connections is not None:
            most, used = self.connections.most_of_user, self.connections.of_user(uid)
            limits.append({"name": "max_connections_per_uid", "limit": most, "used": used})
        return limits
