"""The mistakes of a flow, and the single error that lists them.

Shape, graph and host are checked elsewhere. Invariant: the error is short, even if a broken generator makes the same
mistake in every step.
"""

from __future__ import annotations

from typing import NamedTuple

from stoker.core.errors import FlowInvalid

MAX_MISTAKES = 50  # in one error


class Mistake(NamedTuple):
    path: str
    message: str
    hint: str | None = None
    cycle: tuple[str, ...] = ()


def refuse(mistakes: list[Mistake]) -> None:
    """Raise FlowInvalid if there are any."""
    if not mistakes:
        return
    shown = mistakes[:MAX_MISTAKES]
    first = f", the first {len(shown)} are listed" if len(mistakes) > len(shown) else ""
    few = "; ".join(f"{one.path}: {one.message}" for one in shown[:3])
    rest = f"; {len(shown) - 3} more below" if len(shown) > 3 else ""  # noqa: PLR2004 - what fits into a line
    errors = [{"path": one.path, "message": one.message, "hint": one.hint} for one in shown]
    raise FlowInvalid(
        f"the flow has {len(mistakes)} {'mistake' if len(mistakes) == 1 else 'mistakes'}{first}: {few}{rest}",
        hint=shown[0].hint,
        path=shown[0].path,
        errors=errors,
        **next(({"cycle": one.cycle} for one in mistakes if one.cycle), {}),
    )
