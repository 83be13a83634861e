"""The states of a workflow and its rows, and which steps a retry resets.

Steps are jobs and go through `lifecycle.step`. Invariants: the state of a workflow is computed from its intent and the
states of its steps, and never set in another way; a completed step does not run again unless a person asks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from stoker.core.job.dependencies import UNMET, watches_failure
from stoker.core.job.model import FINAL, Job, NeedOn, Reason, State, When
from stoker.core.requests import JobId, LabelText, PageLimit, Params
from stoker.core.workflow.handlers import Handler
from stoker.core.workflow.phases import PHASES, phase, phase_in
from stoker.core.workflow.step_names import outer_of, outers_of


class WorkflowState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLING_BACK = "rolling_back"


ENDED = frozenset({WorkflowState.SUCCEEDED, WorkflowState.FAILED, WorkflowState.CANCELLED})


class Intent(StrEnum):
    """The request of a person for a workflow; `rollback` lasts until its last step has stopped.

    `abort` is Stoker's own: the workflow fails, because of a limit or an exit code of a step.
    """

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    ROLLBACK = "rollback"
    ABORT = "abort"


ENDING = frozenset({Intent.CANCEL, Intent.ABORT})  # its open steps end; only handlers may start


class Strategy(StrEnum):
    """The action of a resume for a step that did not complete; users may register strategies that choose one."""

    RESTART = "restart"
    FROM_CHECKPOINT = "from_checkpoint"
    SKIP = "skip"
    FAIL = "fail"


class Edge(Struct, frozen=True, gc=False):
    """One need of a step."""

    step: str
    on: NeedOn = NeedOn.OK


class Linked(Protocol):
    """A step of a graph, planned or stored."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> Iterable[Edge]: ...


class Step(Struct, frozen=True, kw_only=True, gc=False):
    """The part of a step that is not in its job, and its needs by name. `when`: as in its spec; `run_if`: its text.

    `critical`: whether its failure is one of the whole workflow; `breaks`: of the nested workflow that it is in.
    `handler`: the table of a handler; None for an ordinary step. `fail_fast`: the group whose
    open steps its failure ends; `abort_on`: exit codes that end the workflow.
    """

    name: str
    job_id: int
    needs: tuple[Edge, ...] = ()
    when: When | None = None
    run_if: str | None = None
    critical: bool = True
    breaks: bool = True
    resume: str = Strategy.FROM_CHECKPOINT.value
    verify: bool = False
    handler: Handler | None = None
    fail_fast: str | None = None
    abort_on: tuple[int, ...] = ()


class Workflow(Struct, frozen=True, kw_only=True, gc=False):
    """One row of `workflows`. `flow` is the JSON that was sent.

    `target`: of a rollback where it leads, of an abort its cause. `deadline` is wall time, `expires_at`, the end of its
    timeout, steady time. `cut`: the groups whose open steps are to be ended, one in each line. Of the workflows of an
    owner with the same `concurrency_key` the one with the smallest `place` goes first. `labels`: JSON.
    """

    id: int
    name: str
    owner_uid: int
    trace_id: str
    flow: str
    flow_hash: bytes
    created_at: int
    state: WorkflowState = WorkflowState.RUNNING
    intent: Intent = Intent.RUN
    target: str | None = None
    finished_at: int | None = None
    deadline: int | None = None
    expires_at: int | None = None
    cut: str | None = None
    concurrency_key: str | None = None
    place: int = 0
    labels: str = "{}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class WorkflowFilter(Params, frozen=True, kw_only=True):
    """The workflows to list, newest first; `before` is the cursor. Empty `states` means all."""

    states: tuple[WorkflowState, ...] = ()
    label: LabelText | None = None
    limit: PageLimit = 100
    before: JobId | None = None


_GOOD = frozenset({State.SUCCEEDED, State.SUPERSEDED})


