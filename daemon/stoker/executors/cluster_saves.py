"""The checkpoints that runs on a cluster save: taken up from the shared directory, in the order in which they came.

Owns which of them count. Invariant: a file is removed once its checkpoint is stored; after a crash between the two it
is stored twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from stoker.cluster.saves_directory import SavedFile
from stoker.cluster.shared_directory import SharedDirectory
from stoker.core.errors import CheckpointTooLarge, StaleAttempt
from stoker.core.raw_bytes import storable
from stoker.core.workflow.checkpoint import Packed, pack
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

TAKEN_AT_ONCE = 16  # of a run that saves faster than the daemon looks, only the newest count
STATUS_CHARACTERS = 200

KeepCheckpoint = Callable[[str, Packed, str], Awaitable[object]]


class ClusterSaves:
    """`keep` stores a checkpoint of a run, with its status. `in_thread` calls a function in a thread."""

    def __init__(self, shared: SharedDirectory, in_thread: Callable[..., Awaitable[Any]], keep: KeepCheckpoint) -> None:
        self._shared = shared
        self._in_thread = in_thread
        self._keep = keep

    async def take(self, run_id: str) -> None:
        """Store what the run has saved. Raises OSError, and DiskFull while the state has no room."""
        saves = self._shared.saves(run_id)
        for name in await self._in_thread(saves.newest, TAKEN_AT_ONCE):
            save = await self._in_thread(saves.read, name)  # one by one, as each may take much memory
            if save is not None:
                await self._store(run_id, save)
            await self._in_thread(saves.remove, name)

    async def _store(self, run_id: str, save: SavedFile) -> None:
        try:
            packed = await self._in_thread(pack, save.data)
            await self._keep(run_id, packed, _one_line(save.status))
        except (CheckpointTooLarge, StaleAttempt) as error:
            log(LogEvent.CHECKPOINT_FAILED, error=error)


def _one_line(status: str) -> str:
    return storable(" ".join(status.split()))[:STATUS_CHARACTERS] or "saved"
