"""The `if` of a step as its spec has it, and the decision that follows from it.

The expression itself is read and computed by `core.workflow.expression`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace


class RunIf(Struct, frozen=True, omit_defaults=True):
    """The `if` of a step, and the values for its names that are known at its submit.

    `parameters`: those that it names. `item`: what its step was made from. `groups`: the needs that are several steps.
    `prefix`: what the names of its needs have before them in the workflow, as those of a nested flow have.
    """

    text: str
    parameters: dict[str, str] = {}
    item: Any = None
    groups: tuple[str, ...] = ()
    prefix: str = ""

    def inside(self, outer: str) -> RunIf:
        """The same in a workflow in which the needs have this before their names."""
        return replace(self, prefix=f"{outer}{self.prefix}")

    @property
    def size(self) -> int:
        """The characters that it takes in a row."""
        return len(self.text) + sum(map(len, self.parameters.values()))


class Decision(StrEnum):
    """The result of an `if`, once the needs of its step have ended."""

    RUN = "run"
    SKIP = "skip"
    FAIL = "fail"  # it has no value, as an output that it names is missing
