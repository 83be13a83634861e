"""The needs of an entry of a flow as needs of its steps: on a whole group, or on one step of it.

Owns which step of a group a need means, and the mistakes in it. Whether a group exists and whether needs form a cycle
is decided by entries, in `plan`. Invariant: no need is made before all are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import UNSET, Struct

from stoker.core.job.model import NeedOn
from stoker.core.workflow.definition import ItemSource, StepNeed, StepParams
from stoker.core.workflow.fan_out import Planned
from stoker.core.workflow.items import as_label, step_name, words
from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake
from stoker.core.workflow.state import Edge
from stoker.core.workflow.template import TemplateNames, filled_text, named

Groups = Mapping[str, Sequence[Planned]]


class EntryNeeds(Struct, frozen=True):
    """`whole`: needs on groups, shared by all steps of the entry; `single`: by step, those on one step of a group."""

    whole: tuple[tuple[str, NeedOn], ...] = ()
    single: Mapping[str, Sequence[Edge]] = {}
    mistakes: tuple[Mistake, ...] = ()

    def edges(self, groups: Groups) -> dict[str, tuple[Edge, ...]]:
        """The needs of each step that has some of its own; `""` has those that are shared."""
        shared = tuple(Edge(one.name, on) for group, on in self.whole for one in groups[group])
        return {"": shared} | {name: (*shared, *own) for name, own in self.single.items()}


def entry_needs(name: str, steps: Mapping[str, StepParams], groups: Groups, names: TemplateNames) -> EntryNeeds:
    """`steps`: the entries that can be believed, with their steps in `groups`."""
    step, own = steps[name], groups.get(name, ())
    whole: list[tuple[str, NeedOn]] = []
    single: dict[str, dict[str, Edge]] = {}
    mistakes: dict[Mistake, None] = {}
    for index, need in enumerate(step.own_needs):
        group = need.group
        if group not in steps or group not in groups or group == name:
            continue  # a mistake of its own
        on = NeedOn.OK if need.on is UNSET else need.on
        if not need.is_single:
            whole.append((group, on))
            continue
        path, there = f"needs[{index}]", {one.label for one in groups[group] if one.label is not None}
        wrong = list(_wrong_kind(step, need, steps[group], path))
        empty = step.fans_out and not any(one.label for one in own)
        if wrong or any(one.source for one in (*own, *groups[group])):
            mistakes.update(dict.fromkeys(wrong))
        elif empty and (need.same is UNSET or not there):
            whole.append((group, on))
        elif need.same is not UNSET:
            mistakes.update(dict.fromkeys(_unequal(path, group, own, there)))
            for one in own:
                target = step_name(group, one.label or "")
                single.setdefault(one.name, {})[target] = Edge(target, on)
        else:
            for own_name, target in _chosen(need, own, there, names, path, mistakes):
                single.setdefault(own_name, {})[target] = Edge(target, on)
    return EntryNeeds(tuple(whole), {one: [*edges.values()] for one, edges in single.items()}, tuple(mistakes))


def _wrong_kind(step: StepParams, need: StepNeed, other: StepParams, path: str) -> Iterator[Mistake]:
    """Mistakes that the entries show, whatever their items are."""
    later, other_later = (isinstance(one.each, ItemSource) for one in (step, other))
    if need.same is not UNSET and need.name != need.group:
        yield Mistake(path, f"{need.name!r} names one step already", "leave out `same`, or the part in brackets")
    elif not other.fans_out:
        yield Mistake(path, f"step {need.group!r} has no items", "need the step as it is")
    elif need.same is not UNSET and not step.fans_out:
        yield Mistake(f"{path}.same", "only a step with `each` or `matrix` has an item", "leave out `same`")
    elif other_later > later or (later and need.same is UNSET):
        group = need.group if other_later else "this step"
        yield Mistake(path, f"the items of {group} are known only once its list is there", "need the whole group")


def _unequal(path: str, group: str, own: Iterable[Planned], there: Collection[str]) -> Iterator[Mistake]:
    """Both groups have the same items, or it would be said nowhere that something is left out."""
    here = {one.label for one in own if one.label is not None}
    hint = "both groups must have the same items"
    if missing := here - set(there):
        yield Mistake(path, f"{group!r} has no {named(missing)}", hint)
    if more := set(there) - here:
        yield Mistake(path, f"{group!r} also has {named(more)}", hint)


def _chosen(
    need: StepNeed,
    own: Iterable[Planned],
    there: Collection[str],
    names: TemplateNames,
    path: str,
    mistakes: dict[Mistake, None],
) -> Iterator[tuple[str, str]]:
    """Each step of the entry, with the step of the group that its need names."""
    sent = need.name[len(need.group) + 1 : -1]
    for one in own:
        wrong: list[Mistake] = []
        of_item = None if one.item is None else words(one.item)
        label = filled_text(path, sent, names, wrong, of_item)
        if not wrong and label not in there:
            label = as_label(label)
            if label not in there:
                wrong.append(Mistake(path, f"{need.group!r} has no {label} (it has: {named(there)})"))
        if len(mistakes) < MAX_MISTAKES:
            mistakes.update(dict.fromkeys(wrong))
        yield one.name, step_name(need.group, label)
