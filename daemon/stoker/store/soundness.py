"""Whether a database is whole: SQLite's own check, and the laws that hold in every database of ours.

Works for each schema since the first. Invariants: it only reads; what it finds is a sentence that names the rows.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

INTEGRITY = "PRAGMA integrity_check(1)"
HEADING = "*** in database main ***"  # of its report, which has several lines
FOREIGN_KEYS = "PRAGMA foreign_key_check"


class Law(NamedTuple):
    """`broken` finds rows that break the law; `evidence` is a sentence with their values."""

    broken: str
    evidence: str


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
SELECT held, first, last FROM (SELECT count(*) AS held, min(seq) AS first, max(seq) AS last FROM changes)
WHERE held <> last - first + 1
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
    """What is wrong with a database, in a sentence; None if nothing was found. Raises sqlite3.Error."""
    (check,) = connection.execute(INTEGRITY).fetchone()
    if check != "ok":
        return " ".join(str(check).replace(HEADING, "").split())
    orphan = connection.execute(FOREIGN_KEYS).fetchone()
    if orphan is not None:
        return f"a row of {orphan[0]} refers to a row of {orphan[2]} that does not exist"
    for law in LAWS:
        row = connection.execute(law.broken).fetchone()
        if row is not None:
            return law.evidence.format(*row)
    return None
