"""Schedules as clients see them, for type checkers and editors.

Owns the answers of the methods `schedule.*` as TypedDicts; see `core.views`.
"""

from __future__ import annotations

from typing import Any, TypedDict

# The part that a schedule submits of its workflow: names of steps, and the workflow to reuse, or `latest`. No class can
# have a field with the name `from`.
FlowPartView = TypedDict("FlowPartView", {"target": list[str], "from": list[str], "reuse": int | str | None})


class ScheduleView(TypedDict):
    """`next_slot`: the time of the next run, before its jitter; None if there is none, or while it is paused.

    `submits`: the command of its jobs, or the name of its workflows; `part`: None if it submits all of them.
    """

    name: str
    submits: str
    part: FlowPartView | None
    owner_uid: int
    timing: str
    zone: str
    misfire: str
    overlap: str
    catch_up_ms: int
    jitter_ms: int
    paused: bool
    declared: bool
    created_at: int
    next_slot: int | None
    last_slot: int | None
    last_job: int | None
    last_workflow: int | None


class ScheduleRunView(TypedDict):
    """`job`: of a workflow, its first job; `state`: the state of the workflow or job."""

    scheduled_for: str
    job: int
    workflow: int | None
    state: str


class ScheduleDetails(ScheduleView):
    """`job` or `flow`: the template; `runs`: the newest ones, newest first."""

    job: Any
    flow: Any
    runs: list[ScheduleRunView]


class SchedulePage(TypedDict):
    """`next`: the name after which the next page begins."""

    schedules: list[ScheduleView]
    next: str | None


class ScheduleRemoved(TypedDict):
    name: str


class ScheduleRunAnswer(TypedDict):
    name: str
    scheduled_for: int
    job: int
    workflow: int | None


class SlotView(TypedDict):
    """A slot, and when its run is submitted: its jitter later."""

    slot: int
    submitted_at: int


class ComingSlots(TypedDict):
    name: str
    zone: str
    slots: list[SlotView]
