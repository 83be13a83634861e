"""The known name that a misspelt one resembles, for hints.

Standard library only: the client imports it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

MOST_SEARCHED = 1_000  # names: comparing one takes some 20 microseconds


def nearest(name: str, names: Collection[str]) -> str | None:
    """The most similar of `names`; None if none is similar, or if there are too many to compare."""
    import difflib  # noqa: PLC0415 - only after a misspelt name

    near = difflib.get_close_matches(name, names, 1) if len(names) <= MOST_SEARCHED else []
    return near[0] if near else None


def did_you_mean(name: str, names: Collection[str]) -> str | None:
    """The same as a hint."""
    near = nearest(name, names)
    return f"did you mean {near}?" if near else None
