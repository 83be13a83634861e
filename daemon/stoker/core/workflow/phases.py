"""The order of the steps of a workflow: each after its needs, and handlers after the steps before them. Pure.

Handlers run once all steps of their workflow have ended that stand in an earlier phase; `finally` is the last one. A
handler of a nested workflow is an ordinary step of the workflows around that. A workflow is known by what the names of
its steps begin with, as `build/`; a handler by its table. Standard library only: the client imports it.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from stoker.core.workflow.step_names import outer_of, outers_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PHASES = 3
_PHASES = {"on_failure": 1, "on_success": 1, "finally": 2}


def phase(table: str | None) -> int:
    """Ordinary steps are in phase 0."""
    return 0 if table is None else _PHASES[table]


def phase_in(outer: str, name: str, table: str | None) -> int:
    """The phase of a step in one of the workflows that it is in."""
    return 0 if table is None or outer_of(name) != outer else _PHASES[table]


def layers(needs: Mapping[str, Iterable[str]], tables: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """Groups of steps that can run at the same time, in order; within a group in the order of `needs`.

    `tables`: those of the handlers, by name.
    """
    order = {name: number for number, name in enumerate(needs)}
    sorter = TopologicalSorter(_graph(needs, tables or {}))
    sorter.prepare()
    while sorter.is_active():
        ready: list[str] = []
        while found := sorter.get_ready():
            ready += (one for one in found if isinstance(one, str))
            sorter.done(*(one for one in found if not isinstance(one, str)))
        yield sorted(ready, key=order.__getitem__)
        sorter.done(*ready)


def in_order(needs: Mapping[str, Iterable[str]], tables: Mapping[str, str]) -> Iterator[str]:
    """The steps in an order in which they can run."""
    return (one for one in TopologicalSorter(_graph(needs, tables)).static_order() if isinstance(one, str))


def cycle_in(needs: Mapping[str, Iterable[str]], tables: Mapping[str, str]) -> list[str]:
    """The steps of a cycle, each before the next, the first again at the end; empty without a cycle.

    A handler comes after the steps before it although it does not need them: `finally` -> end of the flow -> a step of
    the flow -> `finally`.
    """
    try:
        TopologicalSorter(_graph(needs, tables)).prepare()
    except CycleError as error:
        steps = [one for one in error.args[1][1:] if isinstance(one, str)]
        return [steps[-1], *steps]
    return []


def _graph(
    needs: Mapping[str, Iterable[str]], tables: Mapping[str, str]
) -> dict[str | tuple[str, int], list[str | tuple[str, int]]]:
    """The needs of each step, and between each phase of handlers and the steps before it a node of its own."""
    graph: dict[str | tuple[str, int], list[str | tuple[str, int]]] = {name: [*own] for name, own in needs.items()}
    later: dict[str, set[int]] = {}
    for name, table in tables.items():
        later.setdefault(outer_of(name), set()).add(phase(table))
        graph[name].append((outer_of(name), phase(table)))
    for name in needs if later else ():
        for outer in outers_of(name):
            mine = phase_in(outer, name, tables.get(name))
            for of_handlers in sorted(later.get(outer, ())):
                if mine < of_handlers:
                    graph.setdefault((outer, of_handlers), []).append(name)
    return graph
