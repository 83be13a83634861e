"""In place of the executor of a cluster where the settings have none.

Jobs of an earlier setting may still be there: they are not started, and open runs are left to their nodes, which record
their ends for a daemon that has the setting again.
"""

from __future__ import annotations

from collections.abc import Sequence

from stoker.core.job.model import Identity, Job
from stoker.executors.base import Sink, Start, never_started


class WithoutCluster:
    """For jobs of a cluster that the settings no longer know: none is started, and the open ones are left alone."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def launcher_for(self, _job: Job) -> str | None:
        return None

    def refuses(self, _start: Start) -> bool:
        return True

    def start(self, starts: Sequence[Start]) -> None:
        self._sink([never_started(start) for start in starts])

    def stop(self, run_id: str, grace_ms: int) -> None:
        """Its node does not hear of the stop before [cluster] directory is set again."""

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        """No launcher has it."""

    def signal(self, run_id: str, signum: int) -> None:
        """Its node does not hear of the signal."""

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        """No outcome is kept here."""
