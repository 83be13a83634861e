"""Whether the owner of a job may still have jobs here: by the account, by [access], and by the policy of the spawner.

Owns the looks, each made in a thread and valid for a while, so that many starts of one user cost one look. Invariants:
root and the daemon's own user are never barred; a look that fails or takes long bars no user, nor does a directory
service that does not know an account or a group, as it may be away. The launcher of a user is started only after the
spawner's own look, which judges alone an account that was never there, as a number of a container.
"""

from __future__ import annotations

import asyncio
import os
from typing import NamedTuple

from stoker.config.access_section import AccessSettings
from stoker.config.accounts import access_of, groups_of, is_listed, missing_groups
from stoker.core.clock import Clock
from stoker.host.threads import start_threads
from stoker.process import spawner
from stoker.process.run_roots import RunRoots

FRESH_MS = 10_000
PATIENCE_S = 5.0
THREADS = 2
MOST_USERS = 4_096


class OwnerVerdict(NamedTuple):
    """`bar`: why the user may have no jobs; None if it may."""

    seen_ms: int
    bar: str | None


class OwnerStanding:
    def __init__(self, clock: Clock, settings: AccessSettings, roots: RunRoots, spawner_path: str) -> None:
        self._clock = clock
        self._settings = settings
        self._roots = roots
        self._spawner = spawner_path
        self._trusted = (0, os.geteuid())
        self._known: dict[int, OwnerVerdict] = {}
        self._looks: dict[int, asyncio.Future[str | None]] = {}
        self._listed: set[int] = set()  # the users that stood in /etc/passwd at an earlier look
        self._threads = start_threads(THREADS, "owners")

    def use(self, settings: AccessSettings) -> None:
        self._settings = settings
        self._known.clear()

    def admits(self, uid: int) -> bool:
        """Whether the jobs of a user may start without a further look."""
        if uid in self._trusted:
            return True
        known = self._known.get(uid)
        return known is not None and known.bar is None and self._clock.now().steady - known.seen_ms < FRESH_MS

    async def bar_of(self, uid: int) -> str | None:
        """Why the jobs of a user may not start, by a look that is made now if there is no recent one."""
        if self.admits(uid):
            return None
        look = self._looks.get(uid)
        if look is None:
            look = self._looks[uid] = asyncio.get_running_loop().run_in_executor(self._threads, self._look, uid)
            look.add_done_callback(lambda done: self._note(uid, done))
        await asyncio.wait({look}, timeout=PATIENCE_S)
        return look.result() if look.done() and not look.cancelled() else None

    def _note(self, uid: int, look: asyncio.Future[str | None]) -> None:
        del self._looks[uid]
        if not look.cancelled():
            if len(self._known) >= MOST_USERS:
                self._known.clear()
            self._known[uid] = OwnerVerdict(self._clock.now().steady, look.result())

    def _look(self, uid: int) -> str | None:
        """In a thread."""
        groups = groups_of(uid)
        if groups is None and uid in self._listed:
            return f"uid {uid} has no account on this host any more"
        if groups is not None:
            if is_listed(uid):
                self._listed.add(uid)
            if access_of(self._settings).role_of(uid, groups) is None and not missing_groups(self._settings):
                return f"uid {uid} may not use this daemon any more: [access] admits none of its groups"
        if self._roots.runs_as(uid) is None:
            return None
        try:
            return spawner.bar_of(self._spawner, uid)
        except OSError:  # the spawner is away: no launcher of this user starts, and one that runs may go on
            return None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
