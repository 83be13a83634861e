"""Rows of `rates` and `buckets`.

Owns the text of a rate as it is stored, also in `queues`. A bucket without a row is full.
"""

from __future__ import annotations

import sqlite3

import msgspec

from stoker.core.rate import Rate, is_possible
from stoker.store.strict import strict

UPSERT = "INSERT INTO rates (key, rate) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET rate = excluded.rate"
DELETE = "DELETE FROM rates WHERE key = ?"
ALL = "SELECT key, rate FROM rates ORDER BY key"
UPSERT_BUCKET = """
INSERT INTO buckets (name, full_at) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET full_at = excluded.full_at
"""
DELETE_BUCKET = "DELETE FROM buckets WHERE name = ?"
ALL_BUCKETS = "SELECT name, full_at FROM buckets"

_decode = msgspec.json.Decoder(Rate).decode


def column(rate: Rate) -> str:
    """A rate as it is stored, for a key and for a queue."""
    return msgspec.json.encode(rate).decode()


def of_column(text: str | None) -> Rate | None:
    """Raises ValueError for a rate that cannot have been set."""
    return None if text is None else _read(text)


def _read(text: str) -> Rate:
    rate = _decode(text)
    if not is_possible(rate):
        raise ValueError(f"{text} is no rate")
    return rate


def row(key: str, rate: Rate) -> tuple[str, str]:
    """The parameters of UPSERT."""
    return (key, column(rate))


@strict("rates")
def rates(connection: sqlite3.Connection) -> dict[str, Rate]:
    """The rates by key."""
    texts = msgspec.convert(dict(connection.execute(ALL).fetchall()), dict[str, str])
    return {key: _read(text) for key, text in texts.items()}


@strict("buckets")
def buckets(connection: sqlite3.Connection) -> dict[str, int]:
    """The time at which each bucket is full again, of those that are not full."""
    return msgspec.convert(dict(connection.execute(ALL_BUCKETS).fetchall()), dict[str, int])
