"""`stoker restore`: replaces the database of a stopped daemon by a backup, or by a rebuild from the journal.

Owns the order: lock, copy or rebuild, verify the result, raise its ids, set the old files aside, rename it. Until the
last rename a start is refused or finds the old state; afterwards it finds the new one. Invariants: nothing is changed
unless the result is sound and of this instance; the old files are moved, never deleted; new ids and epochs are higher
than any that the state may have given out.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import wall_ms
from stoker.core.errors import BackupRefused, DiskFull, JournalBroken, StateRefused, StokerError, StorageFailed
from stoker.files import NotRegular, make_regular, open_regular, sync
from stoker.ops import rebuild
from stoker.ops.rebuild import Rebuilt, Until, silent
from stoker.store import audit, changes, instance, restore
from stoker.store.backup_files import read_checksum, time_name
from stoker.store.database import APPLICATION_ID, HEADER, UNREADABLE, beside, open_immutable, open_unchanged
from stoker.store.directory import Aside, StateDirectory, is_disk_full, storage_error
from stoker.store.high_water import HighWater, Mark
from stoker.store.integrity import find_damage
from stoker.store.journal_chains import newest_chain
from stoker.store.migrate import refuse_unknown, schema_of
from stoker.store.restore import JobNumbers, Restored

if TYPE_CHECKING:
    from stoker.core.daemon_views import RestoreView

CHUNK_BYTES = 1024 * 1024
Progress = Callable[[str, int, int], None]
"""The part of the work, and how many bytes of how many are done (0 of 0: not known)."""
MARGIN = 1_000  # above ids that are only known from files: somewhat higher ones may have been answered


class Candidate(Struct, frozen=True):
    """A file that was verified: it can take the place of the database."""

    ids: set[str]
    instance: str
    schema: int
    last_seq: int
    given_out: Mark
    numbers: JobNumbers
    open_jobs: list[tuple[int, int]]
    remarks: list[str] = []


class Present(Struct, frozen=True):
    """The facts about the state that a restore replaces. `last_seq`: its newest known change, if any."""

    ids: set[str]
    given_out: Mark
    last_seq: int | None


def preview(root: str, backup: str | None, until: Until | None = None, progress: Progress = silent) -> RestoreView:
    """The restore that would be made. Raises BackupRefused, JournalBroken, AlreadyRunning, StateRefused."""
    directory = StateDirectory(Path(root))
    with _held(directory, taking=False), tempfile.TemporaryDirectory(prefix="stoker-") as folder:
        source = _find(directory, backup)
        with _failures(source):
            if source != directory.journal and until is None:
                progress("verifying", 0, 0)
                candidate = _examine(source, source, _checksum(source))
            else:
                candidate = _build(directory, source, until, Path(folder) / "stoker.db", progress)
        present = _present(directory)
        _refuse_foreign(source, candidate, present)
        return _view(directory, source, candidate, present, None)


def carry_out(root: str, backup: str | None, until: Until | None = None, progress: Progress = silent) -> RestoreView:
    """Restore a backup, or with None what the journal has; `until` goes on behind a backup.

    Raises BackupRefused, JournalBroken, AlreadyRunning, StateRefused, CannotCreate, DiskFull or StorageFailed.
    """
    directory = StateDirectory(Path(root))
    directory.prepare()
    with _held(directory, taking=True):
        source = _find(directory, backup)
        present = _present(directory)
        fresh = directory.root / "stoker.db.restored"
        _remove(fresh)
        try:
            with _failures(fresh):
                candidate = _build(directory, source, until, fresh, progress)
                _refuse_foreign(source, candidate, present)
                left = newest_chain(directory.journal)
                above = _above(directory, present.given_out.joined(candidate.given_out))
                restore.prepare(fresh, above, Restored(wall_ms(), str(source), candidate.last_seq), left)
                sync(fresh)
                old = _swap(directory, fresh, candidate, above)
        finally:
            _remove(fresh)
        return _view(directory, source, candidate, present, old)


def _remove(fresh: Path) -> None:
    """Remove the file, and those of SQLite beside it, which would be applied to a new file of that name."""
    for left in (fresh, *beside(fresh), _index(fresh)):
        left.unlink(missing_ok=True)


def _index(database: Path) -> Path:
    """The index of its WAL."""
    return database.with_name(database.name + "-shm")


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    """The errors of SQLite and of the system become ours."""
    try:
        yield
    except sqlite3.Error as error:
        if is_disk_full(error):
            raise DiskFull(f"{path}: {error}", hint="free some space; the state is as it was") from error
        raise StorageFailed(f"{path}: {error}", hint="look at the disk; the state is as it was") from error
    except OSError as error:
        raise storage_error(error.filename or path, error) from error


def _build(directory: StateDirectory, source: Path, until: Until | None, fresh: Path, progress: Progress) -> Candidate:
    """Make `fresh` from a backup or from the journal, and verify it. Raises BackupRefused or JournalBroken."""
    replayed = partial(progress, "replayed")
    if source == directory.journal:
        return _rebuilt(fresh, source, rebuild.from_journal(source, fresh, until or Until(), replayed), progress)
    checksum = _copy(source, fresh, partial(progress, "copied"))
    progress("verifying", 0, 0)
    candidate = _examine(fresh, source, checksum)
    if until is None:
        return candidate
    return _rebuilt(fresh, source, rebuild.behind_backup(directory.journal, fresh, until, replayed), progress)


def _rebuilt(fresh: Path, source: Path, rebuilt: Rebuilt, progress: Progress) -> Candidate:
    def refused(why: object) -> JournalBroken:
        return JournalBroken(f"the rebuild from {source} is damaged: {why}", hint="stoker restore --from-backup latest")

    def damage() -> str | None:
        with open_immutable(fresh) as connection:
            return find_damage(connection) or audit.verify(connection).broken

    progress("verifying", 0, 0)
    try:
        remarks, found = rebuilt.remarks, damage()
        if found is not None and (put_back := rebuild.put_back_specs(fresh)):
            remarks, found = [*remarks, *put_back], damage()
        if found is not None:
            raise refused(found)
        with open_immutable(fresh) as connection:
            candidate = _candidate(connection)
    except (msgspec.MsgspecError, KeyError) as error:
        raise refused(error) from error
    return replace(candidate, given_out=candidate.given_out.joined(rebuilt.given_out), remarks=remarks)


@contextmanager
def _held(directory: StateDirectory, *, taking: bool) -> Iterator[None]:
    """Keep daemons out. A directory that no daemon has used has no lock file; a preview does not make one."""
    if taking:
        directory.lock()
    elif (directory.root / "lock").exists():
        directory.check()
        directory.share()
    try:
        yield
    finally:
        directory.unlock()


# --- the backup ---------------------------------------------------------------------------------------------


def _find(directory: StateDirectory, source: str | None) -> Path:
    """The file of a backup, or the directory of the journal. Raises BackupRefused if it cannot be a backup."""
    if source is None:
        return directory.journal
    path = restore.named(directory.backups, source)
    if path.is_dir():
        raise BackupRefused(f"{path} is a directory", hint=f"name a file in it: ls -l {shlex.quote(str(path))}")
    present = [one for one in beside(path) if one.exists()]
    if present or (directory.database.exists() and path.exists() and path.samefile(directory.database)):
        why = f"has {present[0]} beside it: it is" if present else "is"
        raise BackupRefused(f"{path} {why} the database of a state, not a backup", hint="make one: stoker backup")
    return path


def _checksum(backup: Path) -> str:
    try:
        with os.fdopen(open_regular(backup), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(backup, error) from error


def _copy(backup: Path, fresh: Path, progress: rebuild.Progress) -> str:
    """Copy a backup, durably; gives the checksum of what was copied."""
    checksum = hashlib.sha256()
    try:
        source = os.fdopen(open_regular(backup), "rb")
    except OSError as error:
        raise _unreadable(backup, error) from error
    done, of = 0, os.fstat(source.fileno()).st_size
    with source, os.fdopen(make_regular(str(fresh)), "wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            checksum.update(chunk)
            target.write(chunk)
            done += len(chunk)
            progress(done, of)
        target.flush()
        os.fsync(target.fileno())
    return checksum.hexdigest()


def _unreadable(backup: Path, error: OSError) -> BackupRefused:
    why = "is not a regular file" if isinstance(error, NotRegular) else f"cannot be read: {error.strerror}"
    return BackupRefused(f"{backup} {why}", hint=f"ls -l {shlex.quote(str(backup))}; stoker backup ls")


def _examine(path: Path, backup: Path, checksum: str) -> Candidate:
    """Verify `path`, which has the content of `backup`. Raises BackupRefused with the evidence."""

    def refused(why: str) -> BackupRefused:
        return BackupRefused(f"{backup} is not a sound backup: {why}", hint="take another one: stoker backup ls")

    try:
        expected = read_checksum(backup)
    except (OSError, ValueError) as error:
        raise refused(str(error)) from error
    if expected is not None and expected != checksum:
        raise refused(f"its SHA-256 is {checksum}, but {backup.name}.sha256 says {expected}")
    with path.open("rb") as file:
        header = file.read(72)
    if not header.startswith(HEADER) or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise refused("it is not a database of Stoker")
    try:
        with open_immutable(path) as connection:
            refuse_unknown(connection)
            # Its checksum is right, so it has the bytes that were verified when it was made.
            damage = None if expected is not None else find_damage(connection)
            damage = damage or audit.verify(connection).broken
            if damage is not None:
                raise refused(damage)
            return _candidate(connection)
    except StateRefused as error:
        hint = "restore it with the release of stoker that wrote it, or take another one: stoker backup ls"
        raise BackupRefused(f"{backup}: {error.message}", hint=hint) from error
    except (sqlite3.Error, msgspec.MsgspecError, KeyError) as error:
        raise refused(str(error)) from error


def _candidate(connection: sqlite3.Connection) -> Candidate:
    ids = instance.ids(connection)
    return Candidate(
        ids=ids,
        instance=instance.own_id(connection),
        schema=schema_of(connection),
        last_seq=changes.last(connection)[0],
        given_out=restore.given_out(connection),
        numbers=restore.numbers(connection),
        open_jobs=restore.open_jobs(connection),
    )


def _refuse_foreign(backup: Path, candidate: Candidate, present: Present) -> None:
    if present.ids and not present.ids & candidate.ids:
        raise BackupRefused(
            f"{backup} is of instance {candidate.instance}, this state is of {', '.join(sorted(present.ids))}",
            hint="restore it into a directory of its own: --state-dir DIR",
        )


# --- the state that it replaces -----------------------------------------------------------------------------


def _present(directory: StateDirectory) -> Present:
    """The facts that can still be read. A lost, empty or damaged database gives no facts."""
    ids, given_out, last_seq = set[str](), Mark(), None
    with suppress(StateRefused):
        if (aside := directory.read_aside()) is not None:
            ids, last_seq = {aside.instance}, aside.last_seq
    with suppress(StokerError, OSError, *UNREADABLE):
        if directory.database.stat().st_size:
            with open_unchanged(directory.database) as connection:
                ids |= instance.ids(connection)
                given_out = restore.given_out(connection)
                last_seq = max(last_seq or 0, changes.last(connection)[0])
    return Present(ids, given_out, last_seq)


def _above(directory: StateDirectory, given_out: Mark) -> Mark:
    """The highest ids that this state may have given out: of the mark, the databases, and files of jobs and launchers.

    The whole journal is read only if the mark is lost.
    """
    mark = HighWater(directory.high_water).read()
    traces = Mark(_last_epoch(directory), _last_logged(directory.logs))
    seen = given_out.joined(traces)
    if mark == Mark():
        seen = seen.joined(rebuild.given_out(directory.journal))
        return Mark(seen.epoch, *(last + MARGIN for last in (seen.jobs, seen.workflows, seen.checkpoints)))
    return mark.joined(seen)


def _last_epoch(directory: StateDirectory) -> int:
    names = [name for place in ("launchers", "outcomes") for name in _names(directory.root / place)]
    return max((int(epoch) for name in names if (epoch := name.partition("-")[0]).isdecimal()), default=0)


def _last_logged(logs: Path) -> int:
    """The highest job that has a directory of logs."""
    buckets = sorted((int(name) for name in _names(logs) if name.isdecimal()), reverse=True)
    for bucket in buckets:
        ids = [int(name) for name in _names(logs / str(bucket)) if name.isdecimal()]
        if ids:
            return max(ids)
    return 0


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(folder)  # noqa: PTH208 - only names are needed
    return []


# --- the swap -----------------------------------------------------------------------------------------------


def _swap(directory: StateDirectory, fresh: Path, candidate: Candidate, above: Mark) -> Path:
    """Put the copy in the place of the database; gives the directory that has the old files.

    They are linked there before they are removed here, so a crash never separates the database from its WAL.
    `state.json` is replaced next: from then on a start without a database is refused, and the old database is still
    accepted, as it contains more than the new note demands. The old WAL is removed before the copy is renamed, because
    SQLite would apply it to the copy.
    """
    files = [directory.database, *beside(directory.database), _index(directory.database)]
    old = directory.root / f"before-restore-{time_name(wall_ms())}"
    old.mkdir(mode=0o700)
    HighWater(directory.high_water).cover(above)
    for path in (directory.aside, *files):
        with suppress(FileNotFoundError):
            os.link(path, old / path.name)
    sync(old)
    directory.sync()
    directory.write_aside(Aside(candidate.instance, candidate.schema, candidate.last_seq))
    for path in files:
        path.unlink(missing_ok=True)
    directory.sync()
    fresh.rename(directory.database)
    directory.sync()
    _set_logs_aside(directory.logs, old / "logs", candidate.open_jobs)
    return old


def _set_logs_aside(logs: Path, to: Path, open_jobs: list[tuple[int, int]]) -> None:
    """Move logs of attempts that the restored state lacks: a launcher refuses to write to an existing log."""
    for job_id, attempts in open_jobs:
        folder = logs / str(job_id // 1_000) / str(job_id)
        for name in _names(folder):
            ordinal = name.removesuffix(".log")
            if ordinal.isdecimal() and int(ordinal) > attempts:
                target = to / str(job_id)
                target.mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / name).rename(target / name)


def _view(
    directory: StateDirectory, backup: Path, candidate: Candidate, present: Present, old: Path | None
) -> RestoreView:
    lost = None if present.last_seq is None else max(0, present.last_seq - candidate.last_seq)
    return {
        "state_dir": str(directory.root),
        "backup": str(backup),
        "instance": candidate.instance,
        "schema": candidate.schema,
        "seq": candidate.last_seq,
        "lost_changes": lost,
        "jobs": candidate.numbers.all,
        "held": candidate.numbers.unsafe,
        "queued_again": candidate.numbers.safe,
        "running": candidate.numbers.running,
        "remarks": candidate.remarks,
        "old_state": None if old is None else str(old),
    }
