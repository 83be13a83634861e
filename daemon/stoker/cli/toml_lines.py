"""The lines of a flow file at which its tables and keys begin.

Owns a reading of TOML that is enough to find a place: tomllib gives values without lines. A place inside an inline
table or a list is that of the key whose value it is.
"""

from __future__ import annotations

import re

_TABLE = re.compile(r"\s*\[\[?\s*(?P<path>[^\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"""\s*(?P<path>(?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_LONG_TEXT = re.compile(r"\"\"\"|'''")
_LAST_PART = re.compile(r"(?:\[\d+\]|\.[^.\[]*)$")


class TomlLines:
    """Asked by paths as mistakes have them: `steps.build.args[1]`."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        table, inside = "", ""  # the quotes of the text of several lines in which the line is
        for number, line in enumerate(text.split("\n"), 1):
            if not inside:
                table = self._read(line, number, table)
            for quotes in _LONG_TEXT.findall(line):
                inside = "" if inside == quotes else inside or quotes

    def line_of(self, path: str) -> int | None:
        """The line of the path, or of the nearest place around it."""
        while path:
            if path in self._lines:
                return self._lines[path]
            shorter = _LAST_PART.sub("", path)
            path = shorter if shorter != path else ""
        return None

    def _read(self, line: str, number: int, table: str) -> str:
        """Note the line; the table in which the next one is."""
        if found := _TABLE.fullmatch(line):
            table = _plain(found["path"])
            self._lines.setdefault(table, number)
        elif key := _KEY.match(line):
            self._lines.setdefault(f"{table}.{_plain(key['path'])}".lstrip("."), number)
        return table


def _plain(path: str) -> str:
    return ".".join(part.strip("\"'") for part in _PART.findall(path))
