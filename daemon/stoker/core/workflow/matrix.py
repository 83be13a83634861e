"""A matrix: each combination of the values of its axes, changed by `exclude` and `include` as GitHub has it.

`exclude` drops the combinations that have all of its values. An entry of `include` adds its other values to each
combination whose axes it does not contradict; if there is none, it is an item of its own. Invariant: how many
combinations there are is known before one of them is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any

from msgspec import Meta

from stoker.core.requests import MAX_LABELS, Name
from stoker.core.workflow.items import Table, Value
from stoker.core.workflow.mistakes import Mistake

INCLUDE = "include"
EXCLUDE = "exclude"
RULES = (INCLUDE, EXCLUDE)
MAX_RULES = 256  # of a kind: each is compared with every combination

Matrix = Annotated[dict[Name, tuple[Value | Table, ...]], Meta(min_length=1, max_length=MAX_LABELS)]
Values = dict[str, Any]


def axes_of(matrix: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    return {name: values for name, values in matrix.items() if name not in RULES}


def size_of(matrix: Mapping[str, Sequence[Any]]) -> int:
    """How many items it makes at most: all combinations, and each entry of `include`."""
    axes = axes_of(matrix)
    return (math.prod(map(len, axes.values())) if axes else 0) + len(matrix.get(INCLUDE, ()))


def combined(matrix: Mapping[str, Sequence[Any]]) -> list[Values]:
    """The items of a matrix without mistakes."""
    axes = axes_of(matrix)
    excluded: Sequence[Values] = matrix.get(EXCLUDE, ())
    made = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []
    items = [item for item in made if not any(_agrees(rule, item) for rule in excluded)]
    originals = [(item, dict(item)) for item in items]
    for rule in matrix.get(INCLUDE, ()):
        own = {name: value for name, value in rule.items() if name in axes}
        fitting = [item for item, original in originals if _agrees(own, original)]
        for item in fitting:
            item.update(rule)
        if not fitting:
            items.append(dict(rule))
    return items


def _agrees(rule: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether an item has all values of a rule; true is not 1."""
    same = rule.items() <= item.items()  # usually not, and this is the fastest way to see it
    return same and all(type(item[name]) is type(value) for name, value in rule.items())


def wrong_parts(matrix: Mapping[str, Sequence[Any]], path: str) -> Iterator[Mistake]:
    axes = axes_of(matrix)
    for axis, values in axes.items():
        for index, value in enumerate(values):
            if isinstance(value, Mapping):
                yield Mistake(
                    f"{path}.{axis}[{index}]", "a value of an axis is no table", "`each` takes a list of tables"
                )
    for kind in RULES:
        rules = matrix.get(kind, ())
        if len(rules) > MAX_RULES:
            yield Mistake(f"{path}.{kind}", f"{len(rules)} entries; the limit is {MAX_RULES}", "`each` takes tables")
        for index, rule in enumerate(rules):
            if not isinstance(rule, Mapping):
                yield Mistake(f"{path}.{kind}[{index}]", "not a table", 'as in [{ os = "linux", version = "3.12" }]')
            elif kind == EXCLUDE:
                yield from _unknown_axes(rule, axes, f"{path}.{kind}[{index}]")


def _unknown_axes(rule: Mapping[str, Any], axes: Mapping[str, Any], path: str) -> Iterator[Mistake]:
    for name in rule:
        if name not in axes:
            yield Mistake(f"{path}.{name}", f"there is no such axis (there are: {', '.join(axes) or 'none'})")
