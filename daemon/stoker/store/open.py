"""Opening the state directory, in the one order that loses nothing.

The order: lock, check the files, compare with `state.json` and the journal, open, migrate, begin a new epoch, read. A
directory of another program, or one that has lost commits, is refused and not changed.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from stoker.core.errors import DiskFull, JournalBroken, StateRefused
from stoker.core.units import instant
from stoker.store import changes, instance, outbox, snapshot
from stoker.store.database import (
    UNREADABLE,
    Database,
    examine,
    make_shrinkable,
    open_reader,
    open_unchanged,
    open_writer,
    refusal,
)
from stoker.store.directory import Aside, StateDirectory, storage_error
from stoker.store.high_water import HighWater, Mark
from stoker.store.instance import Instance
from stoker.store.journal import Journal
from stoker.store.journal_feed import JournalFeed
from stoker.store.journal_files import End, find_end
from stoker.store.migrate import migrate, refuse_unknown, schema_of
from stoker.store.queues import meta
from stoker.store.reader import Queries, Reader
from stoker.store.reserve import Reserve
from stoker.store.secret_box import SecretBox, open_box
from stoker.store.snapshot import Snapshot
from stoker.store.writer import Writer


class Opened(Struct, frozen=True):
    """An open state directory. `reader` is for the daemon itself, `queries` for the requests of clients."""

    writer: Writer
    reader: Reader
    queries: Queries
    instance: Instance
    schema: int
    snapshot: Snapshot
    box: SecretBox
    feed: JournalFeed | None = None


Begin = Callable[[sqlite3.Connection], instance.Instance]


async def open_state(
    directory: StateDirectory, boot_id: str, pid_namespace: int, reserve_bytes: int, *, journaled: bool = False
) -> Opened:
    """Open `directory`, taking its lock. Raises StateRefused, StorageFailed, DiskFull, AlreadyRunning, CannotCreate."""
    directory.prepare()
    lock = directory.lock()
    aside = directory.read_aside()
    end: End | None = None
    if examine(directory.database, directory.aside):
        with open_unchanged(directory.database) as connection:
            doubt(connection, aside)
            end = doubt_journal(connection, directory.journal)
    begin = partial(instance.begin, lock=lock, boot_id=boot_id, pid_namespace=pid_namespace)
    os.umask(0o077)
    directory.make_room()
    try:
        return await _open(directory, begin, reserve_bytes, end, journaled=journaled)
    except DiskFull:
        if not directory.reserve.exists():
            raise
        directory.reserve.unlink()
        return await _open(directory, begin, reserve_bytes, end, journaled=journaled)


async def _open(
    directory: StateDirectory, begin: Begin, reserve_bytes: int, end: End | None, *, journaled: bool
) -> Opened:
    try:
        database = await open_writer(directory.database)
    except sqlite3.Error as error:
        raise refusal(error, directory.database, "stoker doctor says what is damaged; nothing was changed") from error
    try:
        schema = await database.run(migrate, directory.backups)
        await database.run(make_shrinkable, directory.database)
        armed = await database.run(outbox.arm if journaled else outbox.disarm)
        life = await database.run(begin)
        state = await database.run(snapshot.read)
        high_water = _high_water(directory, life, state)
        _sync(directory)
        feed = JournalFeed(Journal(directory.journal, life.id, schema, armed=armed, end=end)) if journaled else None
        box = _box(directory)
        writer = await _writer(directory, database, state, reserve_bytes, high_water, feed, box)
        reader = Reader(await open_reader(directory.database))
        queries = Queries(await open_reader(directory.database), await open_reader(directory.database))
    except UNREADABLE as error:
        await database.close()
        raise refusal(error, directory.database, "stoker doctor says what is damaged; it was not repaired") from error
    except BaseException:
        await database.close()
        raise
    return Opened(writer, reader, queries, life, schema, state, box, feed)


def _box(directory: StateDirectory) -> SecretBox:
    try:
        return open_box(directory.root, directory.credentials)
    except OSError as error:
        raise storage_error(directory.root, error) from error


def _sync(directory: StateDirectory) -> None:
    """Make the name of the WAL durable before the first commit is promised."""
    try:
        directory.make_places()
        directory.sync()
    except OSError as error:
        raise storage_error(directory.root, error) from error


def _high_water(directory: StateDirectory, life: Instance, state: Snapshot) -> HighWater:
    """Raise the mark to cover the new epoch, before a launcher is started under it."""
    high_water = HighWater(directory.high_water)
    high_water.read()
    try:
        # A block of further ids is covered as well, so that the first commits need no descriptor to raise the mark.
        high_water.cover(Mark(life.epoch, state.last_id + 1, state.last_workflow + 1, state.last_checkpoint + 1))
    except OSError as error:
        raise storage_error(directory.high_water, error) from error
    return high_water


async def _writer(
    directory: StateDirectory,
    database: Database,
    state: Snapshot,
    reserve_bytes: int,
    high_water: HighWater,
    feed: JournalFeed | None,
    box: SecretBox,
) -> Writer:
    writer = Writer(database, state.head, Reserve(directory.reserve, reserve_bytes), high_water, feed, box)
    try:
        writer.keep_reserve()
    except OSError as error:
        failed = storage_error(directory.reserve, error)
        if not isinstance(failed, DiskFull):
            raise failed from error
        writer.full = True  # housekeeping sees it, refuses submits, and tries again
    await writer.checkpoint()  # else the WAL would grow from crash to crash
    return writer


@contextmanager
def open_existing(directory: StateDirectory) -> Iterator[sqlite3.Connection]:
    """The database of a daemon that does not run, after the checks of a start; no byte is changed.

    The caller keeps daemons out (`StateDirectory.shared`). Raises StateRefused.
    """
    aside = directory.read_aside()
    if not examine(directory.database, directory.aside):
        raise StateRefused(f"{directory.database} does not exist yet", hint="start stokerd: it creates it")
    with open_unchanged(directory.database) as connection:
        doubt(connection, aside)
        yield connection


def doubt(connection: sqlite3.Connection, aside: Aside | None) -> None:
    """Raises StateRefused if the database is not for this daemon, or does not match `state.json`."""
    refuse_unknown(connection)
    if aside is None:
        return
    ids = instance.ids(connection)
    if aside.instance not in ids:
        raise _replaced(f"it is of instance {', '.join(sorted(ids))}, but state.json is of instance {aside.instance}")
    schema = schema_of(connection)
    if schema < aside.schema:
        raise _replaced(f"it has schema {schema}, but state.json says that it reached {aside.schema}")
    last_seq, _ = changes.last(connection)
    if last_seq < aside.last_seq:
        raise _replaced(f"it ends at change {last_seq}, but state.json says that it reached {aside.last_seq}")


def doubt_journal(connection: sqlite3.Connection, journal: Path) -> End | None:
    """Raises StateRefused if the journal has commits that the database lacks: it is written after them.

    Returns the end of the journal if it could be read: a last file of 16 MiB is read once at a start. A damaged journal
    raises no error here; it is set aside when it is resumed. The journal is read before the database, as a daemon may
    run.
    """
    try:
        end = find_end(journal)
    except (OSError, JournalBroken):
        return None
    if end is None or end.header.instance not in instance.ids(connection):
        return end
    stored = meta(connection)
    if end.header.chain == stored.get(outbox.LEFT_CHAIN):
        return end
    seq = changes.last(connection)[0]
    of_this_chain = end.header.chain == stored.get(outbox.CHAIN)
    lacks_rows = of_this_chain and outbox.entry_range(connection)[1] < end.position.last
    if seq < end.position.seq or lacks_rows:
        lack = "it lacks rows of its last change" if seq >= end.position.seq else f"it ends at change {seq}"
        raise _replaced(
            f"{lack}, but the journal goes on up to change {end.position.seq}, {instant(end.at)}",
            hint="stoker restore --from-journal; "
            f"to accept the loss: {shlex.join(['mv', str(journal), f'{journal}.old'])}",
        )
    return end


def _replaced(
    why: str, hint: str = "put the right database back; to accept the loss, move state.json away"
) -> StateRefused:
    return StateRefused(f"the database has lost commits, is an old copy, or belongs to another state: {why}", hint=hint)
