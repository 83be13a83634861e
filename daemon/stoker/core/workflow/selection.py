"""A part of a workflow: the steps that are submitted when not all of them are wanted. Pure.

Owns which steps are in a part, and which needs are outside of it. Invariants: a step keeps its needs inside the part;
the names that a person types stand for steps and for whole groups.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.similar_names import did_you_mean
from stoker.core.workflow.definition import OUTSIDE, Part
from stoker.core.workflow.expression import references
from stoker.core.workflow.fan_out import Planned
from stoker.core.workflow.mistakes import Mistake
from stoker.core.workflow.nesting import seen_as
from stoker.core.workflow.plan import Plan, layered
from stoker.core.workflow.state import behind
from stoker.core.workflow.step_names import fan_out_of, group_of, outer_of, outers_of, steps_named
from stoker.core.workflow.template import pieces_of


class Selection(Struct, frozen=True):
    """The plan of a part. `met`: the needs outside of it, which count as met.

    `outside`: steps outside of it that the plan has nevertheless, as an earlier run has what they hand on.
    """

    plan: Plan
    met: tuple[str, ...] = ()
    outside: frozenset[str] = frozenset()


def select(plan: Plan, part: Part, completed: Collection[str] = ()) -> Selection:
    """The part of a plan, with its handlers. A name without a step is a mistake, and so is a part without steps.

    `completed`: steps of an earlier run whose outputs can be taken from there.
    """
    if part.whole or plan.mistakes:
        return Selection(plan)
    names = [step.name for step in plan.steps]
    named = {name: steps_named(name, names) for name in (*part.targets, *part.starts)}
    mistakes = [
        Mistake(option, f"there is no step {name!r}", did_you_mean(name, {group_of(one) for one in names}))
        for option, asked in (("target", part.targets), ("from", part.starts))
        for name in asked
        if not named[name]
    ]
    chosen = set() if mistakes else _chosen(plan.steps, named, part)
    if not chosen and not mistakes:
        message = f"{_few(part.targets)} needs none of {_few(part.starts)}, so the part has no steps"
        mistakes.append(Mistake("target", message, "leave out one of the two"))
    if mistakes:
        return Selection(replace(plan, mistakes=tuple(mistakes)))
    chosen |= {step.name for step in plan.steps if _is_handler_of(step, chosen)} | _waiting(plan.steps, chosen)
    cut = _cut_out(plan, chosen, completed)
    inside = {step.name for step in cut.plan.steps}
    lost = [one for step in plan.steps if step.name in chosen for one in _lost(step, inside)]
    return Selection(replace(plan, mistakes=tuple(dict.fromkeys(lost)))) if lost else cut


def _is_handler_of(step: Planned, chosen: Collection[str]) -> bool:
    """Whether it is a handler of the whole workflow, or of a nested one whose end is in the part."""
    outer = outer_of(step.name).removesuffix("/")
    return step.handler is not None and (not outer or outer in chosen)


def _lost(step: Planned, inside: Collection[str]) -> Iterator[Mistake]:
    """The ends that a step looks at and that are outside of the part: it could only fail."""
    cut = {seen for edge in step.needs if edge.step not in inside if (seen := seen_as(edge.step, step.name))}
    hint = "choose it too, or take over its end: --reuse latest"
    if step.run_if is not None:
        asked = references(step.run_if.text)["needs"]
        for need in dict.fromkeys(fan_out_of(need) or need for need in sorted(cut)):
            if need in asked:
                yield Mistake(f"{step.path}.if", f"it asks for {need!r}, which is outside of the part", hint)
    if step.source is not None and f"{outer_of(step.name)}{step.source.step}" not in inside:
        message = f"its list comes from {step.source.step!r}, which is outside of the part"
        yield Mistake(f"{step.path}.each", message, hint)
    if step.inner is not None:
        for text in step.sent.args or ():
            name, _, value = str(text).partition("=")
            for word in pieces_of(value)[1::2]:
                if any(word.startswith(f"{need.removeprefix(step.name + '/')}.") for need in cut):
                    message = f"{{{{{word}}}}} is an output of a step that is outside of the part"
                    yield Mistake(f"{step.path}.workflow.outputs.{name}", message, hint)


def _chosen(steps: Sequence[Planned], named: Mapping[str, list[str]], part: Part) -> set[str]:
    chosen = {step.name for step in steps}
    if part.targets:
        chosen &= _ahead(steps, [step for name in part.targets for step in named[name]])
    if part.starts:
        chosen &= behind(steps, [step for name in part.starts for step in named[name]])
    return chosen


def _ahead(steps: Sequence[Planned], roots: Collection[str]) -> set[str]:
    """`roots` and all steps that they need, directly or through others."""
    found = set(roots)
    for step in reversed(steps):  # a plan is in an order in which its steps can run
        if step.name in found:
            found.update(edge.step for edge in step.needs)
    return found


def _waiting(steps: Sequence[Planned], chosen: Collection[str]) -> set[str]:
    """The steps that wait for work outside, of those that the part needs: its ends are not known without them."""
    needed = {edge.step for step in steps if step.name in chosen for edge in step.needs}
    return {step.name for step in steps if step.sent.command == OUTSIDE} & needed


def _cut_out(plan: Plan, chosen: Collection[str], completed: Collection[str]) -> Selection:
    needs = {edge.step: None for step in plan.steps if step.name in chosen for edge in step.needs}
    adding = {step.name for step in plan.steps if step.source is not None}  # the steps of its list are not in the plan
    outside = frozenset(name for name in needs if name not in chosen and name in completed and name not in adding)
    steps = []
    for step in plan.steps:
        if step.name in chosen or step.name in outside:
            kept = step.needs if step.name in chosen else ()
            inside = tuple(edge for edge in kept if edge.step in chosen or edge.step in outside)
            steps.append(replace(step, needs=inside, when=step.when if inside else None))
    met = tuple(name for name in needs if name not in chosen and name not in outside)
    groups = {step.group for step in steps}.union(*(outers_of(step.name) for step in steps))
    widths = {group: width for group, width in plan.widths.items() if group in groups}
    names = {step.name for step in steps}  # without the step that ends it nothing of a nested workflow can fail by them
    limits = {outer: one for outer, one in plan.inner_limits.items() if outer.removesuffix("/") in names}
    part = replace(plan, steps=tuple(steps), widths=widths, inner_limits=limits, layers=layered(steps))
    return Selection(part, met, outside)


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
