"""The checks of what the daemon needs around its state: settings, disk, SQLite, units, lock, socket.

Owns the list of bugs of SQLite that can damage a database. Refuses to connect to the socket: systemd would start the
daemon.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from stoker import config
from stoker.core.errors import ConfigInvalid
from stoker.core.hooks import unmatched
from stoker.core.raw_bytes import native, printable
from stoker.core.units import counted, volume
from stoker.files import read_regular
from stoker.foreign import fault_of
from stoker.host.programs import ProblemKind, problem
from stoker.ops.doctor.examination import Check, E, Examination, Gravity, N, Needs, Symptom, W
from stoker.store.hooks import known_names

Found = Iterator[Symptom | str]

NEARLY_FULL = 4  # times the space below which submits are refused
FEW_INODES = 10_000
INODES_PER_CENT = 1
LARGE_WAL_BYTES = 256 * 1024 * 1024  # the daemon begins it anew at some megabytes
UNITS = ("stoker.service", "stoker.socket", "stoker-web.service", "stoker-launcher.service")
OTHERS = stat.S_IWGRP | stat.S_IWOTH

Version = tuple[int, ...]


class KnownBug(NamedTuple):
    """A bug of SQLite, with the versions that have it. `fixed`: older versions that got the fix."""

    since: Version
    before: Version
    what: str
    source: str
    fixed: Sequence[Version] = ()

    def is_in(self, version: Version) -> bool:
        if any(version[:2] == one[:2] and version >= one for one in self.fixed):
            return False
        return self.since <= version < self.before


# Only bugs that can damage a database, in versions that have STRICT tables (3.37).
KNOWN_BUGS = (
    KnownBug(
        (3, 7, 0),
        (3, 51, 3),
        "two connections that write or checkpoint at once can damage a WAL. Stoker has one: let no other program write",
        "sqlite.org/wal.html#walresetbug",
        fixed=((3, 44, 6), (3, 50, 7)),
    ),
    KnownBug(
        (3, 35, 0),
        (3, 37, 2),
        "a savepoint that is rolled back with temp_store=MEMORY can damage a database. Stoker uses neither",
        "sqlite.org/releaselog/3_37_2.html",
    ),
)


def has_valid_settings(examination: Examination) -> Found:
    try:
        config.check(examination.host.config, examination.host.environ)
    except ConfigInvalid as error:
        mistakes = [str(one) for one in error.details.get("errors", ())] or [error.message]
        file = config.find(examination.host.config, examination.host.environ)
        for mistake in mistakes:
            yield Symptom(f"{file or 'environment'}: {mistake}", error.hint)


def has_programs_of_hooks(examination: Examination) -> Found:
    settings, environ = examination.settings, examination.host.environ
    path = settings.daemon.path or environ.get("PATH", os.defpath)
    for hook in settings.hooks.values():
        error = problem(native(hook.command), native(hook.working_dir), native(hook.env.get("PATH", path)))
        if error is not None:
            where = " of this command; the daemon may have another" if error.kind is ProblemKind.NOT_IN_PATH else ""
            yield f"[hooks.{hook.name}] {printable(error.message)}{where}"


def has_subjects_of_hooks(examination: Examination) -> Found:
    """Queues and schedules of the settings file count too: the daemon stores them at its next start or reload."""
    settings = examination.settings
    wanted = {hook.workflow for hook in settings.hooks.values() if hook.workflow is not None}
    names = known_names(examination.connection, wanted)
    declared = {schedule.flow.get("name") for schedule in settings.schedules.values() if schedule.flow is not None}
    for hook in settings.hooks.values():
        why = unmatched(hook, names.queues | settings.queues.keys(), names.workflows | (wanted & declared))
        if why is not None:
            yield f"[hooks.{hook.name}] {why}: it has no job until there is one"


def has_room(examination: Examination) -> Found:
    disk = os.statvfs(examination.directory.root)
    free, least = disk.f_bavail * disk.f_frsize, examination.settings.disk.min_free_bytes
    message = f"{volume(free)} are free on the disk of {examination.directory.root}"
    if free < least:
        yield f"{message}: submits are refused below {volume(least)} ([disk] min_free_bytes)"
    elif free < NEARLY_FULL * least:
        yield Symptom(f"{message}; below {volume(least)} submits are refused", severity=Gravity.WARNING)


def has_inodes(examination: Examination) -> Found:
    disk = os.statvfs(examination.directory.root)
    # Some file systems make inodes as they need them, and report none.
    if disk.f_files and disk.f_favail < min(FEW_INODES, disk.f_files * INODES_PER_CENT // 100):
        yield f"{disk.f_favail} files can still be made on the disk of {examination.directory.root}"


def has_small_wal(examination: Examination) -> Found:
    wal = examination.directory.database.with_name("stoker.db-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > LARGE_WAL_BYTES:
        yield Symptom(
            f"{wal} has {volume(size)}: a program reads the database for a long time, or the daemon cannot copy it",
            f"fuser -v {examination.directory.database}; a restart of stokerd copies it",
        )


def has_good_sqlite(_: Examination) -> Found:
    for bug in KNOWN_BUGS:
        if bug.is_in(sqlite3.sqlite_version_info):
            version = ".".join(map(str, bug.before))
            yield f"SQLite {sqlite3.sqlite_version}: {bug.what} ({bug.source}; fixed in {version})"


def has_shipped_units(examination: Examination) -> Found:
    for name in UNITS:
        shipped = resources.files("stoker.systemd") / name
        installed = next((path for place in examination.host.units if (path := Path(place) / name).is_file()), None)
        if installed is None:
            continue
        for message in _differences(_lines(shipped.read_text()), _lines(installed.read_text(errors="replace"))):
            remedy = f"put changes in a drop-in (systemctl edit {name}), then: install -m 644 {shipped} {installed}"
            yield Symptom(f"{installed} {message}", f"{remedy}; systemctl daemon-reload")


def _lines(unit: str) -> list[str]:
    """The settings of a unit, each with its section, without comments."""
    section, settings = "", []
    for line in map(str.strip, unit.split("\n")):
        if line.startswith("["):
            section = line
        elif line and not line.startswith(("#", ";")):
            settings.append(f"{section} {line}")
    return settings


def _differences(shipped: list[str], installed: list[str]) -> Iterator[str]:
    yield from (f"lacks {line}" for line in shipped if line not in installed)
    yield from (f"has {line}" for line in installed if line not in shipped)


def has_private_socket(examination: Examination) -> Found:
    """Check the directory that the daemon makes itself; a socket of another path may be anywhere."""
    socket = examination.host.socket
    if not os.path.lexists(socket):
        return
    status, folder = socket.lstat(), socket.parent.stat()
    if not stat.S_ISSOCK(status.st_mode):
        yield Symptom(f"{socket} is not a socket", f"ls -l {shlex.quote(str(socket))}; move it away")
        return
    if status.st_mode & stat.S_IWOTH and not examination.settings.access.shared:
        yield Symptom(
            f"every user can connect to {socket} (mode {status.st_mode & 0o777:o})",
            f"chmod 600 {shlex.quote(str(socket))}",
        )
    if folder.st_mode & OTHERS and not folder.st_mode & stat.S_ISVTX:
        mode = f"{folder.st_mode & 0o777:o}"
        yield Symptom(f"others can replace {socket}: {socket.parent} has mode {mode}", f"chmod go-w {socket.parent}")


def has_readable_lock(examination: Examination) -> Found:
    """If the lock file was removed, a second daemon would not notice the running one."""
    lock = examination.directory.root / "lock"
    if not lock.exists() and examination.directory.database.exists():
        yield f"{lock} is missing: the next start takes this directory for a copy, and signals no earlier worker"
    elif lock.exists() and examination.daemon is not None:
        holder = read_regular(lock).split(b"\n")[0].decode(errors="replace")
        if holder.isdecimal() and not Path("/proc", holder).exists():
            yield Symptom(f"{lock} is held, but pid {holder} is not here", "a daemon in a container may hold it", N)


def has_directories_of_users(examination: Examination) -> Found:
    """Only the directory above them is looked at: users can put anything into their own."""
    settings = examination.settings.run_as
    directory = Path(settings.directory)
    if settings.user != "submitter" and not directory.is_dir():
        return
    if (fault := fault_of(directory)) is not None:
        yield f"[run_as] directory {directory}: {fault}"
    elif directory.is_dir():
        users = sum(entry.name.isdecimal() for entry in directory.iterdir())
        unseen = f"the directories of {counted(users, 'user')} in {directory} were not looked into"
        yield Symptom(f"{unseen}: logs, outputs, outcomes", "look as root or as these users", N)


CHECKS = (
    Check("host", "settings", "the settings file and the environment are valid", E, "stoker config check",
          has_valid_settings, Needs.FILES),
    Check("host", "programs of hooks", "the program of each hook can be executed", W,
          "correct command or working_dir in the settings file, or make the program executable; stoker hook test NAME",
          has_programs_of_hooks, Needs.FILES),
    Check("host", "filters of hooks", "there is a queue or workflow of each name that a hook filters by", W,
          "stoker queue ls; stoker workflow ls; correct the name in the settings file", has_subjects_of_hooks),
    Check("host", "disk", "there is room on the disk", E, "stoker purge --before 7d --dry-run",
          has_room, Needs.FILES),
    Check("host", "inodes", "there is room for further files", W, "stoker purge --before 7d --dry-run",
          has_inodes, Needs.FILES),
    Check("host", "wal", "the WAL is copied into the database", W, "restart stokerd",
          has_small_wal, Needs.FILES),
    Check("host", "sqlite", "this SQLite has no known bug that damages databases", N,
          "upgrade SQLite, unless your distribution has fixed it", has_good_sqlite, Needs.FILES),
    Check("host", "units", "systemd units are installed as shipped; drop-ins are fine", W, "systemctl edit stoker",
          has_shipped_units, Needs.FILES),
    Check("host", "lock", "the lock of the state directory is in its place", W, "start stokerd",
          has_readable_lock, Needs.FILES),
    Check("host", "users", "only root can replace the directories of users whose jobs run as them", E, "ls -ld DIR",
          has_directories_of_users, Needs.FILES),
    Check("host", "socket", "only its owner can connect to or replace the socket", W, "ls -ld DIR",
          has_private_socket, Needs.FILES),
)  # fmt: skip
