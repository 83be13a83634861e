"""The kept list of mutants: one-line sabotages, each with the promise it breaks and the tests that must notice.

Owns list.toml and the check that it is not stale. Refuses to run anything. Invariant: a mutant is one line that stands
exactly once in its file, indentation aside, and something else in its place.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

LIST = Path(__file__).with_name("list.toml")


class Mutant(Struct, frozen=True, forbid_unknown_fields=True):
    """`hang`: that its tests do not end in time counts as caught too."""

    file: str
    line: str
    sabotage: str
    promise: str
    tests: tuple[str, ...]
    hang: bool = False

    def stale(self, root: Path) -> str | None:
        """The mistake in it, if there is one."""
        count = self._at(root)
        if len(count) != 1:
            return f"{self.file}: {len(count)} lines are {self.line!r}, there should be one"
        if "\n" in self.sabotage or self.sabotage == self.line:
            return f"{self.file}: the sabotage of {self.line!r} is not another line"
        missing = [test for test in self.tests if not _exists(root, test)]
        return f"there is no {', '.join(missing)}" if missing or not self.tests else None

    def sabotaged(self, root: Path) -> str:
        """The text of its file with the line replaced. Raises ValueError where the list is stale."""
        mistake = self.stale(root)
        if mistake is not None:
            raise ValueError(mistake)
        (index,) = self._at(root)
        lines = (root / self.file).read_text().splitlines(keepends=True)
        lines[index] = lines[index].replace(self.line, self.sabotage)
        return "".join(lines)

    def _at(self, root: Path) -> list[int]:
        lines = (root / self.file).read_text().splitlines()
        return [index for index, line in enumerate(lines) if line.strip() == self.line]


def mutants() -> dict[str, Mutant]:
    """By name, in the order of the list."""
    return msgspec.convert(tomllib.loads(LIST.read_text()), dict[str, Mutant])


def _exists(root: Path, test: str) -> bool:
    """`test` is a file, or a function in one, perhaps with its parameters."""
    file, _, name = test.partition("::")
    path = root / file
    return path.is_file() and (not name or f"def {name.partition('[')[0]}(" in path.read_text())
