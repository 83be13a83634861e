"""The methods of the protocol for the rates of keys, as plain calls.

Owns the views of rates, also those of queues. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import UNSET

from stoker.core.errors import InvalidParams, RateNotFound
from stoker.core.job.model import Actor
from stoker.core.rate import EVERY_KEY, KEY_PREFIX, QUEUE_PREFIX, Rate, changed
from stoker.core.requests import RateSettings
from stoker.engine.memory import LiveState
from stoker.engine.settings import TurnChange, set_rate
from stoker.engine.turn import Turn
from stoker.service.engine import Engine

if TYPE_CHECKING:
    from stoker.core.rate_views import RateChanged, RateList, RateRemoved, RateView, TokensView


def rate_views(memory: LiveState, now_ms: int) -> list[RateView]:
    """Each rate of a key; the rate of all others has no tokens of its own."""
    return [
        {"key": key, **_bucket(memory, rate, f"{KEY_PREFIX}{key}", now_ms)}
        if key != EVERY_KEY
        else {"key": key, "rate": str(rate), "burst": rate.burst, "tokens": None, "next_token_in_ms": None}
        for key, rate in sorted(memory.rates.of_keys.items())
    ]


def queue_tokens(memory: LiveState, name: str, now_ms: int) -> TokensView | None:
    """The rate of a queue, and the tokens that are left of it."""
    rate = memory.queues[name].rate
    return None if rate is None else _bucket(memory, rate, f"{QUEUE_PREFIX}{name}", now_ms)


def _bucket(memory: LiveState, rate: Rate, name: str, now_ms: int) -> TokensView:
    return {
        "rate": str(rate),
        "burst": rate.burst,
        "tokens": memory.rates.tokens(name, now_ms),
        "next_token_in_ms": memory.rates.next_token_ms(name, now_ms),
    }


class RateService:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self) -> RateList:
        return {"rates": rate_views(self._engine.memory, self._engine.clock.now().steady)}

    def set(self, settings: RateSettings, peer_uid: int) -> asyncio.Future[RateChanged]:
        """Set the rate of a key. Raises InvalidParams or TooManyRates."""
        if settings.rate is UNSET and settings.burst is UNSET:
            raise InvalidParams("rate: missing, and there is no burst either", hint="write 10/s, 100/m", path="rate")

        def change(turn: Turn) -> RateChanged:
            turn.memory.rates.check_room(settings.key)
            rate = changed(turn.memory.rates.of_keys.get(settings.key), settings.rate, settings.burst)
            if rate is None:
                raise InvalidParams("rate: a new key needs a rate", hint="write 10/s, 100/m", path="rate")
            set_rate(turn, settings.key, rate, "set", Actor(peer_uid, settings.reason))
            return {"key": settings.key, "rate": str(rate), "burst": rate.burst}

        return self._engine.request(TurnChange(change))

    def remove(self, key: str, actor: Actor) -> asyncio.Future[RateRemoved]:
        """Jobs with this key start without a limit, or at the rate of all other keys. Raises RateNotFound."""

        def change(turn: Turn) -> RateRemoved:
            if key not in turn.memory.rates.of_keys:
                raise RateNotFound(f"key: {key!r} has no rate of its own", hint="stoker rate ls", path="key")
            set_rate(turn, key, None, "removed", actor)
            return {"key": key}

        return self._engine.request(TurnChange(change))
