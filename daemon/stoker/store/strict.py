"""Damaged rows, which no release of ours stores: their reader raises an error.

Every function of `store/` that makes values of rows is `strict`. So a damaged row is a clear error of one request, or
of a start. It is never taken for a bug, and never replaced by a default.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import msgspec

from stoker.core.errors import CorruptRecord, StorageFailed

T = TypeVar("T")

HINT = "stop stokerd; stoker doctor says what is damaged; then: stoker restore --from-journal"
NOT_UTF_8 = "Could not decode to UTF-8"  # begins the message of Python's sqlite3, which has no class for it
UNFIT = (msgspec.MsgspecError, ValueError, TypeError, AttributeError)  # what a value of a wrong kind raises


def strict(table: str) -> Callable[[Callable[[Any], T]], Callable[[Any], T]]:
    """For a function that reads one row or all rows of `table`: it raises CorruptRecord for one that cannot be read."""

    def decorate(read: Callable[[Any], T]) -> Callable[[Any], T]:
        @wraps(read)
        def strictly(source: Any) -> T:
            try:
                return read(source)
            except UNFIT as error:
                raise CorruptRecord(f"a row of the table {table} cannot be read: {error}", hint=HINT) from error

        return strictly

    return decorate


def failed_read(error: sqlite3.Error) -> CorruptRecord | StorageFailed:
    """Text that is not UTF-8 is damage, which stays at the next start; else the disk or the file may have failed."""
    if str(error).startswith(NOT_UTF_8):
        return CorruptRecord(f"a row cannot be read: {error}", hint=HINT)
    return StorageFailed(f"read: {error}")
