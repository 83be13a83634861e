"""Shell scripts of several commands, each of which runs as if it had a shell of its own.

Owns the form of these scripts. Invariant: what a command does to its directory or variables is not seen by the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class ShellLine(NamedTuple):
    """`ignored`: the script goes on if the command fails."""

    text: str
    ignored: bool = False


def in_shells_of_their_own(lines: Sequence[ShellLine], *, exits_on_error: bool) -> str:
    """One script. `exits_on_error`: it runs with `sh -e`, so that a command can end within."""
    if len(lines) == 1 and not lines[0].ignored:
        return lines[0].text
    return "\n".join(_in_errexit(line) if exits_on_error else _in_plain(line) for line in lines) + "\n"


def _in_plain(line: ShellLine) -> str:
    return f"{_apart(line.text)} || {'true' if line.ignored else 'exit'}"


def _in_errexit(line: ShellLine) -> str:
    """Behind `||` a shell does not exit on an error within the parentheses."""
    return f"set +e; {_apart(f'set -e; {line.text}')}; set -e" if line.ignored else _apart(line.text)


def _apart(text: str) -> str:
    """In parentheses, on lines of their own if a comment or a document could take the last one in."""
    return f"(\n{text}\n)" if "\n" in text or "#" in text else f"( {text} )"
