"""The parameters of every method, and `read_params`, which validates them.

Owns the types of requests that only a handler reads; those that go on to the service are in `core`. A mistake raises
InvalidParams with a message from param_errors.py. The engine checks whether a job or queue exists. The jobs of a batch
are validated one by one later, as each has its own error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from stoker.core.errors import InvalidParams
from stoker.core.job.model import NeedOn
from stoker.core.requests import (
    MAX_INT,
    AbsolutePath,
    Bound,
    Budget,
    Delay,
    Duration,
    JobChanges,
    JobId,
    JobParam,
    Name,
    Note,
    PageLimit,
    Params,
    RateName,
    StepName,
    Title,
    WorkflowParams,
)
from stoker.core.workflow.state import Again
from stoker.rpc.param_errors import invalid_params, moved, short_error

MAX_JOBS = 10_000
MAX_NAMED_STEPS = 100
AttemptNumber = Annotated[int, Meta(ge=1, le=MAX_INT)]
AttemptToken = Annotated[str, Meta(max_length=200)]
P = TypeVar("P", bound=Params)


class NoParams(Params, frozen=True, kw_only=True):
    pass


class SubmitManyParams(Params, frozen=True, kw_only=True):
    jobs: Annotated[list[Any], Meta(max_length=MAX_JOBS)]
    atomic: bool = False


class GetParams(JobParam, frozen=True, kw_only=True):
    """`before`: only attempts older than that one."""

    before: AttemptNumber | None = None
    limit: PageLimit = 100


class HistoryParams(JobParam, frozen=True, kw_only=True):
    """`after`: only changes after that sequence number."""

    after: Bound = 0
    limit: PageLimit = 500


class FindParams(Params, frozen=True, kw_only=True):
    idempotency_key: Title


class WorkerParams(Params, frozen=True, kw_only=True):
    job: JobId


class EditParams(JobChanges, frozen=True, kw_only=True):
    id: JobId
    reason: Note | None = None


class WaitParams(Params, frozen=True, kw_only=True):
    """`token`: that of the attempt in which the client runs, so that jobs that wait for each other are noticed."""

    ids: Annotated[tuple[JobId, ...], Meta(min_length=1, max_length=MAX_JOBS)]
    any: bool = False
    timeout_ms: Delay | None = None
    token: AttemptToken | None = None

    @property
    def awaited(self) -> int:
        return len(self.ids)


class LogsParams(JobParam, frozen=True, kw_only=True):
    """`tail_lines`: begin with the last lines; `tail_bytes`: and with no more than these last bytes.

    `token`: as in WaitParams, of a client that waits for the end.
    """

    attempt: AttemptNumber | None = None
    offset: Bound | None = None
    tail_lines: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    tail_bytes: Bound | None = None
    follow: bool = False
    token: AttemptToken | None = None


class QueueWaitParams(Params, frozen=True, kw_only=True):
    """`places`: for how many jobs; `places_in_all`: for how many in all queues together, if that is more.

    `workflow`: they are the steps of one.
    """

    name: Name
    places: Budget = 1
    places_in_all: Budget = 1
    workflow: bool = False
    timeout_ms: Delay | None = None

    @property
    def awaited(self) -> int:
        return 1


class QueueParams(Params, frozen=True, kw_only=True):
    name: Name
    reason: Note | None = None


class ResourceSetParams(Params, frozen=True, kw_only=True):
    name: Name
    capacity: Bound
    reason: Note | None = None


class RateParams(Params, frozen=True, kw_only=True):
    key: RateName
    reason: Note | None = None


class ScheduleParam(Params, frozen=True, kw_only=True):
    name: Name


class ScheduleVerbParams(ScheduleParam, frozen=True, kw_only=True):
    reason: Note | None = None


class ScheduleListParams(Params, frozen=True, kw_only=True):
    """`after`: only schedules behind that name."""

    after: Annotated[str, Meta(max_length=64)] = ""
    limit: PageLimit = 100


class ScheduleNextParams(ScheduleParam, frozen=True, kw_only=True):
    count: Annotated[int, Meta(ge=1, le=100)] = 10


class DrainParams(Params, frozen=True, kw_only=True):
    stop: bool = False


class BackupParams(Params, frozen=True, kw_only=True):
    """`to`: a file outside of the state directory; None makes the backup inside of it."""

    to: AbsolutePath | None = None


class WatchParams(Params, frozen=True, kw_only=True):
    """`history`: that of `system.status` when `after` was read. A cursor of another history is refused.

    `token`: as in WaitParams, of a client that waits for the end of the job or workflow.
    """

    after: Bound | None = None
    history: Name | None = None
    job: JobId | None = None
    workflow: JobId | None = None
    token: AttemptToken | None = None


class WorkflowGetParams(Params, frozen=True, kw_only=True):
    id: JobId
    analyse: bool = False


class CheckpointGetParams(Params, frozen=True, kw_only=True):
    """`offset`: return a piece of the data from there; `context`: return the workflow as it was at the checkpoint."""

    id: JobId
    offset: Bound | None = None
    context: bool = False


class CheckpointListParams(Params, frozen=True, kw_only=True):
    """The checkpoints of a workflow, or of a job outside a workflow."""

    workflow: JobId | None = None
    job: JobId | None = None
    before_seq: JobId | None = None
    limit: PageLimit = 100


class WorkflowRetryParams(WorkflowParams, frozen=True, kw_only=True):
    """The steps to retry: those that failed (the default), all, or `steps` and the steps that depend on these.

    `steps`: names of steps and of groups of steps; `step`: the same for one name.
    """

    again: Again = Again.FAILED
    step: StepName | None = None
    steps: Annotated[tuple[StepName, ...], Meta(max_length=MAX_NAMED_STEPS)] = ()
    timeout_ms: Duration | None = None
    max_attempts: Budget | None = None


class WorkflowStepParams(WorkflowParams, frozen=True, kw_only=True):
    step: StepName


class WorkflowStepsParams(Params, frozen=True, kw_only=True):
    """The steps that a name stands for, with their jobs; without a name all."""

    id: JobId
    step: StepName | None = None


class WorkflowNeedParams(WorkflowStepParams, frozen=True, kw_only=True):
    need: StepName


class WorkflowAddNeedParams(WorkflowNeedParams, frozen=True, kw_only=True):
    on: NeedOn = NeedOn.OK


class WorkflowRollbackParams(WorkflowParams, frozen=True, kw_only=True):
    """`to`: the id of a checkpoint of this workflow; `redo`: also reset the steps that were completed since then."""

    to: JobId | Literal["latest"]
    redo: bool = False
    resume: bool = False


def read_params(value: object, params: type[P], within: str = "", *, full_text: bool = True) -> P:
    """`value` as `params`. `within` is the path of the value in the request, as in `jobs[3]`.

    Raises InvalidParams, with a helpful message, or with `full_text` off with the short one of msgspec.
    """
    try:
        return msgspec.convert(value, params)
    except msgspec.ValidationError as error:
        raise (
            invalid_params(str(error), value, params, within) if full_text else short_error(str(error), within)
        ) from None
    except InvalidParams as error:
        raise moved(error, within) from None
