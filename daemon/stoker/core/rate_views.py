"""How rates are shown, for type checkers and editors. Never imported at run time.

Owns the answers of `rate.list`, `rate.set` and `rate.remove` as TypedDicts; see `core.views`.
"""

from __future__ import annotations

from typing import TypedDict


class TokensView(TypedDict):
    """A rate, and the number of jobs that may start now; None for `*`, as each key has tokens of its own."""

    rate: str
    burst: int
    tokens: int | None
    next_token_in_ms: int | None


class RateView(TokensView):
    key: str


class RateList(TypedDict):
    rates: list[RateView]


class RateRemoved(TypedDict):
    key: str


class RateChanged(RateRemoved):
    rate: str
    burst: int
