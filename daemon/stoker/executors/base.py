"""The contract between the engine and its executors: orders in, reports out.

Invariants: nothing is started before its row is committed; `Ended` comes once, when the whole process tree is gone; the
executor keeps an outcome until it is acknowledged; no call blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Identity, Job
from stoker.core.job.recovery import NEVER_STARTED


class Start(Struct, frozen=True):
    """An attempt to start now; its row is committed.

    `inputs`: the outputs of its needs, as JSON by step or job id; None if they are too large for an environment.
    `failed`, `workflow_state`: of a handler of a whole workflow, the jobs that failed before it, and the state that the
    workflow is to have. `events`: the named events that the job got; only a handler of the daemon needs them here.
    """

    job: Job
    attempt: Attempt
    inputs: str | None = "{}"
    events: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[int] = ()
    workflow_state: str | None = None

    @property
    def needed(self) -> list[int]:
        """The jobs whose ends are its inputs."""
        return [*self.job.needed, *self.failed]


class Report(Struct, frozen=True):
    """An event of a run, in the terms of `core.job.events`."""

    run_id: str
    event: ev.Began | ev.Delivered | ev.Ended | ev.Refused | ev.Stuck


Sink = Callable[[Sequence[Report]], None]


def never_started(start: Start) -> Report:
    return Report(start.attempt.run_id, ev.Ended(outcome=NEVER_STARTED))


class Executor(Protocol):
    def launcher_for(self, job: Job) -> str | None:
        """The launcher that would start an attempt of this job now; None while there is none."""

    def refuses(self, start: Start) -> bool:
        """Whether it can only report that this cannot start, so that its inputs are not needed."""

    def start(self, starts: Sequence[Start]) -> None:
        """Begin these attempts."""

    def stop(self, run_id: str, grace_ms: int) -> None:
        """Walk the stop ladder over the whole process tree of the attempt; `Ended` follows."""

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        """Do not wait for a launcher that does not answer to stop it: `Ended` or `Stuck` follows."""

    def signal(self, run_id: str, signum: int) -> None:
        """Send one signal to the main process, as a warning."""

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        """These outcomes are committed: forget them."""
