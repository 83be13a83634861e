"""A schedule: a template of a job or a workflow, and the times at which it is submitted.

Owns the closed lists of its policies and the shape of its row. Invariant: every slot up to `passed` is settled.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec
from msgspec import Struct, field

from stoker.core.units import instant


class Misfire(StrEnum):
    """The action for slots that passed while no daemon could submit them: skip them, submit the newest, or all."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class Overlap(StrEnum):
    """The action for a slot that comes while the previous run has not ended.

    Submit it anyway, skip it, let it wait for that end, or let it replace that run.
    """

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"
    SUPERSEDE = "supersede"


class Origin(Struct, frozen=True):
    """The schedule that submits a job or a workflow, and the time that the run is for (UTC ms).

    `asked`: a unique word for a run by hand, as there may be many in a millisecond.
    """

    schedule: str
    scheduled_for: int
    asked: str = ""

    @property
    def key(self) -> str:
        """The idempotency key of the run: it is unique in the database, so that no slot is submitted twice."""
        slot = f"{runs_key(self.schedule)}{instant(self.scheduled_for)}"
        return f"{slot}/{self.asked}" if self.asked else slot


class FlowPart(Struct, frozen=True, omit_defaults=True):
    """The part that a schedule submits of its workflow, as in `workflow.submit`; `latest` is its newest run."""

    target: tuple[str, ...] = ()
    start: tuple[str, ...] = field(default=(), name="from")
    reuse: int | Literal["latest"] | None = None


class Schedule(Struct, frozen=True, kw_only=True):
    """One row of `schedules`. `job` or `flow`: the template, as JSON; `part`: a FlowPart, as JSON.

    `next_slot`: the first slot that is not settled, None after the last one. `declared`: it is in the settings file.
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
    part: str | None = None
    created_at: int
    passed: int
    next_slot: int | None
    last_slot: int | None = None
    last_job: int | None = None
    last_workflow: int | None = None

    @property
    def flow_part(self) -> FlowPart:
        return FlowPart() if self.part is None else msgspec.json.decode(self.part, type=FlowPart)


def runs_key(name: str) -> str:
    """The beginning of the keys of all runs of a schedule."""
    return f"schedule/{name}/"
