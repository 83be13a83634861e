"""A schedule: a template of a job or a workflow, and the times at which it is submitted.

Owns the closed lists of its policies and the shape of its row. Invariant: every slot up to `passed` is settled.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from stoker.core.units import instant


class Misfire(StrEnum):
    """The slots that came while no daemon ran, or could not submit: pass over them, submit the newest, or all."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class Overlap(StrEnum):
    """A slot comes while the run before it has not ended.

    Submit it all the same, pass over it, let it wait for that end, or let it take the place of that run.
    """

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"
    SUPERSEDE = "supersede"


class Origin(Struct, frozen=True):
    """The schedule that submits a job or a workflow, and the time that the run is for (UTC ms)."""

    schedule: str
    scheduled_for: int

    @property
    def key(self) -> str:
        """The idempotency key of the run: it is unique in the database, so that no slot is submitted twice."""
        return f"{runs_key(self.schedule)}{instant(self.scheduled_for)}"


class Schedule(Struct, frozen=True, kw_only=True):
    """One row of `schedules`. `job` or `flow`: the template, as JSON.

    `next_slot`: the first slot that is not settled, None if there is no further one. `declared`: in the settings file.
    `last_job`, `last_workflow`: its newest run, `last_slot` the time that this run is for.
    """

    name: str
    owner_uid: int
    timing: str
    zone: str = "UTC"
    misfire: Misfire = Misfire.LATEST
    overlap: Overlap = Overlap.SKIP
    catch_up_ms: int
    jitter_ms: int = 0
    paused: bool = False
    declared: bool = False
    job: str | None = None
    flow: str | None = None
    created_at: int
    passed: int
    next_slot: int | None
    last_slot: int | None = None
    last_job: int | None = None
    last_workflow: int | None = None


def runs_key(name: str) -> str:
    """The beginning of the keys of all runs of a schedule."""
    return f"schedule/{name}/"
