"""The names of steps: the parts of a name, and the steps that a typed name stands for. Pure.

A step of a fan-out is named GROUP[LABEL], as in `compile[lexer]` (GROUP:NUMBER in workflows of earlier versions), and a
step of a nested workflow OUTER/INNER, as in `build/link`; both combine: `build[x]/link`. A name that a person types
stands for the step of that name and for all steps within it: `compile` for each `compile[…]`, `build` for each
`build/…`, and `build/link` for each `build[…]/link`.

Standard library only: the client imports it.
"""

from __future__ import annotations

import re

from stoker.core.errors import StepNotFound
from stoker.core.similar_names import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

MOST_NAMED = 8
BEGINS = ":begin"  # the end of the name of the step that begins a nested workflow
_SEPARATOR = re.compile(r"/(?![^\[\]]*\])")  # a slash may also stand in a label
_LABEL = re.compile(r"(?:\[[^\[\]]*\]|(?<!\Ajob)(?<!\Aworkflow):[0-9]+)\Z")


def path_of(name: str) -> list[str]:
    """`build[a/b]/link` as `build[a/b]`, `link`."""
    return _SEPARATOR.split(name) if "/" in name else [name]


def without_label(part: str) -> str:
    """`compile` for `compile[lexer]`, and for `compile:3`."""
    return _LABEL.sub("", part) or part


def group_of(name: str) -> str:
    """The name without its labels: `build/link` for `build[x]/link[1]`; the name itself if it has none."""
    return "/".join(map(without_label, path_of(name)))


def entries_of(name: str) -> list[tuple[str, str | None]]:
    """The entry of each flow on the way to a step, with the label of its item; of build[x]/test: build and x, test."""
    parts = (part.partition("[") for part in path_of(name))
    return [(entry, label[:-1] if bracket else None) for entry, bracket, label in parts]


def outer_of(name: str) -> str:
    """The beginning of the name that all steps of its flow share: `build[x]/` for `build[x]/link`."""
    *outer, _ = path_of(name)
    return "".join(f"{part}/" for part in outer)


def outers_of(name: str) -> list[str]:
    """The same for each flow that the step is in, from the outermost, whose steps share no beginning."""
    if "/" not in name:
        return [""]
    *outer, _ = path_of(name)
    return ["".join(f"{part}/" for part in outer[:depth]) for depth in range(len(outer) + 1)]


def fan_out_of(name: str) -> str | None:
    """The step whose items made this one, as in `build[x]/link` for `build[x]/link[1]`; None if it has no label."""
    return name[: name.rindex("[")] if name.endswith("]") else None


def beside_groups(names: Sequence[str]) -> list[str]:
    """The names in their order, but steps whose list came at run time behind the step that stands for their group."""
    at = {name: index for index, name in enumerate(names)}
    return sorted(names, key=lambda name: _place(name, at))


def _place(name: str, at: Mapping[str, int]) -> int:
    parts = path_of(name)
    for count in range(1, len(parts) + 1):
        group = fan_out_of("/".join(parts[:count]).removesuffix(BEGINS))
        if group is not None and group in at:
            return at[group]
    return at[name]


def stands_for(asked: str, name: str) -> bool:
    """Whether a typed name means this step, alone or with others."""
    wanted, parts = path_of(asked), path_of(name)
    pairs = zip(wanted, parts, strict=False)
    return len(wanted) <= len(parts) and all(one in (part, without_label(part)) for one, part in pairs)


def steps_named(asked: str, names: Iterable[str]) -> list[str]:
    """The steps that a typed name stands for, in their order."""
    begins = without_label(path_of(asked)[0])  # most names are left out by their first letters
    return [name for name in names if name.startswith(begins) and stands_for(asked, name)]


def found_steps(workflow: int, asked: str, names: Collection[str], path: str = "step") -> list[str]:
    """The same. Raises StepNotFound for the parameter `path` if there is none."""
    found = steps_named(asked, names)
    if found:
        return found
    groups = sorted({group_of(name) for name in names})
    more = [f"and {len(groups) - MOST_NAMED} more"] if len(groups) > MOST_NAMED else []
    has = ", ".join([*groups[:MOST_NAMED], *more])
    near = nearest(asked, groups if group_of(asked) == asked else names)
    raise StepNotFound(
        f"{path}: workflow {workflow} has no step {asked!r} (it has: {has})",
        path=path,
        hint=f"did you mean {near}?" if near else f"stoker workflow show {workflow} --steps",
    )
