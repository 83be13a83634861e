"""Short answers about jobs: the values that pass from engine/ to rpc/.

Owns what a submit and a command on a job answer. Answers that are read from the database are the types of `views`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from stoker.core.job.model import Job, Reason, State


class SubmitAnswer(Struct, frozen=True, gc=False):
    """`existing`: the job had been submitted before with the same idempotency key.

    Of a job with a `supersede_key`: `superseded`, the jobs that it replaced, and `starts_after`, those of its key that
    still run, or are being stopped.
    """

    id: int
    state: State
    existing: bool = False
    superseded: tuple[int, ...] | UnsetType = UNSET
    starts_after: tuple[int, ...] | UnsetType = UNSET


class JobStanding(Struct, frozen=True, kw_only=True, gc=False):
    """The state of a job. `stopping`: it is still running, and a stop is under way.

    `superseded_by`: the newer job of its `supersede_key` that takes its place.
    `taken_up`: jobs that had been skipped because of this one, and are to run again with it.
    """

    id: int
    state: State
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    superseded_by: int | None = None
    stopping: bool = False
    taken_up: tuple[int, ...] = ()


class EditedJob(JobStanding, frozen=True, kw_only=True, gc=False):
    """The state of an edited job. `changed`: each changed field, with its old and its new value."""

    changed: dict[str, tuple[Any, Any]]


def job_standing(job: Job, *, stopping: bool = False, taken_up: Sequence[int] = ()) -> JobStanding:
    return JobStanding(
        id=job.id,
        state=job.state,
        reason=job.reason,
        exit_code=job.exit_code,
        signal=job.signal,
        superseded_by=job.superseded_by,
        stopping=stopping,
        taken_up=tuple(taken_up),
    )
