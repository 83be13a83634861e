"""The inspection of a state directory without a daemon, which changes no byte of it.

It keeps daemons out, makes the checks that a daemon would make, and reads. Invariant: during an inspection no daemon
can start on the directory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from stoker.core.errors import StateRefused
from stoker.core.job.model import Attempt, Job
from stoker.store import jobs, snapshot
from stoker.store.directory import StateDirectory
from stoker.store.migrate import schema_of, shipped_migrations
from stoker.store.open import doubt_journal, open_existing
from stoker.store.queues import meta


class InspectedState(Struct, frozen=True):
    """The identity of the directory, and the attempts left open in it. `epoch` is that of the last start.

    `boot_id`: the boot of that start; `earlier_epochs` counts from it.
    """

    instance: str
    epoch: int
    copied: bool
    foreign_epochs: int
    hidden_epochs: int
    boot_id: str
    earlier_epochs: int
    runs: list[tuple[Job, Attempt]]
    running_without_attempt: list[int]


@contextmanager
def inspecting(directory: StateDirectory) -> Iterator[InspectedState]:
    """Lock and read the directory. Raises AlreadyRunning, or StateRefused if no daemon could start on it."""
    directory.check(reading=True)
    with directory.shared() as lock:
        with open_existing(directory) as connection:
            doubt_journal(connection, directory.journal)
            state = _read(connection, lock)
        yield state


def _read(connection: sqlite3.Connection, lock: str) -> InspectedState:
    schema, newest = schema_of(connection), shipped_migrations()[-1].number
    if schema < newest:
        raise StateRefused(
            f"the database has schema {schema}, older than this program's {newest}",
            hint="look with the older stoker, or start stokerd: it migrates first",
        )
    facts = meta(connection)
    return InspectedState(
        instance=facts["instance"],
        epoch=facts["epoch"],
        copied=facts.get("lock_mark", lock) != lock,
        foreign_epochs=facts.get("foreign_epochs", 0),
        hidden_epochs=facts.get("hidden_epochs", 0),
        boot_id=facts["boot_id"],
        earlier_epochs=facts.get("earlier_epochs", facts["epoch"]),
        runs=snapshot.open_runs(connection),
        running_without_attempt=jobs.running_without_attempt(connection),
    )
