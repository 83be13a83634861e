"""What the engine knows of those who run attempts: one protocol in, five reports out.

Owns the words between the engine and its executors. Refuses to know how anything runs. Invariants: nothing
is started before its row is committed; `Ended` comes once, when the whole tree is gone; an outcome is kept
by the executor until it is acknowledged; no call blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from stoker.core.job.limits import Bounds
from stoker.core.job.model import Attempt, Identity, Job, Outcome


class Start(Struct, frozen=True):
    """An attempt to start now; its row is on disk.

    `inputs`: what its needs handed on, as JSON by step or job id; None where that is too large for an environment.
    """

    job: Job
    attempt: Attempt
    inputs: str | None = "{}"


class Began(Struct, frozen=True):
    """It runs. `boot_ms` is since when, in milliseconds since boot; no identity: it has no process of its own."""

    run_id: str
    identity: Identity | None
    boot_ms: int
    bounds: Bounds | None = None


class AttemptEnded(Struct, frozen=True):
    """The attempt is over and nothing of its tree is left."""

    run_id: str
    outcome: Outcome


class Delivered(Struct, frozen=True):
    """What became of the first signal of a stop: False means that the process had ended before it."""

    run_id: str
    delivered: bool


class StartRefused(Struct, frozen=True):
    """The executor will not start this attempt: its disk knows more than our database."""

    run_id: str
    why: str


class Unproven(Struct, frozen=True):
    """It was to be taken from a launcher that does not answer, and nobody can prove that it is over."""

    run_id: str
    why: str


class Lost(Struct, frozen=True):
    """The launcher died under us: what it ran has to be found out as at a start."""

    launcher: str


Report = Began | AttemptEnded | Delivered | StartRefused | Unproven | Lost
Sink = Callable[[Sequence[Report]], None]


class Executor(Protocol):
    """Runs attempts of one execution mode."""

    @property
    def launcher(self) -> str | None:
        """Who would start an attempt now; None when nobody can."""

    def start(self, starts: Sequence[Start]) -> None:
        """Begin these attempts."""

    def stop(self, run_id: str, grace_ms: int) -> None:
        """Walk the stop ladder over the attempt's tree; `Ended` follows."""

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        """Its stop need not wait for whoever runs it, where that does not answer: `Ended` or `Unproven` follows."""

    def signal(self, run_id: str, signum: int) -> None:
        """Send one signal to the main process, as a warning."""

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        """These outcomes are on disk: forget them."""
