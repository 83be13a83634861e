"""A cgroup for each attempt, where a subtree was delegated to the daemon.

It is made before the launch order and removed after the acknowledgement. If no cgroup can be made, the attempt runs
without one, and rlimits bound it. Invariants: a cgroup is emptied before it is removed; if it cannot be removed, the
next start tries again; that of an open attempt is kept.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Container, Iterable
from contextlib import suppress

from stoker.core.job.limits import Limits
from stoker.core.shortage import SHORTAGES
from stoker.process.cgroup import REMOVED, Cgroups, Leaf, find_root

# After the last process has ended the kernel may call its cgroup busy for some milliseconds more.
BUSY = frozenset({errno.EBUSY, errno.ENOTEMPTY})
RETRY_S = 0.05
TRIES = 100


class AttemptCgroups:
    """One cgroup (a `Leaf`) for each attempt; without a `cgroups` all methods do nothing."""

    def __init__(self, cgroups: Cgroups | None = None) -> None:
        self._cgroups = cgroups

    @classmethod
    def below(cls, setting: str) -> AttemptCgroups:
        """In the subtree that `[cgroup] root` names. Raises ConfigInvalid if that is no cgroup v2."""
        root = find_root(setting)
        if root is None:
            return cls()
        cgroups = Cgroups(root)
        cgroups.prepare()
        return cls(cgroups)

    def make(self, run_id: str, limits: Limits) -> Leaf | None:
        """Make the cgroup for an attempt that is about to start. Raises OSError if the host cannot make one now.

        After any other error there are no cgroups: the subtree is not writable, or does not accept the limit.
        """
        if self._cgroups is None:
            return None
        try:
            return self._cgroups.make(run_id, limits)
        except OSError as error:
            self._remove(self._cgroups.leaf(run_id).remove)
            if error.errno in SHORTAGES:
                raise
            return None

    async def empty(self, run_id: str) -> None:
        """Kill all processes in the cgroup of an attempt that no launcher owns, and wait for their end.

        Raises OSError if that is unknown.
        """
        cgroups = self._cgroups
        # Polled, as most cgroups are empty already; a process in an uninterruptible call ends late.
        while cgroups is not None and cgroups.leaf(run_id).populated and self._kill(run_id):  # noqa: ASYNC110
            await asyncio.sleep(RETRY_S)

    def freeze(self, run_ids: Iterable[str], *, frozen: bool) -> list[str]:
        """Freeze or thaw these attempts. Gives those for which it was done: only one with a cgroup can be frozen."""
        frozen_ids = []
        for run_id in run_ids if self._cgroups is not None else ():
            assert self._cgroups is not None
            leaf = self._cgroups.leaf(run_id)
            with suppress(OSError):
                (leaf.freeze if frozen else leaf.thaw)()
                frozen_ids.append(run_id)
        return frozen_ids

    def remove(self, run_ids: Iterable[str]) -> list[str]:
        """Remove the cgroups that are empty. Gives the attempts of the others, for `remove_in_time`."""
        cgroups = self._cgroups
        if cgroups is None:
            return []
        return [run_id for run_id in run_ids if not self._remove(cgroups.leaf(run_id).remove)]

    async def remove_in_time(self, run_id: str) -> None:
        """End what lives in a cgroup and remove it, unless it stays busy: then the next start tries again."""
        assert self._cgroups is not None
        leaf = self._cgroups.leaf(run_id)
        for _ in range(TRIES):
            with suppress(OSError):  # the next try may have what this one lacks
                self._kill(run_id)
            # In a thread, as its worker may have made thousands of cgroups in it.
            if await asyncio.to_thread(self._remove, leaf.remove_tree):
                return
            await asyncio.sleep(RETRY_S)

    async def remove_leftovers(self, open_ids: Container[str]) -> None:
        """Remove the empty cgroups that earlier daemons left of attempts that are not open."""
        cgroups = self._cgroups
        if cgroups is not None:
            left = [cgroups.leaf(run_id) for run_id in cgroups.run_ids() if run_id not in open_ids]
            await asyncio.to_thread(lambda: [self._remove(leaf.remove_tree) for leaf in left])

    def _kill(self, run_id: str) -> bool:
        """Kill all processes in it. False before Linux 5.14, which has no cgroup.kill, and once it is removed."""
        assert self._cgroups is not None
        try:
            self._cgroups.leaf(run_id).kill()
        except OSError as error:
            if error.errno not in REMOVED:
                raise
            return False
        return True

    def _remove(self, remove: Callable[[], None]) -> bool:
        """False if it may succeed later: the kernel calls it busy, a cgroup is in it, or the host lacks something."""
        try:
            remove()
        except OSError as error:
            return error.errno not in BUSY | SHORTAGES
        return True
