"""Cycles in the needs of steps, and the layers of a graph without one.

Owns how a cycle is found and how the message of a very long one is shortened. The layers are those of a graph that has
no cycle: `layers` raises CycleError for another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from stoker.core.workflow.mistakes import MAX_MISTAKES, Mistake

CYCLE_ENDS = 10  # steps shown at either end of a cycle; the details of the error have all of them


def find_cycle(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The steps of a cycle, each needed by the next, the first again at the end; empty without a cycle."""
    try:
        TopologicalSorter({name: [need for need in own if need in needs] for name, own in needs.items()}).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def find_cycles(needs: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Cycles that have no step in common, at most as many as an answer shows."""
    left = dict(needs)
    for _ in range(MAX_MISTAKES):
        cycle = find_cycle(left)
        if not cycle:
            return
        yield cycle
        for name in set(cycle):
            del left[name]


def cycle_mistake(cycle: list[str]) -> Mistake:
    """The mistake that lists the steps of a cycle; of a very long one both ends."""
    first = cycle[1]
    between = len(cycle) - 2 * CYCLE_ENDS
    shown = cycle if between <= 0 else [*cycle[:CYCLE_ENDS], f"… {between} more …", *cycle[-CYCLE_ENDS:]]
    return Mistake(
        f"steps.{first}.needs",
        f"a cycle: {' -> '.join(shown)}, each needed by the next",
        "take one of these needs out",
        tuple(cycle),
    )
