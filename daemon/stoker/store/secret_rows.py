"""Rows of `secrets`: the encrypted values of jobs that may still start.

They are in no journal and no backup. Invariant: what is written here went through the box.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from stoker.core.job.model import Job, State
from stoker.core.job.secret_values import SecretValue
from stoker.store.secret_box import SecretBox, SecretUnreadable

TABLE = "secrets"
INSERT = "INSERT INTO secrets (job_id, name, sealed) VALUES (?, ?, ?)"
FORGET = "DELETE FROM secrets WHERE job_id = ?"
FORGET_PURGED = "DELETE FROM secrets WHERE job_id IN (SELECT value FROM json_each(?))"
OF_JOB = "SELECT name, sealed FROM secrets WHERE job_id = ?"
EXISTS = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'secrets'"
ALL = "SELECT job_id, name, sealed FROM secrets"
ANY = "SELECT 1 FROM secrets LIMIT 1"
CLEAR = "DELETE FROM secrets"
# After these a retry is no usual thing. A job that ended otherwise keeps its secrets for a retry, until it is purged.
DONE = frozenset({State.SUCCEEDED, State.SUPERSEDED})

SecretsByJob = Mapping[int, Mapping[str, SecretValue]]


class SecretsGone(Exception):
    """A job cannot start, as secrets of it are not there any more or cannot be read; the text says which."""


def write(connection: sqlite3.Connection, box: SecretBox | None, of_new: SecretsByJob, changed: Iterable[Job]) -> None:
    """Store the secrets of new jobs, encrypted, and remove those of changed jobs that need none any more."""
    if of_new:
        assert box is not None, "a daemon that accepts secrets gives its writer a box"
        rows = [
            (job, name, box.seal(job, name, one.data)) for job, all_ in of_new.items() for name, one in all_.items()
        ]
        connection.executemany(INSERT, rows)
    for job in changed:
        if job.spec.secrets and job.state in DONE:
            connection.execute(FORGET, (job.id,))


def of_job(connection: sqlite3.Connection, box: SecretBox, job: Job) -> dict[str, bytes]:
    """The values by name. Raises SecretsGone."""
    sealed = dict(connection.execute(OF_JOB, (job.id,)).fetchall())
    if missing := [name for name in job.spec.secrets if name not in sealed]:
        raise SecretsGone(f"its secrets are gone ({', '.join(missing)}): it succeeded before, or a backup was restored")
    try:
        return {name: box.unseal(job.id, name, sealed[name]) for name in job.spec.secrets}
    except SecretUnreadable as unreadable:
        raise SecretsGone(f"its secret {unreadable} is damaged, or was stored with another key") from None


def unreadable(connection: sqlite3.Connection, box: SecretBox) -> Iterator[tuple[int, str]]:
    """Job and name of each secret that the box cannot open. Raises sqlite3.Error."""
    for job_id, name, sealed in connection.execute(ALL):
        try:
            box.unseal(job_id, name, sealed)
        except SecretUnreadable:
            yield job_id, name


def exist(connection: sqlite3.Connection) -> bool:
    """Whether a database, whose schema may be an earlier one, has secrets."""
    return connection.execute(EXISTS).fetchone() is not None and connection.execute(ANY).fetchone() is not None


def strip(connection: sqlite3.Connection) -> None:
    """Remove all secrets from a copy of a database, also from the pages that become free."""
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(CLEAR)
