"""The steps that are made of each entry of a flow: filled in, with its defaults, one for each item.

Invariant: all texts together, filled in, have at most `MAX_CHARACTERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from stoker.core.job.conditions import texts
from stoker.core.job.model import When
from stoker.core.workflow.definition import MAX_STEPS, Flow, FlowRequest, StepParams
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.state import Edge, Strategy
from stoker.core.workflow.template import Filled, Template, TemplateNames, filled_items

MAX_CHARACTERS = 64 << 20  # of all steps, filled in: a list in a flow of 1 MiB can ask for gigabytes


class Planned(Struct, frozen=True, kw_only=True):
    """One step to be made. `when` is None without needs; `group`, `item`: what it was made from, if that has `each`.

    `sure`: all its fields are valid. `locatable`: the fields that decide where its program is are valid.
    """

    name: str
    sent: StepParams
    needs: tuple[Edge, ...] = ()
    when: When | None = None
    group: str | None = None
    item: str | None = None
    sure: bool = True
    locatable: bool = True

    @property
    def conditions(self) -> list[str]:
        """Its conditions, which it waits for beside its needs."""
        return texts(self.sent.wait_for or None)


def fan_out(request: FlowRequest, mistakes: list[Mistake], of_each: int | None) -> dict[str, list[Planned]]:
    """The steps of each entry of the flow, without their needs; of every `each` the first `of_each`."""
    flow = request.flow
    names = TemplateNames({name: request.parameters.get(name, default) for name, default in flow.parameters.items()})
    groups: dict[str, list[Planned]] = {}
    size = 0
    for name, step in islice(flow.steps.items(), MAX_STEPS):
        sent = with_defaults(flow, step)
        of_step: dict[Mistake, None] = {}  # in order, and a mistake of several items only once
        groups[name] = []
        template = Template(sent, names, of_items=sent.each is not UNSET)
        items: Sequence[str | None] = [None]
        if sent.each is not UNSET:
            items, wrong = filled_items(sent.each[:of_each], names)
            of_step.update((one._replace(path=f"steps.{name}.{one.path}"), None) for one in wrong[:MAX_MISTAKES])
        for number, item in enumerate(items, 1):
            filled = template.fill(item)
            groups[name].append(_planned(request, name, number, item, filled))
            if len(of_step) < MAX_MISTAKES:
                of_step.update((one._replace(path=f"steps.{name}.{one.path}"), None) for one in filled.mistakes)
            size += filled.size
            if size > MAX_CHARACTERS:
                message = f"all of their texts together, filled in, have more than {MAX_CHARACTERS} characters"
                mistakes += [*of_step, Mistake("steps", message, "split the flow, or let steps read files")]
                return groups
        mistakes += of_step
    return groups


def _planned(request: FlowRequest, name: str, number: int, item: str | None, filled: Filled[StepParams]) -> Planned:
    return Planned(
        name=name if item is None else f"{name}:{number}",
        sent=filled.step,
        group=None if item is None else name,
        item=item,
        sure=name not in request.unsure,
        locatable=filled.locatable and name not in request.unlocatable,
    )


def with_defaults(flow: Flow, step: StepParams) -> StepParams:
    defaults = flow.defaults
    changes: dict[str, Any] = {
        name: value
        for name in defaults.__struct_fields__
        if (value := getattr(defaults, name)) is not UNSET and getattr(step, name) is UNSET
    }
    if defaults.env is not UNSET and step.env is not UNSET:
        changes["env"] = defaults.env | step.env
    if defaults.resume is not UNSET and step.resume == Strategy.FROM_CHECKPOINT:
        changes["resume"] = defaults.resume
    if step.verify is UNSET:
        changes["verify"] = flow.verify
    return msgspec.structs.replace(step, **changes)
