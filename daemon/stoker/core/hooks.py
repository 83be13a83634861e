"""Hooks: which changes run a command, and the data that the command gets.

Owns the table of the changes that a hook can name, with the filters that apply to each, and the JSON of a change for a
hook's job. A hook is declared in the settings file. The jobs that hooks submit trigger no hook, so there is no loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from stoker.core.job.cause import cause
from stoker.core.job.model import Change, Job, OnOrphan, Queue, Reason, Spec, State
from stoker.core.raw_bytes import native, printable
from stoker.core.requests import JobWork
from stoker.core.similar_names import did_you_mean
from stoker.core.units import counted, volume
from stoker.core.workflow.state import Workflow, WorkflowState

# The queue of all jobs of hooks, unless a person made it before. A message that is sent twice is better than a lost
# one.
QUEUE: Final = Queue(
    name="hooks",
    max_running=2,
    max_queued=10_000,
    defaults={
        "max_attempts": 5,
        "base_delay_ms": 5_000,
        "timeout_ms": 60_000,
        "on_orphan": OnOrphan.REQUEUE.value,
        "survive": False,
    },
)
MAX_SUMMARY = 200  # characters


class HookOn(StrEnum):
    """A kind of change that a hook can name."""

    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_EXPIRED = "job.expired"
    JOB_SKIPPED = "job.skipped"
    JOB_SUPERSEDED = "job.superseded"
    JOB_HELD = "job.held"
    JOB_UNRESPONSIVE = "job.unresponsive"
    WORKFLOW_SUCCEEDED = "workflow.succeeded"
    WORKFLOW_FAILED = "workflow.failed"
    WORKFLOW_CANCELLED = "workflow.cancelled"
    QUEUE_PAUSED = "queue.paused"
    QUEUE_RESUMED = "queue.resumed"
    QUEUE_THROTTLED = "queue.throttled"
    QUEUE_UNTHROTTLED = "queue.unthrottled"
    QUEUE_NARROWED = "queue.narrowed"
    QUEUE_WIDENED = "queue.widened"
    DISK_LOW = "disk.low"
    DISK_OK = "disk.ok"
    DAEMON_RECOVERED = "daemon.recovered"
    DAEMON_RESTORED = "daemon.restored"

    @property
    def noun(self) -> str:
        """`job`, `workflow`, `queue`, `disk` or `daemon`."""
        return self.value.partition(".")[0]

    @property
    def verb(self) -> str:
        """`failed`, `throttled`."""
        return self.value.partition(".")[2]


# By kind and new state.
NEW_STATES: Final[Mapping[tuple[str, str], HookOn]] = {
    (on.noun, on.verb): on for on in HookOn if on.noun in ("job", "workflow") and on is not HookOn.JOB_UNRESPONSIVE
}
# By kind and cause, of changes that change no state. A cause may have the name of a state that does not follow from it:
# a running job that is `superseded` finishes first, and a workflow that is `cancelled` still stops its steps.
CAUSES: Final[Mapping[tuple[str, str], HookOn]] = {
    ("job", "unresponsive"): HookOn.JOB_UNRESPONSIVE,
    **{(on.noun, on.verb): on for on in HookOn if on.noun == "queue"},
    ("system", "disk_low"): HookOn.DISK_LOW,
    ("system", "disk_ok"): HookOn.DISK_OK,
    ("system", "recovered"): HookOn.DAEMON_RECOVERED,
    ("system", "restored"): HookOn.DAEMON_RESTORED,
}

# The filters that apply to a change, by its noun.
FILTERS: Final[Mapping[str, frozenset[str]]] = {
    "job": frozenset({"queue", "workflow", "labels"}),
    "workflow": frozenset({"workflow"}),
    "queue": frozenset({"queue"}),
    "disk": frozenset(),
    "daemon": frozenset(),
}


class Hook(Struct, frozen=True, kw_only=True):
    """A filter that is None, or empty, lets every change pass."""

    name: str
    on: tuple[HookOn, ...]
    command: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    queue: str | None = None
    workflow: str | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> JobWork:
        """The command of its jobs. Raises InvalidParams."""
        return JobWork(
            command=self.command, args=self.args, env={**self.env}, working_dir=self.working_dir, queue=QUEUE.name
        )


class Subject(Struct, frozen=True):
    """The subject of a change: a job and its workflow, a workflow and the steps that broke it, or a queue. It is empty
    for the host and the daemon.
    """

    job: Job | None = None
    workflow: Workflow | None = None
    broken: tuple[str, ...] = ()
    queue: str | None = None


def kind_of(change: Change) -> HookOn | None:
    """The kind of a change; None for one that no hook can name."""
    if change.to_state is None or change.to_state == change.from_state:
        return CAUSES.get((change.kind, change.cause))
    return NEW_STATES.get((change.kind, change.to_state))


def matches(hook: Hook, subject: Subject) -> bool:
    """Whether the filters of a hook let a change of this subject pass."""
    job, workflow = subject.job, subject.workflow
    queue = subject.queue if job is None else job.spec.queue
    labels = {} if job is None else job.spec.labels
    return (
        (hook.queue is None or hook.queue == queue)
        and (hook.workflow is None or (workflow is not None and hook.workflow == workflow.name))
        and hook.labels.items() <= labels.items()
    )


def useless_filters(on: Iterable[HookOn], given: Iterable[str]) -> Iterator[tuple[str, HookOn]]:
    """The filters that do not apply to one of the changes that a hook names, each with the first such change."""
    for name in given:
        wrong = next((each for each in on if name not in FILTERS[each.noun]), None)
        if wrong is not None:
            yield name, wrong


def unmatched(hook: Hook, queues: Collection[str], workflows: Collection[str]) -> str | None:
    """Why no change can pass the filters of a hook now. `workflows`: the names that are stored or scheduled."""
    if hook.queue is not None and hook.queue != QUEUE.name and hook.queue not in queues:
        hint = did_you_mean(hook.queue, queues)
        return f"queue: there is no queue {hook.queue!r}" + (f" ({hint})" if hint else "")
    if hook.workflow is not None and hook.workflow not in workflows:
        return f"workflow: no workflow {hook.workflow!r} is stored, and no schedule submits one"
    return None


# --- the data that a command gets ---


def hook_data(hook: Hook, on: HookOn, change: Change, subject: Subject, host: str) -> dict[str, Any]:
    """The JSON of a change. `seq`: 0 for one that is made up; `details`: of a change that changes no state."""
    payload = {} if change.to_state != change.from_state or not isinstance(change.payload, dict) else change.payload
    return {
        "hook": hook.name,
        "on": on.value,
        "summary": summary(on, change, subject),
        "host": host,
        "seq": change.seq,
        "at": change.at,
        "subject": change.subject,
        "from_state": change.from_state,
        "to_state": change.to_state,
        "cause": change.cause,
        "actor_uid": change.actor_uid,
        "job": None if subject.job is None else _job(subject.job),
        "workflow": None if subject.workflow is None else _workflow(subject.workflow, subject.broken),
        "queue": subject.queue if subject.job is None else subject.job.spec.queue,
        "details": {name: value for name, value in payload.items() if name != "queue" and value is not None},
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.spec.name,
        "labels": job.spec.labels,
        "command": printable(native(job.spec.command)),
        "state": job.state.value,
        "reason": job.reason and job.reason.value,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "attempts": job.attempts,
        "owner_uid": job.owner_uid,
        "step": job.step,
        "schedule": job.spec.schedule,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _workflow(workflow: Workflow, broken: Iterable[str]) -> dict[str, Any]:
    return {
        "id": workflow.id,
        "name": workflow.name,
        "state": workflow.state.value,
        "broken": list(broken),
        "owner_uid": workflow.owner_uid,
        "created_at": workflow.created_at,
        "finished_at": workflow.finished_at,
    }


def summary(on: HookOn, change: Change, subject: Subject) -> str:
    """The change in one line of printable text, for the subject of a mail or a title."""
    line = _sentence(on, change, subject)
    if not line.isprintable():
        line = "".join(char if char.isprintable() else " " for char in line)
    return line if len(line) <= MAX_SUMMARY else f"{line[: MAX_SUMMARY - 1]}…"


def _sentence(on: HookOn, change: Change, subject: Subject) -> str:
    details: Mapping[str, Any] = change.payload if isinstance(change.payload, dict) else {}
    if subject.job is not None:
        name = f" ({subject.job.spec.name})" if subject.job.spec.name else ""
        reason = "" if on is HookOn.JOB_UNRESPONSIVE else _cause(subject.job)
        return f"job {subject.job.id}{name} {_VERBS.get(on.verb, on.verb)}{reason}"
    if subject.workflow is not None:
        steps = f": {', '.join(subject.broken)}" if subject.broken else ""
        return f"workflow {subject.workflow.id} ({subject.workflow.name}) {_VERBS.get(on.verb, on.verb)}{steps}"
    if subject.queue is not None:
        causes = f": {', '.join(details['causes'])}" if details.get("causes") else ""
        return f"queue {subject.queue} was {on.verb}{causes}"
    return _OF_HOST[on].format(
        free=volume(details.get("free_bytes", 0)), attempts=counted(details.get("attempts", 0), "attempt")
    )


def _cause(job: Job) -> str:
    """As `why` says it, but brief for the most common end."""
    return f": exit code {job.exit_code}" if job.state is State.FAILED and job.exit_code is not None else cause(job)


_VERBS: Final[Mapping[str, str]] = {
    "cancelled": "was cancelled",
    "skipped": "was skipped",
    "superseded": "was superseded",
    "held": "was held",
    "unresponsive": "is unresponsive",
}
_OF_HOST: Final[Mapping[HookOn, str]] = {
    HookOn.DISK_LOW: "the disk is low: {free} are free, no jobs are accepted",
    HookOn.DISK_OK: "the disk has room again: {free} are free",
    HookOn.DAEMON_RECOVERED: "stokerd started and found {attempts} of an earlier daemon unfinished",
    HookOn.DAEMON_RESTORED: "stokerd started on a restored database",
}


# --- a change that is made up, for `stoker hook test` ---------------------------------------------------------------

_DETAILS: Final[Mapping[str, dict[str, Any]]] = {
    "unresponsive": {"silent_ms": 30_000},
    "throttled": {"causes": ["cpu"], "levels": {"cpu": 95.0}},
    "narrowed": {"causes": ["cpu"], "limit": 1},
    "low": {"free_bytes": 0, "min_free_bytes": 0},
    "recovered": {"attempts": 1},
}


def made_up(hook: Hook, on: HookOn, now: int) -> tuple[Change, Subject]:
    """A change of a kind that passes the filters of a hook, numbered 0, and its subject."""
    subject = _made_up_subject(hook, on, now)
    change = Change(
        seq=0,
        at=now,
        kind="system" if on.noun in ("disk", "daemon") else on.noun,
        subject=subject.queue or "0",
        from_state="running" if subject.job or subject.workflow else None,
        to_state=_state(on) if subject.job or subject.workflow else None,
        cause="test",
        actor_uid=None,
        payload=_DETAILS.get(on.verb, {}),
    )
    return change, subject


def _state(on: HookOn) -> str:
    return "running" if on is HookOn.JOB_UNRESPONSIVE else on.verb


def _made_up_subject(hook: Hook, on: HookOn, now: int) -> Subject:
    name = hook.workflow or "test"
    workflow = Workflow(id=0, name=name, owner_uid=0, trace_id="", flow="", flow_hash=b"", created_at=now)
    if on.noun == "workflow":
        return Subject(workflow=replace(workflow, state=WorkflowState(on.verb)))
    if on.noun == "queue":
        return Subject(queue=hook.queue or "default")
    if on.noun != "job":
        return Subject()
    spec = Spec(command="test", working_dir="/", name="test", queue=hook.queue or "default", labels=hook.labels)
    job = Job(id=0, spec=spec, spec_hash=b"", owner_uid=0, trace_id="", state=State(_state(on)), created_at=now)
    if job.state is State.FAILED:
        job = replace(job, reason=Reason.EXIT, exit_code=1)
    return Subject(job=job, workflow=workflow if hook.workflow else None)
