"""The contract of a cluster's engine: the few things that are asked of it, each by its own commands.

Owns the two ways in which it can fail to answer. docs/backends.md says how another engine is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from stoker.core.cluster import ClusterOptions, EngineJob


class EngineAway(Exception):
    """The engine of the cluster does not answer. Nothing is known, and what was asked for may have been done."""


class EngineRefused(Exception):
    """The engine answered, and did not do what was asked for."""


class EngineFull(EngineRefused):
    """The engine takes no more jobs of this user or account now; it will, once others have ended."""


def name_of(run_id: str) -> str:
    """The name of the job of a run, for people."""
    return f"stoker-{run_id.partition('.')[0]}"


class ClusterEngine(Protocol):
    """Calls take long: each is made in a thread, and has an end. All may raise EngineAway or EngineRefused.

    A controller that was killed may give a number out again: only a job that has the name, too, may be ended by it.
    """

    def submit(
        self, run_id: str, name: str, script: Path, arguments: Sequence[str], errors: Path, options: ClusterOptions
    ) -> int:
        """Hand a job over that runs `script` once, on one node; give its number. It carries the run_id, so that `jobs`
        finds it when this answer is lost. `errors` gets what the script complains of. May raise EngineFull.
        """

    def jobs(self) -> Mapping[str, EngineJob]:
        """All jobs of this user that have a run, by run_id, in one question however many there are."""

    def accounts(self, runs: Mapping[int, str]) -> Sequence[EngineJob]:
        """Those of these runs, by number, whose jobs are over, and which `jobs` does not list any more."""

    def signal(self, job: int, name: str, signum: int) -> None:
        """Send a signal to the script of a job of this name that runs, and to nothing else of it."""

    def cancel(self, jobs: Mapping[int, str]) -> None:
        """Remove jobs that wait, and kill those that run. `jobs`: the name of each, by number."""
