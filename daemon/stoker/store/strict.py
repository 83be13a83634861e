"""Damaged rows, which no release of ours stores: their reader raises an error.

Every function of `store/` that makes values of rows is `strict`. So a damaged row is a clear error of one request, or
of a start. It is never taken for a bug, and never replaced by a default.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import msgspec

from stoker.core.errors import CorruptRecord

T = TypeVar("T")

UNFIT = (msgspec.MsgspecError, ValueError, TypeError, AttributeError)  # what a value of a wrong kind raises


def strict(table: str) -> Callable[[Callable[[Any], T]], Callable[[Any], T]]:
    """For a function that reads one row or all rows of `table`: it raises CorruptRecord for one that cannot be read."""

    def decorate(read: Callable[[Any], T]) -> Callable[[Any], T]:
        @wraps(read)
        def strictly(source: Any) -> T:
            try:
                return read(source)
            except UNFIT as error:
                raise CorruptRecord(
                    f"a row of the table {table} cannot be read: {error}",
                    hint="stop stokerd; stoker doctor says what is damaged; then: stoker restore --from-journal",
                ) from error

        return strictly

    return decorate
