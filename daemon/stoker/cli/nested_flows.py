"""Nested workflows in a flow file: `workflow = "child.toml"` of a step becomes the flow that this file holds.

Only the client reads these files; the daemon gets one flow, and checks its depth. Invariant: a file that includes
itself, directly or through others, is refused with the whole chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stoker.core.errors import FlowInvalid, StokerError

TABLES = ("steps", "on_failure", "on_success", "finally")
Read = Callable[[str], dict[str, Any]]


def embed(source: str, flow: dict[str, Any], read: Read) -> dict[str, str]:
    """Put the flows of nested files into `flow`. Raises FlowInvalid or ParseError.

    Returns the file of each flow, by the path before its fields.
    """
    files = {"": source}
    _embed("", flow, read, (source,), files)
    return files


def flows(flow: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The flow and all that are nested in it, each with the path before its fields."""
    yield path, flow
    for place, step in steps_of(flow):
        child = step.get("workflow")
        if isinstance(child, dict):
            yield from flows(child, f"{path}{place}.workflow.")


def _embed(path: str, flow: dict[str, Any], read: Read, chain: tuple[str, ...], files: dict[str, str]) -> None:
    """`chain`: the files that lead to this flow, and at its end that of the flow itself."""
    source = chain[-1]
    for place, step in steps_of(flow):
        child, further = step.get("workflow"), chain
        if isinstance(child, str):
            at = str(_folder(source) / child)
            further = (*chain, at)
            files[f"{path}{place}.workflow."] = at
            _check_chain(f"{source}: {place}.workflow", further)
            try:
                child = step["workflow"] = read(at)
            except StokerError as error:
                error.message = f"{source}: {place}.workflow: {error.message}"
                raise
        if isinstance(child, dict):
            _embed(f"{path}{place}.workflow.", child, read, further, files)


def _check_chain(where: str, chain: tuple[str, ...]) -> None:
    files = [Path(file).resolve() for file in chain]
    if files[-1] in files[:-1]:
        raise FlowInvalid(
            f"{where}: the workflow includes itself: {' -> '.join(chain)}",
            hint="take the step that leads back out",
            path=where,
        )


def _folder(source: str) -> Path:
    return Path() if source == "-" else Path(source).parent


def steps_of(flow: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step and handler that is a table, with its path in its flow."""
    for table in TABLES:
        steps = flow.get(table)
        for name, step in steps.items() if isinstance(steps, dict) else ():
            if isinstance(step, dict):
                yield f"{table}.{name}", step
