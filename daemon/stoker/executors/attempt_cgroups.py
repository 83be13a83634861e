"""The cgroup of each attempt, where a subtree was delegated: made before the order, removed after the acknowledgement.

Owns when a leaf comes and goes. Refuses to stand in the way of a job: where no leaf can be made, the attempt runs
without one and rlimits bound it. Invariants: an acknowledged attempt's leaf is emptied before it is removed; what could
not be removed is met again at the next start; the leaf of an open attempt is never touched there.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Container, Iterable
from contextlib import suppress

from stoker.core.job.limits import Limits
from stoker.process.cgroup import Cgroups, Leaf, find_root

# After the last process has ended the kernel may call its cgroup busy for some milliseconds more.
BUSY = frozenset({errno.EBUSY, errno.ENOTEMPTY})
# The host has no room for a cgroup now (EAGAIN: cgroup.max.descendants). Anything else means that there never is one:
# the subtree is not ours to write after all, or takes no such limit.
SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO})
AGAIN_S = 0.05
TRIES = 100


class AttemptCgroups:
    """One leaf for each attempt, or none at all without a `cgroups`."""

    def __init__(self, cgroups: Cgroups | None = None) -> None:
        self._cgroups = cgroups

    @classmethod
    def below(cls, setting: str) -> AttemptCgroups:
        """In the subtree that `[cgroup] root` names. ConfigInvalid when that is none."""
        root = find_root(setting)
        if root is None:
            return cls()
        cgroups = Cgroups(root)
        cgroups.prepare()
        return cls(cgroups)

    def make(self, run_id: str, limits: Limits) -> Leaf | None:
        """The leaf for an attempt that is about to start. OSError where the host has no room for one now."""
        if self._cgroups is None:
            return None
        try:
            return self._cgroups.make(run_id, limits)
        except OSError as error:
            self._remove(run_id)
            if error.errno in SHORTAGES:
                raise
            return None

    async def empty(self, run_id: str) -> None:
        """End whatever is left of an attempt that no launcher owns, though its environment shows nothing."""
        cgroups = self._cgroups
        # A look now and then, as most leaves are empty by now; what sits in an uninterruptible call ends late.
        while cgroups is not None and cgroups.leaf(run_id).populated and self._kill(run_id):  # noqa: ASYNC110
            await asyncio.sleep(AGAIN_S)

    def freeze(self, run_ids: Iterable[str], *, frozen: bool) -> list[str]:
        """Freeze these attempts, or let them go on. Gives those that feel it: one without a leaf does not."""
        felt = []
        for run_id in run_ids if self._cgroups is not None else ():
            assert self._cgroups is not None
            leaf = self._cgroups.leaf(run_id)
            with suppress(OSError):
                (leaf.freeze if frozen else leaf.thaw)()
                felt.append(run_id)
        return felt

    def remove(self, run_ids: Iterable[str]) -> None:
        """These attempts are settled."""
        if self._cgroups is not None:
            for run_id in run_ids:
                self._remove_in_time(run_id, TRIES)

    def remove_leftovers(self, open_ids: Container[str]) -> None:
        """What earlier lives could not remove. What is not empty stays: only its own attempt may empty it."""
        if self._cgroups is not None:
            for run_id in self._cgroups.run_ids():
                if run_id not in open_ids:
                    self._remove(run_id)

    def _remove_in_time(self, run_id: str, tries: int) -> None:
        if not self._remove(run_id) and tries:
            self._kill(run_id)
            asyncio.get_running_loop().call_later(AGAIN_S, self._remove_in_time, run_id, tries - 1)

    def _kill(self, run_id: str) -> bool:
        """False where the kernel has no such thing, before Linux 5.14."""
        assert self._cgroups is not None
        with suppress(OSError):
            self._cgroups.leaf(run_id).kill()
            return True
        return False

    def _remove(self, run_id: str) -> bool:
        """False while it is busy."""
        assert self._cgroups is not None
        try:
            self._cgroups.leaf(run_id).remove()
        except OSError as error:
            return error.errno not in BUSY
        return True
