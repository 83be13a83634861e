"""A workflow as it is sent: a flow, its steps and the request to accept it.

Owns the fields of a flow file and of a step, and the meaning of a condition (`when`) for the needs of a step.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from stoker.core.job.model import NeedOn, When
from stoker.core.raw_bytes import RawBytes
from stoker.core.requests import (
    MAX_NEEDS,
    AbsolutePath,
    Budget,
    JobDefaults,
    JobWork,
    Name,
    Params,
    Text,
    Umask,
)
from stoker.core.workflow.items import Item
from stoker.core.workflow.mistakes import Mistake
from stoker.core.workflow.state import Edge, Strategy

MAX_STEPS = 10_000
MAX_NAMED_STEPS = 100  # in one request


class StepNeed(Params, frozen=True, kw_only=True):
    step: Name
    on: NeedOn | UnsetType = UNSET


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


class StepParams(JobWork, frozen=True, kw_only=True):
    """A step as it is sent: the fields of a job, and those of a step. `each` makes one step of each item.

    Its `edges` are its needs, with the step whose output is its list.
    """

    needs: Annotated[tuple[Name | StepNeed, ...], Meta(max_length=MAX_NEEDS)] = ()
    when: StepWhen | UnsetType = UNSET
    critical: bool = True
    resume: Name = Strategy.FROM_CHECKPOINT.value
    verify: bool | UnsetType = UNSET
    each: Annotated[tuple[Item, ...], Meta(min_length=1, max_length=MAX_STEPS)] | ItemSource | UnsetType = UNSET
    width: Budget | UnsetType = UNSET

    @property
    def fans_out(self) -> bool:
        """Whether it becomes a group of steps, one of each item."""
        return self.each is not UNSET

    @property
    def size(self) -> int:
        """The number of steps that it becomes at first: a list that is not known yet is one step, which will expand."""
        return len(self.each) if isinstance(self.each, tuple) else 1

    @property
    def edges(self) -> list[Edge]:
        usual = NeedOn.OK if self.when is UNSET else _CONDITIONS[self.when][0]
        edges = [
            Edge(need, usual) if isinstance(need, str) else Edge(need.step, usual if need.on is UNSET else need.on)
            for need in self.needs
        ]
        source = self.each.step if isinstance(self.each, ItemSource) else UNSET
        if source is not UNSET and all(edge.step != source for edge in edges):
            edges.append(Edge(source, usual))
        return edges

    @property
    def counting(self) -> When:
        """How its needs count together."""
        return When.EACH if self.when is UNSET else _CONDITIONS[self.when][1]


class StepDefaults(JobDefaults, frozen=True, kw_only=True):
    """Fields that a flow sets for all its steps."""

    working_dir: AbsolutePath | RawBytes | UnsetType = UNSET
    umask: Umask | UnsetType | None = UNSET
    env: dict[Text, Text | RawBytes] | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    resume: Name | UnsetType = UNSET


class Flow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    steps: Annotated[dict[str, StepParams], Meta(min_length=1)]
    parameters: dict[str, str] = {}
    defaults: StepDefaults = StepDefaults()
    verify: bool = False


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
    mistakes: tuple[Mistake, ...] = ()
    unsure: frozenset[str] = frozenset()
    unlocatable: frozenset[str] = frozenset()
