"""Nested workflows: a step that is itself a flow becomes the steps of that flow, in the same workflow.

Owns what such a step may say, the names and needs of the inner steps, and the outputs of a flow. A step `build` becomes
`build:begin`, which has its needs, `build/compile` and so on, and `build`, which ends them. Invariant: no step waits
while it holds a slot, so nesting cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import UNSET
from msgspec.structs import replace

from stoker.core.job.model import NeedOn, When
from stoker.core.workflow.definition import Flow, FlowLimits, ItemSource, StepParams
from stoker.core.workflow.fan_out import BEGIN, Planned, control_work
from stoker.core.workflow.mistakes import Mistake
from stoker.core.workflow.state import Edge
from stoker.core.workflow.step_names import BEGINS, entries_of, outer_of
from stoker.core.workflow.template import pieces_of

_OF_OUTER = frozenset(
    {
        "needs",
        "when",
        "run_if",
        "critical",
        "each",
        "matrix",
        "fail_fast",
        "queue",
        "priority",
        "workflow",
        "parameters",
    }
)
_STEP = StepParams()  # with the value of each field that was not sent


def wrong_fields(path: str, step: StepParams) -> Iterator[Mistake]:
    """Fields that have no place in a step because it is a flow, or because it is none."""
    if step.workflow is UNSET:
        if not step.command:
            yield Mistake(f"{path}.command", "this field is missing", 'as in command = "/usr/bin/make"')
        if step.parameters is not UNSET:
            yield Mistake(f"{path}.parameters", "only a step that is a workflow takes parameters", "give them in `env`")
        return
    for field in StepParams.__struct_fields__:
        if field not in _OF_OUTER and getattr(step, field) != getattr(_STEP, field):
            message = "it has no effect on a step that is a workflow"
            place = "at the top of" if field in FlowLimits.__struct_fields__ else "in the steps or in [defaults] of"
            yield Mistake(f"{path}.{field}", message, f"say it {place} that workflow")
    if isinstance(step.each, ItemSource) and has_later_list(step.workflow):
        message = "a group whose list comes from a step cannot have another such group inside"
        yield Mistake(f"{path}.each", message, "let one step hand on the whole list")
    if step.workflow.concurrency is not None:
        message = "only whole workflows wait for each other"
        yield Mistake(f"{path}.workflow.concurrency", message, "say it in the flow that is submitted")


def wrong_outputs(flow: Flow) -> Iterator[Mistake]:
    """Words in `outputs` that are no output of a step."""
    for name, text in flow.outputs.items():
        for word in pieces_of(text)[1::2]:
            step, _ = split_word(flow, word)
            if step is None:
                message = f"{{{{{word}}}}}: no output of a step"
                yield Mistake(f"outputs.{name}", message, "{{STEP.KEY}}, of a step that is no group")


def split_word(flow: Flow, word: str) -> tuple[str | None, str]:
    """The step and the key of STEP.KEY; both may contain dots."""
    at = word.find(".")
    while at > 0:
        step = flow.steps.get(word[:at])
        if step is not None and not step.fans_out and word[at + 1 :]:
            return word[:at], word[at + 1 :]
        at = word.find(".", at + 1)
    return None, word


def unfold(planned: Planned, needs: tuple[Edge, ...], when: When | None) -> Iterator[Planned]:
    """A planned step with its needs; in place of a nested workflow all its steps, in an order in which they can run."""
    if planned.inner is None:
        yield replace(planned, needs=needs, when=when)
        return
    outer, begin = planned.name, f"{planned.name}{BEGINS}"
    first: tuple[Edge, ...] = ()
    if needs or planned.run_if is not None:
        work = control_work(planned.sent, BEGIN)
        start = Planned(name=begin, sent=work, needs=needs, when=when, control=True, parent=outer, place=planned.path)
        yield replace(start, run_if=planned.run_if)
        first = (Edge(begin),)
    ends = []
    for step in planned.inner.steps:
        own = tuple(Edge(f"{outer}/{edge.step}", edge.on) for edge in step.needs)
        if own and _runs_after_any_end(step):
            own = (*first, *own)  # without the begin of its flow, it has no steps to watch
        name = f"{outer}/{step.name}"
        if step.parent is None:
            ends.append(Edge(name, NeedOn.ANY))
        yield replace(
            step,
            name=name,
            group=step.group and f"{outer}/{step.group}",
            parent=outer if step.parent is None else f"{outer}/{step.parent}",
            place=f"{planned.path}.workflow.{step.path}",
            needs=own or first,
            when=step.when if own else When.EACH if first else None,
            run_if=None if step.run_if is None else step.run_if.inside(f"{outer}/"),
            contained=step.contained or not planned.breaks,
        )
    yield replace(planned, needs=(*first, *ends), when=When.EACH, run_if=None)


def _runs_after_any_end(step: Planned) -> bool:
    """Whether it may run though none of its needs did."""
    return step.when is When.ANY_FAILED or (
        step.when is When.EACH and all(need.on is not NeedOn.OK for need in step.needs)
    )


def with_inner_steps(steps: Iterable[Planned]) -> Iterator[Planned]:
    """The steps, and those of the workflows that some of them are; these are unfolded themselves."""
    for step in steps:
        yield step
        if step.inner is not None:
            yield from step.inner.steps


def seen_as(need: str, step: str) -> str | None:
    """The name of a need in the flow of the step, whatever that flow is inside of.

    None for a step of Stoker's own, which no flow file names: the begin of the flow, or what made its group.
    """
    outer = outer_of(step)
    if need == f"{outer.removesuffix('/')}{BEGINS}" or step.startswith(f"{need}["):
        return None
    return need.removeprefix(outer)


def inner_flow(flow: Flow, name: str) -> Flow:
    """The flow that the step of this name in `flow` stands for."""
    for entry, _ in entries_of(name):
        inner = flow.steps[entry].workflow
        assert inner is not UNSET, "only a nested workflow has steps of its own"
        flow = inner
    return flow


def has_later_list(flow: Flow) -> bool:
    """Whether the list of a group, at any depth, is known only at run time."""
    return any(
        isinstance(step.each, ItemSource) or (step.workflow is not UNSET and has_later_list(step.workflow))
        for step in flow.steps.values()
    )


def is_critical(flow: Flow, outer: str, name: str) -> bool:
    """Whether the failure of the step `name` of the flow that `outer` stands for is its failure."""
    entry, _ = entries_of(name.removeprefix(f"{outer}/"))[0]
    if entry in flow.outside:
        return False
    own = flow.entries[entry].critical
    own = flow.defaults.critical if own is UNSET else own
    return entry not in flow.handlers if own is UNSET else own
