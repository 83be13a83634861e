"""The integrity of a database: SQLite's own check, and the laws that hold in every database of Stoker.

Works for every schema since the first. Invariants: it only reads; each finding is a sentence that names the rows.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

INTEGRITY = "PRAGMA integrity_check({})"
HEADING = "*** in database main ***"  # of its report, which has several lines
OF_INDEX = re.compile(r"(row \d+ missing from|wrong # of entries in|non-unique entry in) index \w+")
MOST = 20  # findings of SQLite's check
FOREIGN_KEYS = "PRAGMA foreign_key_check"


class Law(NamedTuple):
    """`broken` finds rows that break the law; `evidence` is a sentence with their values."""

    broken: str
    evidence: str


# SQLite counts rows without reading them, and takes min and max from the ends, only if each is asked for alone.
LAWS = (
    Law(
        """
SELECT first, removed FROM (
    SELECT min(seq) AS first, coalesce((SELECT value FROM meta WHERE key = 'changes_purged'), 0) AS removed FROM changes
) WHERE first <> removed + 1
""",
        "the log of changes begins at {0}, though retention removed only those up to {1}",
    ),
    Law(
        """
SELECT held, first, last FROM (
    SELECT (SELECT count(*) FROM changes) AS held, (SELECT min(seq) FROM changes) AS first,
        (SELECT max(seq) FROM changes) AS last
) WHERE held <> last - first + 1
""",
        "{0} changes are left of those from {1} to {2}",
    ),
    Law(
        """
SELECT run_id, job_id, state FROM attempts LEFT JOIN jobs ON jobs.id = job_id
WHERE ended_at IS NULL AND coalesce(state, 'missing') NOT IN ('running', 'held') LIMIT 1
""",
        "attempt {0} is open, but its job {1} is {2}",
    ),
)


def find_damage(connection: sqlite3.Connection) -> str | None:
    """The first fault of a database, in a sentence; None if it has none. Raises sqlite3.Error."""
    checks = (damaged_pages(connection, 1), lost_references(connection), _broken_laws(connection))
    return next((sentence for check in checks for sentence in check), None)


def damaged_pages(connection: sqlite3.Connection, most: int = MOST) -> Iterator[str]:
    """The faults that SQLite finds in pages, indexes and values. Raises sqlite3.Error."""
    for (text,) in connection.execute(INTEGRITY.format(most)):
        if text != "ok":
            yield " ".join(str(text).replace(HEADING, "").split())


def lost_references(connection: sqlite3.Connection) -> Iterator[str]:
    """Rows that refer to one that does not exist. Raises sqlite3.Error."""
    for table, _, parent, _ in connection.execute(FOREIGN_KEYS):
        yield f"a row of {table} refers to a row of {parent} that does not exist"


def _broken_laws(connection: sqlite3.Connection) -> Iterator[str]:
    for law in LAWS:
        row = connection.execute(law.broken).fetchone()
        if row is not None:
            yield law.evidence.format(*row)
