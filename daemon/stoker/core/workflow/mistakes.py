"""Everything that is wrong with a flow, told at once.

Owns the shape of one mistake and the one answer that all of them make. Refuses to look for any: shape, graph and host
each have their own place. Invariant: a broken generator that makes the same mistake in every step gets a short answer.
"""

from __future__ import annotations

from typing import NamedTuple

from stoker.core.errors import FlowInvalid

MAX_MISTAKES = 50  # in one answer: a broken generator makes the same mistake in every step


class Mistake(NamedTuple):
    """One thing that is wrong: where, what, and what to do."""

    path: str
    message: str
    hint: str | None = None
    cycle: tuple[str, ...] = ()


def refuse(mistakes: list[Mistake]) -> None:
    """Raise FlowInvalid unless there are none."""
    if not mistakes:
        return
    shown = mistakes[:MAX_MISTAKES]
    first = f", of which the first {len(shown)} are told" if len(mistakes) > len(shown) else ""
    told = "; ".join(f"{one.path}: {one.message}" for one in shown[:3])
    rest = f"; {len(shown) - 3} more below" if len(shown) > 3 else ""  # noqa: PLR2004 - what fits into a line
    errors = [{"path": one.path, "message": one.message, "hint": one.hint} for one in shown]
    raise FlowInvalid(
        f"the flow has {len(mistakes)} {'mistake' if len(mistakes) == 1 else 'mistakes'}{first}: {told}{rest}",
        hint=shown[0].hint,
        path=shown[0].path,
        errors=errors,
        **next(({"cycle": one.cycle} for one in mistakes if one.cycle), {}),
    )
