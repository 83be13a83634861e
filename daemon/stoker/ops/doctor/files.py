"""The checks of the files beside the database: logs, backups, remains of interrupted commands, permissions.

A log or a job may come and go while a daemon runs. So directories are listed before the rows are read, and a file
without an owner is checked once more.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from stoker.core.clock import wall_ms
from stoker.core.errors import StokerError
from stoker.core.units import counted, period, span, volume
from stoker.ops import archive
from stoker.ops.doctor.examination import REPAIR, Check, E, Examination, Gravity, N, Needs, Symptom, W
from stoker.process.attempt_logs import log_name, log_path
from stoker.store import attempts, log_owners, retention
from stoker.store.backup_files import UNFINISHED, checksum_of, listed, read_checksum
from stoker.store.directory import StateDirectory

BEFORE = ("before-restore-", "before-repair-")
LATE_BACKUPS = 3  # periods without a backup
DAY_MS = 86_400_000
NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")  # of a job, or of a thousand of them

Found = Iterator[Symptom | str]


def has_private_directory(examination: Examination) -> Found:
    try:
        examination.directory.check(reading=True)
    except StokerError as error:
        yield Symptom(error.message, error.hint)


def has_owners_of_logs(examination: Examination) -> Found:
    for path in orphaned_logs(examination):
        yield f"{path}: there is no job of that number"


def orphaned_logs(examination: Examination) -> list[Path]:
    """The log directories of jobs that do not exist and are not listed for removal."""
    folders = _log_directories(examination.directory.logs)
    without = log_owners.without_job(examination.connection, folders)
    return [folders[job_id] for job_id in without if folders[job_id].exists()]


def _log_directories(logs: Path) -> dict[int, Path]:
    buckets = (logs / name for name in _numbers_in(logs))
    return {int(name): bucket / name for bucket in buckets for name in _numbers_in(bucket)}


def _numbers_in(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if NUMBER.fullmatch(name)]  # noqa: PTH208 - only names are needed
    except (FileNotFoundError, NotADirectoryError):
        return []


def has_no_log_of_next_attempt(examination: Examination) -> Found:
    """The launcher refuses to write to a log that exists."""
    for job_id, count in list(log_owners.not_started(examination.connection)):
        path = log_path(examination.directory.root, job_id, count + 1)
        if os.path.lexists(path) and log_owners.attempts_of(examination.connection, job_id) == count:
            yield Symptom(
                f"job {job_id}: the log of its next attempt exists already: {path}",
                f"look at it, then move it away: {shlex.join(['mv', str(path), f'{path}.old'])}",
            )


def has_logs_of_attempts(examination: Examination) -> Found:
    """Paths are texts here: to make a Path for each of a hundred thousand logs takes half of the time."""
    after, root = (0, 0), str(examination.directory.root)
    while rows := log_owners.with_log(examination.connection, after):
        logs = {row.run_id: f"{root}/{log_name(row.job_id, row.ordinal)}" for row in rows}
        lost = {run_id: path for run_id, path in logs.items() if not _exists(path)}
        for run_id in sorted(attempts.existing(examination.connection, lost)):
            yield f"run {run_id}: its log is lost: {lost[run_id]}"
        after = (rows[-1].job_id, rows[-1].ordinal)


def _exists(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - see above
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def has_owners_of_archives(examination: Examination) -> Found:
    archives = archive.listed(examination.directory.root)
    for one in archives:
        if one.path.suffix == ".new":
            yield f"{one.path} was not completed"


def has_sound_newest_backup(examination: Examination) -> Found:
    backups = listed(examination.directory.backups)
    if not backups:
        yield Symptom("there is no backup yet", "stoker backup", Gravity.NOTE)
        return
    newest = backups[0]
    try:
        expected = read_checksum(newest.path)
    except ValueError as error:
        yield str(error)
        return
    if expected is None:
        yield Symptom(f"{newest.path} has no checksum beside it", "stoker backup", Gravity.WARNING)
    elif checksum_of(newest.path) != expected:
        yield f"{newest.path} does not match its checksum: it is damaged"


def has_recent_backup(examination: Examination) -> Found:
    every_ms = period(examination.settings.backup.every)
    backups = listed(examination.directory.backups)
    if every_ms is None or not backups:
        return
    age_ms = wall_ms() - backups[0].at
    if age_ms > max(LATE_BACKUPS * every_ms, DAY_MS):
        yield f"the newest backup is {span(age_ms)} old, [backup] every is {examination.settings.backup.every}"


def has_nothing_set_aside(examination: Examination) -> Found:
    for path in sorted(examination.directory.root.iterdir()):
        if path.name.startswith(BEFORE):
            size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
            message = f"{path.name} has what a restore or a repair replaced ({volume(size)})"
            yield Symptom(message, f"when it is not needed any more: rm -r {path}")


def has_nothing_unfinished(examination: Examination) -> Found:
    directory = examination.directory
    for path in unfinished(directory):
        yield f"{path} was left by a command that was interrupted"


def unfinished(directory: StateDirectory) -> list[Path]:
    """The remains of interrupted backups and restores; call it while no daemon runs."""
    backups = directory.backups.iterdir() if directory.backups.is_dir() else ()
    return [*(path for path in backups if path.suffix == UNFINISHED), *directory.root.glob("stoker.db.restored*")]


def has_settled_outcomes(examination: Examination) -> Found:
    folder = examination.directory.outcomes
    logs = [path for path in folder.glob("*.log") if path.lstat().st_size] if folder.is_dir() else []
    if logs:
        message = f"{counted(len(logs), 'launcher')} recorded ends of jobs that no daemon has read yet"
        yield Symptom(message, "start stokerd: it settles them; stoker recover --dry-run shows how")


def has_nothing_left_to_remove(examination: Examination) -> Found:
    """Rows of purged jobs go first, their logs afterwards."""
    left = retention.listed_logs(examination.connection, 0, 1_000_000)
    if left and examination.daemon is None:
        yield f"the logs of {counted(len(left), 'purged job')} are still to be removed"


CHECKS = (
    Check("files", "directory", "the state directory is open to its owner only", E, "chmod 700 DIR",
          has_private_directory, Needs.FILES),
    Check("files", "logs without job", "each directory of logs belongs to a job", W, REPAIR,
          has_owners_of_logs),
    Check("files", "logs in the way", "the next attempt of each job can write its log", W, "move it away",
          has_no_log_of_next_attempt),
    Check("files", "lost logs", "the log of each attempt that printed is there", W,
          "only a copy of your own can restore it", has_logs_of_attempts),
    Check("files", "archives", "archives of failed workflows are complete", N, "rm FILE; stokerd removes it later",
          has_owners_of_archives, Needs.FILES, still=True),
    Check("files", "outcomes", "every recorded end was settled", N, "start stokerd",
          has_settled_outcomes, Needs.FILES, still=True),
    Check("files", "purged logs", "the logs of purged jobs are removed", N, "start stokerd: it removes them",
          has_nothing_left_to_remove),
    Check("files", "unfinished files", "no interrupted command left a file", N, REPAIR,
          has_nothing_unfinished, Needs.FILES, still=True),
    Check("files", "set aside", "no replaced files of a restore or repair are left", N, "rm -r DIR",
          has_nothing_set_aside, Needs.FILES),
    Check("files", "newest backup", "the newest backup matches its checksum", E,
          "stoker backup, then remove the damaged one", has_sound_newest_backup, Needs.FILES),
    Check("files", "backups", "backups are made as often as they should be", W, "stoker status says why; stoker backup",
          has_recent_backup, Needs.FILES),
)  # fmt: skip
