"""The steps that are made of each entry of a flow: filled in, with its defaults, one for each item.

Invariant: all texts together, filled in, have at most `MAX_CHARACTERS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from stoker.core.job.conditions import texts
from stoker.core.job.model import ExecutionMode, OnOrphan, When
from stoker.core.job.run_if import RunIf
from stoker.core.workflow.definition import (
    MAX_STEPS,
    OUTSIDE,
    Flow,
    FlowLimits,
    FlowRequest,
    ItemSource,
    StepParams,
)
from stoker.core.workflow.expression import run_if
from stoker.core.workflow.handlers import FINALLY_TIMEOUT_MS, STEPS, Handler
from stoker.core.workflow.items import Item, item_text, labels, step_name
from stoker.core.workflow.matrix import RULES, combined, wrong_parts
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.state import Edge, Strategy
from stoker.core.workflow.template import OVERHEAD, Filled, Template, TemplateNames, filled_items

MAX_CHARACTERS = 64 << 20  # of all steps, filled in: a list in a flow of 1 MiB can ask for gigabytes
# The handlers of Stoker's own: one makes the steps of a group, one stands for a group without items; two begin and end
# a nested workflow.
EXPAND, EMPTY, BEGIN, COLLECT = "stoker.expand", "stoker.empty", "stoker.begin", "stoker.collect"


class Inner(Struct, frozen=True):
    """The steps of a nested workflow in order, with their names inside it, and the widths of its groups.

    `limits`: those of time, of itself and of the workflows inside it, by what the names of their steps begin with.
    """

    steps: tuple[Planned, ...]
    widths: dict[str, int]
    limits: dict[str, FlowLimits]


class Planned(Struct, frozen=True, kw_only=True):
    """One step to be made. `when` is None without needs; `group`, `item`, `label`: what it was made from in a fan-out.

    `run_if`: its `if`, with the parameters and the item of this step. `source`: it makes the steps of its group from a
    list that is not known yet, and `if_of_items` is the text of theirs. `inner`: the nested workflow that it ends, with
    the parameters `given` to it; `parent`: the step that ends the workflow of this one; `contained`: the failure of a
    workflow around it is its own. `control`: a handler of Stoker's own runs it, which a person cannot name. `place`:
    its path in the flow, if that is not in its name. `sure`: all its fields are valid. `locatable`: the fields that
    decide where its program is are valid.
    """

    name: str
    sent: StepParams
    needs: tuple[Edge, ...] = ()
    when: When | None = None
    run_if: RunIf | None = None
    group: str | None = None
    item: Item | None = None
    label: str | None = None
    source: ItemSource | None = None
    if_of_items: str | None = None
    control: bool = False
    given: dict[str, str] | None = None
    inner: Inner | None = None
    parent: str | None = None
    place: str | None = None
    sure: bool = True
    locatable: bool = True
    handler: Handler | None = None
    contained: bool = False

    @property
    def breaks(self) -> bool:
        """Whether its failure makes its own flow fail; that of a handler does so only if the file says it."""
        return self.handler is None if self.sent.critical is UNSET else self.sent.critical

    @property
    def critical(self) -> bool:
        """Whether its failure makes the whole workflow fail."""
        return self.breaks and not self.contained

    @property
    def text_of_if(self) -> str | None:
        """The text of its `if`, or of that of the steps that it will make."""
        return self.if_of_items if self.run_if is None else self.run_if.text

    @property
    def abort_on(self) -> tuple[int, ...]:
        """The exit codes that end the workflow."""
        return () if self.sent.abort_on is UNSET else self.sent.abort_on

    @property
    def resume(self) -> str:
        """The strategy of a resume for it."""
        return Strategy.FROM_CHECKPOINT.value if self.sent.resume is UNSET else self.sent.resume

    @property
    def path(self) -> str:
        """Its place in the flow; the steps of one `each` share it."""
        return self.place or f"{self.handler or STEPS}.{self.group or self.name}"

    @property
    def conditions(self) -> list[str]:
        """Its conditions, which it waits for beside its needs."""
        return texts(self.sent.wait_for or None)


def fan_out(
    request: FlowRequest, mistakes: list[Mistake], of_each: int | None, only: str | None = None
) -> dict[str, list[Planned]]:
    """The steps of each entry of the flow, without their needs; of every list of items the first `of_each`.

    `only`: of this entry alone.
    """
    flow = request.flow
    entries = flow.entries if only is None else {only: flow.entries[only]}
    names = names_of(flow, request.parameters)
    groups: dict[str, list[Planned]] = {}
    size = 0
    for name, step in islice(entries.items(), MAX_STEPS):
        of_step: dict[Mistake, None] = {}  # in order, and a mistake of several items only once
        groups[name] = []
        sent = with_defaults(flow, name, step)
        items, wrong = _items(sent, of_each, names)
        of_step.update(dict.fromkeys(wrong[:MAX_MISTAKES]))
        several = groups_needed(flow, sent)
        for planned, filled in _made(name, sent, _labelled(items), names):
            asked = _run_if(planned, sent, names, several)
            sure = name not in request.unsure
            locatable = filled.locatable and name not in request.unlocatable
            groups[name].append(
                msgspec.structs.replace(
                    planned if name not in flow.outside else _waiting(planned, flow.outside[name]),
                    run_if=asked,
                    sure=sure,
                    locatable=locatable,
                    handler=flow.handlers.get(name),
                )
            )
            if len(of_step) < MAX_MISTAKES:
                of_step.update(dict.fromkeys(filled.mistakes))
            size += filled.size + (0 if asked is None else asked.size)
            if size > MAX_CHARACTERS:
                message = f"all of their texts together, filled in, have more than {MAX_CHARACTERS} characters"
                mistakes += _of(flow.path(name), of_step)
                mistakes.append(Mistake("steps", message, "split the flow, or let steps read files"))
                return groups
        mistakes += _of(flow.path(name), of_step)
    return groups


def step_of_item(flow: Flow, parameters: Mapping[str, str], entry: str, label: str | None) -> Planned:
    """One step of an entry of a flow without mistakes: that of the item with this label. No other one is filled in."""
    names = names_of(flow, parameters)
    sent = with_defaults(flow, entry, flow.entries[entry])
    items = _labelled(_items(sent, None, names)[0])
    chosen = items and [(item, its) for item, its in items if its == label]
    ((planned, _),) = _made(entry, sent, chosen, names)
    return planned


def groups_needed(flow: Flow, step: StepParams) -> list[str]:
    """The needs of a step that are several steps."""
    names = dict.fromkeys(edge.step for edge in step.edges)
    groups = [name for name in names if name in flow.entries and flow.entries[name].fans_out]
    if not groups:
        return groups
    named = Counter(need.group for need in step.own_needs)
    single = {need.group for need in step.own_needs if need.is_single and named[need.group] == 1}
    return [name for name in groups if name not in single]


def _run_if(planned: Planned, sent: StepParams, names: TemplateNames, several: Collection[str]) -> RunIf | None:
    """The `if` of a step, with the values that are known now. A group that is to expand has none: its steps have it."""
    if sent.run_if is UNSET or (planned.control and planned.given is None):
        return None
    return run_if(sent.run_if, names.parameters, planned.item, several)


def names_of(flow: Flow, given: Mapping[str, str]) -> TemplateNames:
    """The parameters of a flow, each with the value that was given for it or with its own."""
    return TemplateNames({name: given.get(name, default) for name, default in flow.parameters.items()})


def _labelled(items: Sequence[Item] | None) -> list[tuple[Item, str]] | None:
    return None if items is None else [*zip(items, labels(items), strict=True)]


def _made(
    name: str, sent: StepParams, items: Sequence[tuple[Item, str]] | None, names: TemplateNames
) -> Iterator[tuple[Planned, Filled[StepParams]]]:
    """The steps of one entry: one of each item, given with its label, or a single one."""
    nested = sent.workflow is not UNSET
    template = Template(_collecting(sent) if nested else sent, names, of_items=sent.fans_out)
    if items is not None and not items:
        filled = Filled(control_work(sent, EMPTY), OVERHEAD, template.mistakes)
        yield Planned(name=name, sent=filled.step, control=True), filled
    elif items is not None:
        for item, label in items:
            filled = template.fill(item)
            planned = Planned(name=step_name(name, label), sent=filled.step, group=name, item=item, label=label)
            filled = filled._replace(size=filled.size + len(item_text(item)))
            yield _as_nested(planned, sent, filled) if nested else (planned, filled)
    elif sent.fans_out:
        source = sent.each if isinstance(sent.each, ItemSource) else ItemSource()
        filled = Filled(control_work(sent, EXPAND), OVERHEAD, template.mistakes)
        asked = None if sent.run_if is UNSET else sent.run_if
        yield Planned(name=name, sent=filled.step, source=source, if_of_items=asked, control=True), filled
    else:
        filled = template.fill()
        planned = Planned(name=name, sent=filled.step)
        yield _as_nested(planned, sent, filled) if nested else (planned, filled)


def _items(sent: StepParams, of_each: int | None, names: TemplateNames) -> tuple[Sequence[Item] | None, list[Mistake]]:
    """The items of a step, filled in, and the mistakes in them; None if there are none, or they are not known."""
    if isinstance(sent.each, tuple):
        return filled_items(sent.each[:of_each], names)
    if sent.matrix is UNSET:
        return None, []
    return _combinations(sent.matrix, of_each, names)


def _combinations(
    matrix: Mapping[str, Sequence[Any]], of_each: int | None, names: TemplateNames
) -> tuple[Sequence[Item] | None, list[Mistake]]:
    """The items of a matrix; with `of_each`, because it makes too many, the first of each axis. None: it is wrong."""
    wrong = [*wrong_parts(matrix, "matrix")]
    if wrong:
        return None, wrong
    chosen = {axis: values[:1] if of_each and axis not in RULES else values for axis, values in matrix.items()}
    filled = {axis: filled_items(values, names, f"matrix.{axis}") for axis, values in chosen.items()}
    mistakes = [mistake for _, of_axis in filled.values() for mistake in of_axis]
    return combined({axis: values for axis, (values, _) in filled.items()})[:of_each], mistakes


def _collecting(sent: StepParams) -> StepParams:
    """The step that ends a nested workflow; it takes the parameters through the template as variables."""
    return msgspec.structs.replace(control_work(sent, COLLECT), env=sent.parameters, fail_fast=sent.fail_fast)


def _as_nested(planned: Planned, sent: StepParams, filled: Filled[StepParams]) -> tuple[Planned, Filled[StepParams]]:
    """Its arguments are the outputs that the nested workflow hands on, so that a reuse compares these, too."""
    assert sent.workflow is not UNSET, "only a nested workflow has an end"
    given = {name: str(value) for name, value in (filled.step.env or {}).items()}
    mistakes = [one._replace(path=one.path.replace("env", "parameters", 1)) for one in filled.mistakes]
    outputs = tuple(f"{name}={text}" for name, text in sent.workflow.outputs.items())
    work = msgspec.structs.replace(filled.step, env=UNSET, args=outputs)
    return msgspec.structs.replace(planned, sent=work, given=given, control=True), filled._replace(mistakes=mistakes)


def _waiting(planned: Planned, place: str) -> Planned:
    """The step that waits for work outside, which a need at this place names."""
    work = msgspec.structs.replace(control_work(planned.sent, OUTSIDE), wait_for=planned.name)
    return msgspec.structs.replace(planned, sent=work, control=True, place=place)


def control_work(sent: StepParams, command: str) -> StepParams:
    """The work of a control step for the entry `sent`."""
    return StepParams(
        command=command,
        execution_mode=ExecutionMode.IN_PROCESS,
        on_orphan=OnOrphan.REQUEUE,  # to run again changes nothing
        queue=sent.queue,
        priority=sent.priority,
        critical=sent.critical,
    )


def _of(path: str, mistakes: Iterable[Mistake]) -> list[Mistake]:
    return [mistake._replace(path=f"{path}.{mistake.path}") for mistake in mistakes]


def with_defaults(flow: Flow, entry: str, step: StepParams) -> StepParams:
    """The step with the defaults of its flow; of `env` and `labels` entry by entry."""
    if entry in flow.outside:
        return step
    inherited = flow.inherited
    changes: dict[str, Any] = {name: value for name, value in inherited.items() if getattr(step, name) is UNSET}
    for name in () if step.fans_out else ("width", "fail_fast"):
        changes.pop(name, None)
    if entry in flow.handlers:
        changes.pop("abort_on", None)
    for name in ("env", "labels"):
        if name in inherited and (own := getattr(step, name)) is not UNSET:
            changes[name] = inherited[name] | own
    if flow.handlers.get(entry) is Handler.FINALLY and step.timeout_ms in (UNSET, None):
        changes["timeout_ms"] = FINALLY_TIMEOUT_MS
    return msgspec.structs.replace(step, **changes) if changes else step