def state_of(intent: Intent, states: Mapping[str, State], broken: Collection[str]) -> WorkflowState:
    """The state that follows from the `states` of all steps, and from `broken`: critical steps without success."""
    if any(state not in FINAL for state in states.values()):
        match intent:
            case Intent.PAUSE:
                return WorkflowState.PAUSED
            case Intent.ROLLBACK:
                return WorkflowState.ROLLING_BACK
        return WorkflowState.RUNNING
    if intent is Intent.ROLLBACK:
        return WorkflowState.ROLLING_BACK
    if intent is Intent.CANCEL:
        return WorkflowState.CANCELLED
    return WorkflowState.FAILED if broken or intent is Intent.ABORT else WorkflowState.SUCCEEDED


def is_done(state: State, reason: Reason | None) -> bool:
    """Whether a step needs nothing more: it succeeded, a person skipped it, or it is not needed."""
    return state in _GOOD or (state is State.SKIPPED and reason is not Reason.DEPENDENCY)


def is_broken(step: Step, state: State, *, by_dependency: bool) -> bool:
    """Whether this end of a step makes its workflow fail."""
    if not step.critical or state not in FINAL or state in _GOOD:
        return False
    return state is not State.SKIPPED or by_dependency


FAILURES = frozenset({State.FAILED, State.EXPIRED})


def aborts(step: Step, job: Job) -> bool:
    """Whether this end of a step ends its workflow."""
    return job.state is State.FAILED and job.reason is Reason.EXIT and job.exit_code in step.abort_on


def cuts(step: Step, job: Job) -> str | None:
    """The group whose open steps this end of a step ends."""
    return step.fail_fast if job.state in FAILURES else None


class Again(StrEnum):
    """The steps that a retry runs again."""

    INCOMPLETE = "incomplete"
    FAILED = "failed"
    ALL = "all"


_UNDONE = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED, State.HELD})


def to_reset(
    again: Again, steps: Iterable[Step], states: Mapping[str, State], reasons: Mapping[str, Reason | None]
) -> set[str]:
    """The steps to run again, including those that are running."""
    if again is Again.ALL:
        return {step.name for step in steps}
    failed = {
        step.name
        for step in steps
        if states[step.name] in _UNDONE
        or (states[step.name] is State.SKIPPED and reasons[step.name] is Reason.DEPENDENCY)
    }
    if again is Again.FAILED:
        return failed
    return failed | {step.name for step in steps if states[step.name] not in FINAL}


def behind(steps: Iterable[Linked], roots: Iterable[str]) -> set[str]:
    """`roots` and all steps that need them, directly or through others."""
    needed_by: dict[str, list[str]] = {}
    for step in steps:
        for edge in step.needs:
            needed_by.setdefault(edge.step, []).append(step.name)
    reached, ahead = set(), list(roots)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += needed_by.get(name, [])
    return reached


def handlers(
    steps: Collection[Step],
    roots: AbstractSet[str],
    states: Mapping[str, State],
    reasons: Mapping[str, Reason | None],
) -> set[str]:
    """The steps that may start because one of `roots` failed, and all steps behind these.

    They belong to one run of the steps that they watch, so they run again with these; not those that a person skipped.
    Handlers of a workflow watch all its ordinary steps, and `finally` the handlers before it.
    """
    earliest: dict[str, int] = {}  # the phase of the first root in each workflow
    for step in steps:
        for outer in outers_of(step.name) if step.name in roots else ():
            earliest[outer] = min(earliest.get(outer, PHASES), phase_in(outer, step.name, step.handler))
    watching = [
        step.name
        for step in steps
        if step.name not in roots and (_is_after(step, earliest) or _watches_one_of(step, roots))
    ]
    if not watching:
        return set()  # the usual case, found without the graph of ten thousand steps
    found = behind(steps, watching) - roots
    return {name for name in found if states[name] is not State.SKIPPED or reasons[name] in UNMET}


def _is_after(step: Step, earliest: Mapping[str, int]) -> bool:
    return step.handler is not None and phase(step.handler) > earliest.get(outer_of(step.name), PHASES)


def _watches_one_of(step: Step, roots: AbstractSet[str]) -> bool:
    return any(
        edge.on is not NeedOn.OK and edge.step in roots and watches_failure(edge.on, step.when) for edge in step.needs
    )
