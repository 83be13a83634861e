"""The inspection of a state directory without a daemon, which changes no byte of it.

It keeps daemons out, makes the checks that a daemon would make, and reads. Invariant: during an inspection no daemon
can start on the directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from stoker.core.errors import StateRefused
from stoker.core.job.model import Attempt, Job
from stoker.store import jobs, snapshot
from stoker.store.database import examine, open_unchanged
from stoker.store.directory import StateDirectory
from stoker.store.migrate import schema_of, shipped_migrations
from stoker.store.open import doubt
from stoker.store.queues import meta


class InspectedState(Struct, frozen=True):
    """The identity of the directory, and the attempts left open in it. `epoch` is that of the last start."""

    instance: str
    epoch: int
    copied: bool
    foreign_epochs: int
    hidden_epochs: int
    runs: list[tuple[Job, Attempt]]
    running_without_attempt: list[int]


@contextmanager
def inspecting(directory: StateDirectory) -> Iterator[InspectedState]:
    """Lock and read the directory. Raises AlreadyRunning, or StateRefused if no daemon could start on it."""
    directory.check(reading=True)
    lock = directory.share()
    try:
        yield _read(directory, lock)
    finally:
        directory.unlock()


def _read(directory: StateDirectory, lock: str) -> InspectedState:
    aside = directory.read_aside()
    if not examine(directory.database, directory.aside):
        raise StateRefused(f"{directory.database} does not exist yet", hint="start stokerd: it creates it")
    with open_unchanged(directory.database) as connection:
        doubt(connection, aside)
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
            runs=snapshot.open_runs(connection),
            running_without_attempt=jobs.running_without_attempt(connection),
        )
