"""Rows of `checkpoints`: chains that only grow.

Checkpoints are read back byte for byte; `core.workflow.checkpoint` verifies them where their data is used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from stoker.core.errors import CheckpointDamaged
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind, Head
from stoker.store.database import json_array
from stoker.store.strict import strict

T = TypeVar("T")
MAX_SEQ = 2**63 - 1
TRIED = 20  # newest checkpoints of a job
FIELDS = Checkpoint.__struct_fields__  # each has a column of its name
COLUMNS = ", ".join(FIELDS)
INSERT = f"INSERT INTO checkpoints ({COLUMNS}) VALUES ({', '.join('?' * len(FIELDS))})"
HEAD = "SELECT id, seq FROM checkpoints WHERE chain = ? ORDER BY seq DESC LIMIT 1"
CONTEXT_SEQ = "SELECT max(seq) FROM checkpoints WHERE chain = ? AND kind = 'context' AND seq <= ?"
PROGRESS = f"""
SELECT {COLUMNS} FROM checkpoints WHERE job_id = ? AND kind = 'progress' AND seq > ? AND seq <= ?
ORDER BY seq DESC LIMIT ?
"""
LAST_PROGRESS = "SELECT max(seq) FROM checkpoints WHERE job_id = ? AND kind = 'progress'"
NEWEST_AT = """
SELECT job_id, at FROM checkpoints WHERE id IN (
    SELECT (SELECT id FROM checkpoints WHERE job_id = value ORDER BY seq DESC LIMIT 1) FROM json_each(?)
)
"""
LAST_OF_KIND = f"SELECT {COLUMNS} FROM checkpoints WHERE job_id = ? AND kind = ? ORDER BY seq DESC LIMIT 1"
# Without the data that jobs saved: a hundred of these may have a gigabyte, and a context needs none of it.
SPAN = f"""
SELECT {COLUMNS.replace("data", "iif(kind = 'progress', x'', data)")} FROM checkpoints
WHERE chain = ? AND seq BETWEEN ? AND ? ORDER BY seq
"""
# Lists need no data: thirty checkpoints may have a third of a gigabyte.
WITHOUT_DATA = COLUMNS.replace("data", "x''")
PAGE = f"""
SELECT {WITHOUT_DATA} FROM checkpoints WHERE chain = ?1 AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3
"""
ABOUT = f"SELECT {WITHOUT_DATA} FROM checkpoints WHERE id = ?"
BEHIND = f"SELECT {WITHOUT_DATA} FROM checkpoints WHERE chain = ? AND seq > ? ORDER BY seq LIMIT ?"
# The oldest of the newest checkpoints whose sizes add up to the limit.
NEWEST_WITHIN = """
SELECT min(seq) FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq DESC) AS together FROM checkpoints WHERE chain = ?
) WHERE together <= ?
"""
BY_IDS = f"SELECT {COLUMNS} FROM checkpoints WHERE id IN (SELECT value FROM json_each(?)) ORDER BY seq"
BY_ID = f"SELECT {COLUMNS} FROM checkpoints WHERE id = ?"
COUNT = "SELECT count(*) FROM checkpoints"


insert_row = attrgetter(*FIELDS)  # the parameters of INSERT


@strict("checkpoints")
def from_row(row: Sequence[Any]) -> Checkpoint:
    return msgspec.convert(dict(zip(FIELDS, row, strict=True)), Checkpoint)


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute(COUNT).fetchone()[0])


def heads(connection: sqlite3.Connection, chains: Iterable[str]) -> dict[str, Head]:
    result = {}
    for chain in chains:
        row = connection.execute(HEAD, (chain,)).fetchone()
        if row is not None:
            context = connection.execute(CONTEXT_SEQ, (chain, row[1])).fetchone()[0]
            result[chain] = Head(row[0], row[1], row[1] - (context or 0))
    return result


def by_id(connection: sqlite3.Connection, ident: int) -> Checkpoint | None:
    row = connection.execute(BY_ID, (ident,)).fetchone()
    return None if row is None else from_row(row)


def by_ids(connection: sqlite3.Connection, ids: Iterable[int]) -> list[Checkpoint]:
    return [from_row(row) for row in connection.execute(BY_IDS, (json_array(ids),))]


def about(connection: sqlite3.Connection, ident: int) -> Checkpoint | None:
    """One checkpoint, without its data."""
    row = connection.execute(ABOUT, (ident,)).fetchone()
    return None if row is None else from_row(row)


def newest_sound(
    connection: sqlite3.Connection, job_id: int, floor: int, read: Callable[[Checkpoint], T], up_to: int = MAX_SEQ
) -> tuple[T | None, list[CheckpointDamaged]]:
    """The newest undamaged checkpoint that a job saved after `floor`, as `read` gives it, and the damaged newer ones.

    Older ones are not read. After TRIED damaged ones it gives None: the attempt starts without a checkpoint.
    """
    damaged: list[CheckpointDamaged] = []
    for row in connection.execute(PROGRESS, (job_id, floor, up_to, TRIED)):
        try:
            return read(from_row(row)), damaged
        except CheckpointDamaged as error:
            damaged.append(error)
    return None, damaged


def last_progress(connection: sqlite3.Connection, job_id: int) -> int:
    """The seq of the newest checkpoint that a job saved; 0 if it never did."""
    return int(connection.execute(LAST_PROGRESS, (job_id,)).fetchone()[0] or 0)


def newest_at(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, int]:
    """The time of the newest checkpoint of each of these jobs, if there is one."""
    return dict(connection.execute(NEWEST_AT, (json_array(job_ids),)))


def step_ends(connection: sqlite3.Connection, job_ids: Iterable[int]) -> dict[int, Checkpoint]:
    """The checkpoint of the newest end of each of these jobs, if there is one."""
    ends = {}
    for job_id in job_ids:
        row = connection.execute(LAST_OF_KIND, (job_id, CheckpointKind.STEP.value)).fetchone()
        if row is not None:
            ends[job_id] = from_row(row)
    return ends


def up_to(connection: sqlite3.Connection, chain: str, seq: int) -> list[Checkpoint]:
    """From the last whole context up to `seq`, oldest first; checkpoints that jobs saved come without their data."""
    start = connection.execute(CONTEXT_SEQ, (chain, seq)).fetchone()[0]
    return [from_row(row) for row in connection.execute(SPAN, (chain, start or 1, seq))]


def behind(connection: sqlite3.Connection, chain: str, seq: int, limit: int) -> list[Checkpoint]:
    """Checkpoints of a chain after `seq`, oldest first, without their data."""
    return [from_row(row) for row in connection.execute(BEHIND, (chain, seq, limit))]


def newest_within(connection: sqlite3.Connection, chain: str, limit: int) -> int:
    """The first seq from which the checkpoints of a chain have at most `limit` bytes together; 0 if there is none."""
    return int(connection.execute(NEWEST_WITHIN, (chain, limit)).fetchone()[0] or 0)


def page(connection: sqlite3.Connection, chain: str, before_seq: int | None, limit: int) -> list[Checkpoint]:
    """Checkpoints of a chain, newest first, without their data."""
    return [from_row(row) for row in connection.execute(PAGE, (chain, before_seq, limit))]
