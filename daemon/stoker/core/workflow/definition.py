"""A workflow as it is sent: a flow, its steps and the request to accept it.

Owns the fields of a flow file and of a step, and the meaning of a condition (`when`) for the needs of a step.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from stoker.core.job import conditions
from stoker.core.job.conditions import Tree
from stoker.core.job.model import NeedOn, When
from stoker.core.job.secret_values import MAX_SECRETS, SecretName, Secrets
from stoker.core.raw_bytes import RawBytes
from stoker.core.requests import (
    MAX_LABELS,
    MAX_NEEDS,
    Budget,
    Duration,
    ExitCodes,
    JobCircumstances,
    JobId,
    JobWork,
    Name,
    Params,
    Path,
    Priority,
    StepName,
    Text,
    Title,
)
from stoker.core.workflow.handlers import STEPS, Handler
from stoker.core.workflow.items import Item
from stoker.core.workflow.matrix import Matrix, size_of
from stoker.core.workflow.mistakes import Mistake
from stoker.core.workflow.state import Edge

MAX_STEPS = 10_000
MAX_KEY = 256  # characters of a key of workflows that run one at a time
MAX_DEPTH = 8  # flows inside each other
MAX_PATTERNS = 100  # of files of a step
MAX_NAMED_STEPS = 100  # in one request
StepNames = Annotated[tuple[StepName, ...], Meta(max_length=MAX_NAMED_STEPS)]
Reused = Annotated[JobId | Literal["latest"], Meta(title="the id of a workflow, or 'latest'")]
OUTSIDE = "stoker.outside"  # the handler of a step that waits for work outside of its workflow


def entry_of(need: str) -> str:
    """The entry of the flow that a need names: `align` for `align[{{item}}]`."""
    return need.partition("[")[0] if need.endswith("]") else need


class StepNeed(Params, frozen=True, kw_only=True):
    """A need of a step: on another step, or on a job or a workflow outside of this one.

    `same`: of a group, only the step of the same item.
    """

    step: StepName | UnsetType = UNSET
    job: JobId | UnsetType = UNSET
    workflow: JobId | UnsetType = UNSET
    on: NeedOn | UnsetType = UNSET
    same: Literal["item"] | UnsetType = UNSET

    @property
    def targets(self) -> dict[str, str | int]:
        """All that it names, by field; one of the three if it is right."""
        fields = {"step": self.step, "job": self.job, "workflow": self.workflow}
        return {field: value for field, value in fields.items() if value is not UNSET}

    @property
    def outside(self) -> str | None:
        """The step that waits for the work outside that it names: `job:41`. It is also the condition to wait for."""
        if self.step is not UNSET or len(targets := self.targets) != 1:
            return None
        ((field, value),) = targets.items()
        return f"{field}:{value}"

    @property
    def name(self) -> str:
        """The step that it names."""
        return self.step if isinstance(self.step, str) else self.outside or ""

    @property
    def group(self) -> str:
        """The entry of the flow that it names: `align` for `align[{{item}}]`."""
        return entry_of(self.name)

    @property
    def is_single(self) -> bool:
        """Whether it means one step of a group, not all."""
        return self.same is not UNSET or self.name != self.group


class ItemSource(Params, frozen=True, kw_only=True):
    """Where the items of `each` come from, instead of a list: an output of an earlier step, or a file.

    Only the client reads a file; it sends the list in place of it.
    """

    step: Name | UnsetType = UNSET
    output: Name | UnsetType = UNSET
    file: Text | UnsetType = UNSET


class StepWhen(StrEnum):
    """The condition of a step as it is sent."""

    ALL_OK = "all_ok"
    ANY_FAILED = "any_failed"
    ALL_FAILED = "all_failed"
    ANY_OK = "any_ok"
    ALWAYS = "always"


# The `on` that a condition gives to every need, and how these count together.
_CONDITIONS = {
    StepWhen.ALL_OK: (NeedOn.OK, When.EACH),
    StepWhen.ANY_FAILED: (NeedOn.ANY, When.ANY_FAILED),
    StepWhen.ALL_FAILED: (NeedOn.FAILED, When.EACH),
    StepWhen.ANY_OK: (NeedOn.ANY, When.ANY_OK),
    StepWhen.ALWAYS: (NeedOn.ANY, When.EACH),
}


Labels = Annotated[dict[Name, Title], Meta(max_length=MAX_LABELS)]
FilePatterns = Annotated[tuple[Path, ...], Meta(max_length=MAX_PATTERNS)]


class StepParams(JobWork, frozen=True, kw_only=True):
    """A step as it is sent: the fields of a job, and those of a step. `each` and `matrix` make one step of each item.

    Its `edges` are its needs by the entries of the flow, with the step whose output is its list. `queue` and `rate_key`
    may hold templates: their limits are checked once these are filled. It has a command, or it is a `workflow`, which
    gets these `parameters`.
    """

    command: Path | RawBytes = ""
    workflow: Flow | UnsetType = UNSET
    parameters: dict[Name, Text] | UnsetType = UNSET
    queue: StepName | UnsetType = UNSET
    rate_key: StepName | UnsetType | None = UNSET
    critical: bool | UnsetType = UNSET
    resume: Name | UnsetType = UNSET
    run_if: Annotated[str, Meta(min_length=1)] | UnsetType = msgspec.field(default=UNSET, name="if")
    verify: bool | UnsetType = UNSET
    sources: FilePatterns | UnsetType = UNSET
    produces: FilePatterns | UnsetType = UNSET
    width: Budget | UnsetType = UNSET
    fail_fast: bool | UnsetType = UNSET
    abort_on: ExitCodes | UnsetType = UNSET
    secrets: Annotated[tuple[SecretName, ...], Meta(max_length=MAX_SECRETS)] | UnsetType = UNSET

    needs: Annotated[tuple[StepName | StepNeed, ...], Meta(max_length=MAX_NEEDS)] = ()
    when: StepWhen | UnsetType = UNSET
    each: Annotated[tuple[Item, ...], Meta(max_length=MAX_STEPS)] | ItemSource | UnsetType = UNSET
    matrix: Matrix | UnsetType = UNSET

    @property
    def fans_out(self) -> bool:
        """Whether it becomes a group of steps, one of each item."""
        return self.each is not UNSET or self.matrix is not UNSET

    @property
    def items_at_first(self) -> int:
        """How many steps a need of it means, at most: a list that is not known yet is one step, which will expand."""
        if self.matrix is not UNSET:
            return size_of(self.matrix)
        return len(self.each) if isinstance(self.each, tuple) else 1

    @property
    def size(self) -> int:
        """How many steps it becomes at first, at most, with those of a nested workflow, its begin and its end."""
        inner = 0 if self.workflow is UNSET else 1 + sum(step.size for step in self.workflow.entries.values())
        return self.items_at_first * (1 + inner)

    @property
    def own_needs(self) -> tuple[StepNeed, ...]:
        """Its needs, all in the long form and with their conditions."""
        usual = self._usual_on
        return tuple(
            StepNeed(step=need, on=usual)
            if isinstance(need, str)
            else need
            if need.on is not UNSET
            else msgspec.structs.replace(need, on=usual)
            for need in self.needs
        )

    @property
    def edges(self) -> tuple[Edge, ...]:
        usual = self._usual_on
        needs = tuple(
            Edge(entry_of(need), usual)
            if isinstance(need, str)
            else Edge(need.group, usual if need.on is UNSET else need.on)
            for need in self.needs
        )
        source = self.each.step if isinstance(self.each, ItemSource) else UNSET
        if source is UNSET or any(edge.step == source for edge in needs):
            return needs
        return (*needs, Edge(source, usual))

    @property
    def _usual_on(self) -> NeedOn:
        """The `on` of its needs that have none."""
        return NeedOn.OK if self.when is UNSET else _CONDITIONS[self.when][0]

    def _check_conditions(self, tree: Tree) -> None:
        conditions.check(tree, templates=True)

    @property
    def counting(self) -> When:
        """How its needs count together."""
        return When.EACH if self.when is UNSET else _CONDITIONS[self.when][1]


class StepDefaults(JobCircumstances, frozen=True, kw_only=True):
    """The fields that a flow may set for all its steps: of a step all but its command, needs and items."""

    queue: StepName | UnsetType = UNSET
    rate_key: StepName | UnsetType | None = UNSET
    critical: bool | UnsetType = UNSET
    resume: Name | UnsetType = UNSET
    verify: bool | UnsetType = UNSET
    sources: FilePatterns | UnsetType = UNSET
    produces: FilePatterns | UnsetType = UNSET
    width: Budget | UnsetType = UNSET
    fail_fast: bool | UnsetType = UNSET
    abort_on: ExitCodes | UnsetType = UNSET

    def _check_conditions(self, tree: Tree) -> None:
        conditions.check(tree, templates=True)


class ConcurrencyPolicy(StrEnum):
    """The rule for a workflow while another one of its key and owner has not ended."""

    QUEUE = "queue"
    SKIP = "skip"
    SUPERSEDE = "supersede"


class Concurrency(Params, frozen=True, kw_only=True):
    """One run at a time of all workflows of an owner that share the key."""

    key: Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
    policy: ConcurrencyPolicy = ConcurrencyPolicy.QUEUE


class FlowLimits(Struct, frozen=True, kw_only=True):
    """Limits of a whole workflow. The timeout counts from the first start of a step, the deadline from the submit."""

    timeout_ms: int | None = None
    deadline_ms: int | None = None
    max_running: int | None = None

    @property
    def timed(self) -> bool:
        """Whether a limit of time is among them."""
        return self.timeout_ms is not None or self.deadline_ms is not None


class Flow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """A flow file: its steps, and the tables of its handlers. All names are one set."""

    name: str
    steps: Annotated[dict[str, StepParams], Meta(min_length=1)]
    parameters: dict[str, str] = {}
    defaults: StepDefaults = StepDefaults()
    verify: bool = False
    labels: dict[str, str] = {}
    priority: Priority | UnsetType = UNSET
    outputs: dict[str, str] = {}
    secrets: dict[str, str] = {}
    timeout_ms: Duration | None = None
    deadline_ms: Duration | None = None
    max_running: Budget | None = None
    concurrency: Concurrency | None = None
    on_failure: dict[str, StepParams] = {}
    on_success: dict[str, StepParams] = {}
    finally_: dict[str, StepParams] = field(default_factory=dict, name="finally")

    @property
    def limits(self) -> FlowLimits:
        return FlowLimits(timeout_ms=self.timeout_ms, deadline_ms=self.deadline_ms, max_running=self.max_running)

    @cached_property
    def entries(self) -> dict[str, StepParams]:
        """Its steps, those that wait for work outside, and its handlers."""
        return {**self._waiting, **self.steps, **self.on_failure, **self.on_success, **self.finally_}

    @cached_property
    def edges(self) -> dict[str, tuple[Edge, ...]]:
        """The needs of each entry, by entries."""
        return {name: step.edges for name, step in self.entries.items()}

    @property
    def _waiting(self) -> dict[str, StepParams]:
        # None is critical: what its end means for the workflow is decided by the steps that need it.
        return {name: StepParams(command=OUTSIDE, wait_for=name, critical=False) for name in self.outside}

    @cached_property
    def outside(self) -> dict[str, str]:
        """The work outside that its steps need, each with the path of the first need that names it."""
        found: dict[str, str] = {}
        for step, params in self.steps.items():
            for index, need in enumerate(params.needs):
                if isinstance(need, StepNeed) and need.outside is not None:
                    found.setdefault(need.outside, f"{STEPS}.{step}.needs[{index}].{next(iter(need.targets))}")
        return found

    @cached_property
    def handlers(self) -> dict[str, Handler]:
        """The table of each handler."""
        tables = {
            Handler.ON_FAILURE: self.on_failure,
            Handler.ON_SUCCESS: self.on_success,
            Handler.FINALLY: self.finally_,
        }
        return {name: handler for handler, of_table in tables.items() for name in of_table}

    @cached_property
    def inherited(self) -> dict[str, Any]:
        """The values of steps that have none of their own: its [defaults], and beneath them those of the whole flow."""
        of_all = self.defaults
        labels = self.labels | (of_all.labels or {})
        priority = self.priority if of_all.priority is UNSET else of_all.priority
        verify = self.verify or UNSET if of_all.verify is UNSET else of_all.verify
        of_all = msgspec.structs.replace(of_all, labels=labels or UNSET, priority=priority, verify=verify)
        return {name: value for name in of_all.__struct_fields__ if (value := getattr(of_all, name)) is not UNSET}

    def path(self, step: str) -> str:
        """Where the file has a step."""
        return f"{self.handlers.get(step, STEPS)}.{step}"


class Part(Struct, frozen=True):
    """`targets`: these steps and all that they need; `starts`: these and all that need them; both: those between."""

    targets: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not (self.targets or self.starts)


class FlowRequest(Struct, frozen=True, kw_only=True):
    """A request to accept a flow; `raw` is its JSON as it was sent.

    `mistakes` are those of its shape. A step with such a mistake is `unsure`, because some of its fields are missing;
    it is `unlocatable` if these decide where its program is.
    """

    flow: Flow
    raw: msgspec.Raw
    parameters: dict[str, str] = {}
    idempotency_key: str | None = None
    dry_run: bool = False
    part: Part = Part()
    reuse: int | Literal["latest"] | None = None
    secrets: Secrets = {}
    mistakes: tuple[Mistake, ...] = ()
    unsure: frozenset[str] = frozenset()
    unlocatable: frozenset[str] = frozenset()
