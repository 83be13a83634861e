"""The files of backups: their names, their checksums, and the list of a directory.

A name has the time (UTC) and the last change: `20261129T090329.123Z-12345.db`. Beside it stands its checksum, as
`sha256sum` writes it: damage to a file is found before anything is read from it. A backup made before a migration has
`-before-NNNN` in its name and is never removed. Invariant: no function of this module opens a database.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from stoker.core.errors import BackupFailed, CannotCreate
from stoker.files import open_regular, read_regular, sync, write_new

if TYPE_CHECKING:
    from stoker.core.daemon_views import BackupView

NAME = re.compile(r"(\d{8}T\d{6})\.(\d{3})Z-(\d+)(?:-before-(\d{4}))?\.db")
TIME = "%Y%m%dT%H%M%S"
UNFINISHED = ".new"
CHECKSUM = re.compile(r"([0-9a-f]{64})  ")


class BackupFile(Struct, frozen=True):
    """A backup made at `at` (UTC ms); its last change is `last_seq`. `before`: the migration that it precedes."""

    path: Path
    at: int
    last_seq: int
    bytes: int
    before: int | None = None

    def view(self) -> BackupView:
        """As clients read it."""
        return {
            "path": str(self.path),
            "at": self.at,
            "seq": self.last_seq,
            "bytes": self.bytes,
            "before_migration": self.before,
        }


def path_in(directory: Path, at: int, last_seq: int, before: int | None = None) -> Path:
    """The path of a backup. `before`: the migration that it precedes."""
    reason = "" if before is None else f"-before-{before:04d}"
    return directory / f"{time_name(at)}-{last_seq}{reason}.db"


def time_name(at: int) -> str:
    """A time (UTC ms) as a part of a name that sorts by time."""
    return f"{datetime.fromtimestamp(at // 1_000, UTC).strftime(TIME)}.{at % 1_000:03d}Z"


def make_directory(directory: Path) -> None:
    """Make the directory of backups, durably, if it does not exist. Raises CannotCreate."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        sync(directory.parent)
    except OSError as error:
        raise CannotCreate(f"{directory}: {error.strerror}", hint=f"ls -ld {directory}") from error


def listed(directory: Path) -> list[BackupFile]:
    """The backups of a directory, newest first. Raises BackupFailed if it cannot be read."""
    backups = []
    try:
        for entry in os.scandir(directory):
            if (match := NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                time = datetime.strptime(match[1], TIME).replace(tzinfo=UTC)
                at = int(time.timestamp()) * 1_000 + int(match[2])
                before = None if match[4] is None else int(match[4])
                backups.append(BackupFile(Path(entry.path), at, int(match[3]), entry.stat().st_size, before))
    except FileNotFoundError:
        pass  # there is none yet, or one was just removed
    except OSError as error:
        raise BackupFailed(f"{directory}: {error.strerror}", hint=f"ls -ld {directory}") from error
    return sorted(backups, key=lambda backup: (backup.at, backup.last_seq), reverse=True)


def remove(backup: Path) -> None:
    """Remove the backup before its checksum: a backup without checksum would look damaged. Raises OSError."""
    backup.unlink(missing_ok=True)
    checksum_path(backup).unlink(missing_ok=True)


def remove_unfinished(directory: Path) -> None:
    """Remove the files of interrupted backups; call it while no other backup is being made. Raises OSError.

    A directory of such a name is not ours, and stays.
    """
    with suppress(FileNotFoundError):
        for path in list(directory.iterdir()):
            is_alone = path.suffix == ".sha256" and not path.with_suffix("").exists()
            if (path.suffix == UNFINISHED or is_alone) and (path.is_symlink() or not path.is_dir()):
                path.unlink(missing_ok=True)


# --- checksums ----------------------------------------------------------------------------------------------


def checksum_path(backup: Path) -> Path:
    return backup.with_name(backup.name + ".sha256")


def checksum_of(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksum(backup: Path, checksum: str) -> None:
    """Write the checksum; it is durable once the caller has synced the directory. Raises OSError."""
    write_new(checksum_path(backup), f"{checksum}  {backup.name}\n".encode("utf-8", "surrogateescape"))


def read_checksum(backup: Path) -> str | None:
    """The checksum beside a backup; None if there is none. Raises OSError; ValueError if it cannot be read."""
    try:
        text = read_regular(checksum_path(backup)).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    match = CHECKSUM.match(text)
    if match is None:
        raise ValueError(f"{checksum_path(backup)} holds no checksum")
    return match[1]
