"""A draft: the flow that a reader makes of another tool's file, and the remarks on what it left out.

Owns the names of steps, which other tools spell more freely, and steps that would have nothing to run: what needs one
of these needs what it needs. Invariant: a text of the other tool is no template; only `{{…}}` that a reader writes is.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from stoker.core.errors import InvalidParams, UsageError

LONGEST_NAME = 48
LONGEST_FILE = 4 << 20  # characters
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class Remark(NamedTuple):
    """Something of the file that was left out, or that a person should know. `loss`: the flow does less without it."""

    file: str
    line: int | None
    text: str
    loss: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


@dataclass
class DraftStep:
    """`fields` are those of a flow file without `needs`; `origin` is where the step stands in the file it is from."""

    fields: dict[str, Any]
    needs: list[str] = field(default_factory=list)
    origin: str = ""


@dataclass
class Draft:
    """`head` has the fields of the whole flow, `finals` the steps of `[finally]`."""

    name: str
    steps: dict[str, DraftStep] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    finals: dict[str, DraftStep] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def flow(self) -> dict[str, Any]:
        """The flow as a flow file has it."""
        steps = {name: _fields(step) for name, step in self.steps.items()}
        finals = {"finally": {name: _fields(step) for name, step in self.finals.items()}} if self.finals else {}
        return {"name": self.name, **self.head, "steps": steps, **finals}


def _fields(step: DraftStep) -> dict[str, Any]:
    return ({"needs": step.needs} if step.needs else {}) | step.fields


class StepNames:
    """The name of a step for each name of the other tool: valid, short and unlike all others."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, original: str) -> str:
        if original not in self._given:
            self._given[original] = name = self._free(_fit(original))
            self._taken.add(name)
        return self._given[original]

    def _free(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted[: LONGEST_NAME - len(str(number)) - 1]}-{number}"
        return name


def flow_name(text: str) -> str:
    """A valid name of a flow, made of a text."""
    return _fit(text)


def read_text(source: str) -> str:
    """The text of a file. Raises UsageError."""
    try:
        with open(source, encoding="utf-8") as file:
            text = file.read(LONGEST_FILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"cannot read {source}: {problem}") from None
    if len(text) > LONGEST_FILE:
        raise InvalidParams(f"{source}: longer than {LONGEST_FILE} characters", hint="split the file")
    return text


def literal(text: str) -> str:
    """A text in which `{{` is not the begin of a template."""
    return text.replace("{{", "{{{{")


def contracted(needs: dict[str, list[str]], kept: Collection[str]) -> dict[str, list[str]]:
    """The needs of those kept, where one that is not kept stands for what it needs itself."""
    try:
        order = [name for name in TopologicalSorter(needs).static_order() if name in needs]
    except CycleError:  # the check of the flow names it
        return {name: [need for need in needs[name] if need in kept] for name in needs if name in kept}
    stands_for: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for name in order:
        own = list(dict.fromkeys(one for need in needs[name] for one in stands_for.get(need, ())))
        stands_for[name] = [name] if name in kept else own
        found[name] = own
    return {name: found[name] for name in needs if name in kept}


def _fit(text: str) -> str:
    """Valid as a name; of a long one the end, which tells the paths of files apart."""
    return _UNFIT.sub("-", text).lstrip("._-")[-LONGEST_NAME:].strip("._-") or "step"
