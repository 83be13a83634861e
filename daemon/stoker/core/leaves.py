"""The leaves of a document that was read from TOML or JSON, and the NULs in its texts.

Standard library only: the client imports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each leaf. The keys of a table are leaves at the path of the table."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield path, key
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def nul_problem(leaf: Any) -> str | None:
    """The message for a text with a NUL. TOML and JSON can write one as an escape; the protocol refuses it as well."""
    if not isinstance(leaf, str) or "\0" not in leaf:
        return None
    return f"NUL at character {leaf.index(chr(0))}: commands, variables and file names cannot contain it"
