"""The known name that a misspelt one resembles, for hints.

Standard library only: the client imports it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

MOST_SEARCHED = 1_000  # names: comparing one takes some 20 microseconds
LEAST_ALIKE = 0.65  # as difflib rates it: "cron" is no misspelt "reason" (0.6), "evn" is a misspelt "env" (0.67)


def nearest(name: str, names: Collection[str]) -> str | None:
    """The most similar of `names`; None if none is similar, or if there are too many to compare.

    The dashes before options make no two of them alike.
    """
    import difflib  # noqa: PLC0415 - only after a misspelt name

    if len(names) > MOST_SEARCHED:
        return None
    bare = {one.lstrip("-"): one for one in names}
    near = difflib.get_close_matches(name.lstrip("-"), bare, 1, LEAST_ALIKE)
    return bare[near[0]] if near else None


def did_you_mean(name: str, names: Collection[str]) -> str | None:
    """The same as a hint."""
    near = nearest(name, names)
    return f"did you mean {near}?" if near else None
