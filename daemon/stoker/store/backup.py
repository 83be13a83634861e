"""Making a backup: SQLite's online backup into a new file, which gets its name once it is verified and durable.

The source is read in one snapshot and in steps, so commits go on; the WAL grows meanwhile by what they write. A step is
synced before the next one, because one long sync would hold up every commit on the same disk.
Invariants: a file under its final name is complete, durable and sound, and only its owner can read it; a backup that
fails or is given up leaves nothing behind, and an existing file is never replaced.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from stoker.core.clock import wall_ms
from stoker.core.errors import BackupFailed, CannotCreate, DiskFull
from stoker.core.units import volume
from stoker.files import free_bytes, make_regular, sync
from stoker.store import changes, secret_rows
from stoker.store.backup_files import (
    UNFINISHED,
    BackupFile,
    checksum_of,
    checksum_path,
    make_directory,
    path_in,
    remove,
    write_checksum,
)
from stoker.store.database import beside, open_immutable
from stoker.store.directory import StateDirectory, is_disk_full
from stoker.store.integrity import find_damage

STEP_PAGES = 256
# Nothing reads the copy before it is whole, so it needs no journal. Its pages say WAL, as those of the source do.
COPY_PRAGMAS = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
SIZE = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"

PathOf = Callable[[int, int], Path]
"""The path of a backup, for its time (UTC ms) and its last change."""
Progress = Callable[[int, int], None]
"""Called with the copied bytes and all bytes. If it raises, the backup is given up."""


def target(directory: StateDirectory, to: Path | None) -> PathOf:
    """Where a backup goes: to the file that a person named, or to the state directory. Raises CannotCreate."""
    if to is None:
        make_directory(directory.backups)
        return partial(path_in, directory.backups)
    if to.is_dir():
        raise CannotCreate(f"{to} is a directory", hint=f"name a file in it: --to {to / 'stoker-backup.db'}")
    refuse_existing(to)
    if to.parent.resolve().is_relative_to(directory.root.resolve()):
        raise CannotCreate(
            f"{to} is in the state directory {directory.root}", hint="name a file outside of it, or leave --to out"
        )
    path = to
    return lambda _at, _last_seq: path


def back_up(
    source: sqlite3.Connection,
    path_of: PathOf,
    progress: Progress = lambda _done, _of: None,
    keep_free: int = 0,
    damage: str | None = None,
) -> BackupFile:
    """Make a backup of the database of `source`, which is in no transaction. `keep_free`: bytes that stay free.

    `damage`: what is known to be wrong with the source, as `find_damage` says it; the copy then has the same.
    Raises CannotCreate, DiskFull or BackupFailed, and what `progress` raises.
    """
    at = wall_ms()
    with ExitStack() as snapshot:
        snapshot.enter_context(_snapshot(source))
        end = changes.last(source)
        path = path_of(at, end[0])
        _check_room(path, int(source.execute(SIZE).fetchone()[0]), keep_free)
        fresh = _make(path)
        with _removed_on_failure(fresh, path):
            _copy(source, fresh, progress)
            snapshot.close()
            return _finish(path, fresh, at, end, damage)


@contextmanager
def _snapshot(source: sqlite3.Connection) -> Iterator[None]:
    """A read transaction: without it a commit elsewhere restarts the copy (sqlite.org/c3ref/backup_finish.html)."""
    source.execute("BEGIN")
    try:
        yield
    finally:
        source.execute("COMMIT")


def refuse_existing(path: Path) -> None:
    """Raises CannotCreate if a backup cannot get this name because something has it."""
    for one in (path, checksum_path(path)):
        if os.path.lexists(one):
            raise CannotCreate(f"{one} exists already", hint="name another file: a backup replaces nothing")


def _check_room(path: Path, size: int, keep_free: int) -> None:
    try:
        free = free_bytes(path.parent)
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", hint="name a file in a directory that exists") from error
    if free - size < keep_free:
        kept = f", and {volume(keep_free)} are kept free" if keep_free else ""
        raise DiskFull(
            f"{path}: a backup takes {volume(size)}, only {volume(free)} are free{kept}",
            hint="free some space, or write it to another disk: stoker backup --to FILE",
        )


def _make(path: Path) -> Path:
    refuse_existing(path)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        os.close(make_regular(str(fresh)))
    except OSError as error:
        if is_disk_full(error):
            raise _failure(error, path) from error
        raise CannotCreate(f"{path}: {error.strerror}", hint="name a file that can be written there") from error
    return fresh


def _copy(source: sqlite3.Connection, fresh: Path, progress: Progress) -> None:
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with closing(sqlite3.connect(fresh, isolation_level=None)) as target:
            target.executescript(COPY_PRAGMAS)
            (page_size,) = source.execute("PRAGMA page_size").fetchone()

            def step(_status: int, left: int, total: int) -> None:
                os.fdatasync(descriptor)
                progress((total - left) * page_size, total * page_size)

            source.backup(target, pages=STEP_PAGES, progress=step)
        if secret_rows.exist(source):
            with closing(sqlite3.connect(fresh, isolation_level=None)) as copy:
                secret_rows.strip(copy)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finish(path: Path, fresh: Path, at: int, end: tuple[int, bytes], known_damage: str | None) -> BackupFile:
    """Verify the copy, and give it its checksum and its name."""
    size = fresh.stat().st_size
    damage = _damage(fresh, end)
    if damage != known_damage:
        raise BackupFailed(
            f"the copy of the database is not sound: {damage}",
            hint="look at the database and its disk: stoker audit verify; the copy was removed",
        )
    checksum = checksum_of(fresh)
    refuse_existing(path)
    try:
        write_checksum(path, checksum)
        fresh.rename(path)
        sync(path.parent)
    except BaseException:
        remove(path)
        raise
    return BackupFile(path, at, end[0], size)


def _damage(copy: Path, end: tuple[int, bytes]) -> str | None:
    """The damage of the copy. It is opened as immutable, so that SQLite makes no files beside it."""
    if any(one.exists() for one in beside(copy)):
        return "SQLite left files beside it"
    with open_immutable(copy) as connection:
        damage = find_damage(connection)
        ends = changes.last(connection) if damage is None else end
    return damage if ends == end else f"it ends at change {ends[0]}, the database at {end[0]}"


@contextmanager
def _removed_on_failure(fresh: Path, path: Path) -> Iterator[None]:
    """Remove the copy after any error; convert errors of SQLite and of the system to ours."""
    try:
        yield
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _failure(error, path) from error
        raise


def _failure(error: sqlite3.Error | OSError, path: Path) -> DiskFull | BackupFailed:
    if is_disk_full(error):
        return DiskFull(f"{path}: the disk became full", hint="free some space; nothing of the backup is left")
    return BackupFailed(f"{path}: {error}", hint="look at the disk, or write it to another one: --to FILE")
