"""Rows of `idempotency`: the keys under which jobs and workflows were submitted.

A key outlives the purge of its job for some time, with the state in which that had ended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import Struct

INSERT = "INSERT INTO idempotency (owner_uid, key, spec_hash, job_id, created_at) VALUES (?, ?, ?, ?, ?)"
BY_KEY = "SELECT spec_hash, job_id, purged_state, purged_workflow FROM idempotency WHERE owner_uid = ? AND key = ?"


class NewKey(Struct, frozen=True):
    owner_uid: int
    key: str
    spec_hash: bytes
    job_id: int
    created_at: int


class Keyed(Struct, frozen=True):
    """The job that a key was used for, and the hash of its spec as it was sent.

    If it was purged: the state in which it, or its workflow `purged_workflow`, had ended.
    """

    spec_hash: bytes
    job_id: int
    purged_state: str | None = None
    purged_workflow: int | None = None


def new_row(new: NewKey) -> tuple[int, str, bytes, int, int]:
    return new.owner_uid, new.key, new.spec_hash, new.job_id, new.created_at


def by_keys(connection: sqlite3.Connection, keys: Iterable[tuple[int, str]]) -> dict[tuple[int, str], Keyed]:
    keyed = {}
    for pair in keys:
        row = connection.execute(BY_KEY, pair).fetchone()
        if row is not None:
            keyed[pair] = Keyed(*row)
    return keyed
