"""The parameters of every method.

Owns the shape of requests (a job itself is `core.requests.JobParams`) and `read_params`, which turns a JSON value
into them or raises InvalidParams (param_errors.py finds the words). Refuses semantics: whether a job or queue exists is
the engine's to know. The jobs of a batch stay unread here: each has its own error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from stoker.core.errors import InvalidParams
from stoker.core.job.model import NeedOn, QueueClass, State
from stoker.core.requests import (
    Bound,
    Budget,
    Delay,
    Duration,
    Instant,
    JobChanges,
    JobDefaults,
    JobId,
    Name,
    Note,
    Params,
    Title,
)
from stoker.core.workflow.state import Again, WorkflowState
from stoker.rpc.param_errors import complaint, in_short, moved

MAX_JOBS = 10_000
P = TypeVar("P", bound=Params)


class NoParams(Params, frozen=True, kw_only=True):
    pass


class SubmitManyParams(Params, frozen=True, kw_only=True):
    jobs: Annotated[list[Any], Meta(max_length=MAX_JOBS)]
    atomic: bool = False


class JobParam(Params, frozen=True, kw_only=True):
    id: JobId


PageLimit = Annotated[int, Meta(ge=1, le=1000)]


class GetParams(JobParam, frozen=True, kw_only=True):
    """`before`: older attempts than that one."""

    before: Annotated[int, Meta(ge=1)] | None = None
    limit: PageLimit = 100


class HistoryParams(JobParam, frozen=True, kw_only=True):
    """`after`: changes behind that sequence number."""

    after: Bound = 0
    limit: PageLimit = 500


class FindParams(Params, frozen=True, kw_only=True):
    idempotency_key: Title


class ListParams(Params, frozen=True, kw_only=True):
    states: tuple[State, ...] = ()
    queue: Name | None = None
    name: Title | None = None
    label: Annotated[str, Meta(pattern="=", max_length=300)] | None = None
    limit: PageLimit = 100
    before: JobId | None = None


class WorkerParams(Params, frozen=True, kw_only=True):
    """The worker of which job."""

    job: JobId


class VerbParams(JobParam, frozen=True, kw_only=True):
    reason: Note | None = None


class AgainParams(VerbParams, frozen=True, kw_only=True):
    yes: bool = False


class RestartParams(AgainParams, frozen=True, kw_only=True):
    force: bool = False
    reassign: bool = False


class RetryParams(AgainParams, frozen=True, kw_only=True):
    timeout_ms: Duration | None = None
    deadline: Instant | None = None


class EditParams(JobChanges, frozen=True, kw_only=True):
    id: JobId
    reason: Note | None = None


class WaitParams(Params, frozen=True, kw_only=True):
    ids: Annotated[tuple[JobId, ...], Meta(min_length=1, max_length=MAX_JOBS)]
    any: bool = False
    timeout_ms: Delay | None = None


class LogsParams(JobParam, frozen=True, kw_only=True):
    attempt: Annotated[int, Meta(ge=1)] | None = None
    offset: Bound | None = None
    tail_lines: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    follow: bool = False


class QueueParams(Params, frozen=True, kw_only=True):
    name: Name
    reason: Note | None = None


class QueueSetParams(Params, frozen=True, kw_only=True):
    name: Name
    queue_class: QueueClass | UnsetType = msgspec.field(default=UNSET, name="class")
    max_running: Bound | UnsetType | None = UNSET
    max_queued: Bound | UnsetType | None = UNSET
    defaults: JobDefaults | UnsetType = UNSET
    reason: Note | None = None


class ResourceSetParams(Params, frozen=True, kw_only=True):
    name: Name
    capacity: Bound
    reason: Note | None = None


class DrainParams(Params, frozen=True, kw_only=True):
    stop: bool = False


class WatchParams(Params, frozen=True, kw_only=True):
    after: Bound | None = None
    job: JobId | None = None


class WorkflowParams(Params, frozen=True, kw_only=True):
    id: JobId
    reason: Note | None = None


class WorkflowGetParams(Params, frozen=True, kw_only=True):
    id: JobId
    analyse: bool = False


class CheckpointGetParams(Params, frozen=True, kw_only=True):
    """`offset` asks for a piece of the data; `context` for the whole workflow as it was then."""

    id: JobId
    offset: Bound | None = None
    context: bool = False


class CheckpointListParams(Params, frozen=True, kw_only=True):
    """Of a workflow, or of a job that is a step of none."""

    workflow: JobId | None = None
    job: JobId | None = None
    before_seq: JobId | None = None
    limit: PageLimit = 100


class WorkflowListParams(Params, frozen=True, kw_only=True):
    states: tuple[WorkflowState, ...] = ()
    limit: PageLimit = 100
    before: JobId | None = None


class WorkflowRetryParams(WorkflowParams, frozen=True, kw_only=True):
    """Which steps: those that failed (the default), all, or one and what is behind it."""

    again: Again = Again.FAILED
    step: Name | None = None
    timeout_ms: Duration | None = None
    max_attempts: Budget | None = None


class WorkflowStepParams(WorkflowParams, frozen=True, kw_only=True):
    step: Name


class WorkflowNeedParams(WorkflowStepParams, frozen=True, kw_only=True):
    need: Name


class WorkflowAddNeedParams(WorkflowNeedParams, frozen=True, kw_only=True):
    on: NeedOn = NeedOn.OK


class WorkflowResumeParams(WorkflowParams, frozen=True, kw_only=True):
    """`strategy`: instead of the steps' own; `from`: this step and what is behind it; `explain`: change nothing."""

    strategy: Name | None = None
    start: Name | None = msgspec.field(default=None, name="from")
    explain: bool = False
    verify: bool = True
    timeout_ms: Duration | None = None
    max_attempts: Budget | None = None


class WorkflowRollbackParams(WorkflowParams, frozen=True, kw_only=True):
    """`to`: the id of a checkpoint of this workflow; `redo`: what was completed since is taken again, too."""

    to: JobId | Literal["latest"]
    redo: bool = False
    resume: bool = False


def read_params(value: object, params: type[P], within: str = "", *, full_text: bool = True) -> P:
    """`value` as `params`. `within` is where the value stands in the request, as in `jobs[3]`.

    Raises InvalidParams, in words that help, or with `full_text` off in those of the decoder, which cost nothing.
    """
    try:
        return msgspec.convert(value, params)
    except msgspec.ValidationError as error:
        found = complaint(str(error), value, params, within) if full_text else in_short(str(error), within)
        raise found from None
    except InvalidParams as error:
        raise moved(error, within) from None
