"""Where a mistake of a flow stands: the file, the path in the flow of that file, and the line.

Owns the way from a path in a flow with all that it includes to one of the files that it was read from. A file is read
again only for the line of a mistake in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stoker.cli.toml_lines import TomlLines


class FlowPlace(NamedTuple):
    """`line`: None if the file has no lines to name, as JSON."""

    file: str
    path: str
    line: int | None


class FlowPlaces:
    """`files`: the file of each flow, by the path before its fields; see `nested_flows.embed`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._lines: dict[str, TomlLines] = {}

    def of(self, path: str) -> FlowPlace:
        """The place of a path as the daemon names it, `steps.a.workflow.steps.b.needs[0]`."""
        before = max((place for place in self._files if path.startswith(place)), key=len)
        file, within = self._files[before], path.removeprefix(before)
        if file not in self._lines:
            self._lines[file] = _lines_of(file)
        return FlowPlace(file, within, self._lines[file].line_of(within))


def _lines_of(source: str) -> TomlLines:
    """None are known if its form has no lines to name, or it cannot be read."""
    if source == "-" or source.endswith(".json"):
        return TomlLines("")
    try:
        with open(source, encoding="utf-8") as file:
            return TomlLines(file.read())
    except (OSError, UnicodeDecodeError):
        return TomlLines("")
