"""`stoker doctor --repair`: the repairs that are safe, while no daemon runs.

Owns the order: lock, examine, back up, repair, examine again. A repair is offered where a finding names it as remedy.
Invariants: nothing is changed before the backup is verified and durable; what is replaced or moved is kept in
`before-repair-<time>/`; each repair is one transaction with its entry in the log of changes, and files move after that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stoker.core.clock import wall_ms
from stoker.core.errors import StorageFailed
from stoker.files import sync
from stoker.ops.doctor import files
from stoker.ops.doctor.examination import REPAIR, Examination, Host, Progress, examining
from stoker.ops.doctor.run import examined
from stoker.store import recorded_specs, repair
from stoker.store.backup import back_up
from stoker.store.backup_files import time_name
from stoker.store.database import transaction
from stoker.store.directory import StateDirectory, storage_error
from stoker.store.integrity import find_damage

if TYPE_CHECKING:
    from stoker.core.daemon_views import DoctorView, RepairView


class Repair(NamedTuple):
    """How the findings of a check are repaired: in the database, or by moving files aside."""

    rows: Callable[[sqlite3.Connection], list[str]] | None = None
    files: Callable[[Examination], list[Path]] | None = None


# By the name of the check. Indexes and triggers come first: the others need them.
REPAIRS = {
    "pages": Repair(rows=repair.rebuild_indexes),
    "objects": Repair(rows=repair.remake_objects),
    "jobs": Repair(rows=recorded_specs.put_back),
    "counters": Repair(rows=repair.recount),
    "logs without job": Repair(files=files.orphaned_logs),
    "unfinished files": Repair(files=lambda examination: files.unfinished(examination.directory)),
}


class Person(NamedTuple):
    """The person who asks for a repair, and the reason."""

    uid: int
    reason: str | None


def plan(report: DoctorView) -> list[str]:
    """The checks whose findings can be repaired. Damaged pages cannot, unless only indexes are damaged."""
    remedies = {check["name"]: {finding["remedy"] for finding in check["findings"]} for check in report["checks"]}
    return [name for name in REPAIRS if REPAIR in remedies[name] and not (name == "pages" and len(remedies[name]) > 1)]


def preview(root: str, host: Host, progress: Progress) -> DoctorView:
    """The report, with the repairs that would be made. Raises AlreadyRunning or StateRefused."""
    directory = StateDirectory(Path(root))
    with examining(directory, host, progress) as examination:
        if examination.daemon is not None:
            raise examination.daemon
        report = examined(examination)
        report["repairs"] = [{"check": name, "what": []} for name in plan(report)]
        return report


def carry_out(root: str, host: Host, person: Person, progress: Progress) -> DoctorView:
    """Repair, and report what is left. Raises AlreadyRunning, StateRefused, DiskFull, BackupFailed or StorageFailed."""
    directory = StateDirectory(Path(root))
    directory.check()
    directory.lock()
    try:
        with examining(directory, host, progress, locked=True) as examination:
            names = plan(examined(examination))
            aside = _set_aside(examination, progress) if names else None
            moves = {name: find(examination) for name in names if (find := REPAIRS[name].files) is not None}
        repairs = [] if aside is None else _repair(directory, names, moves, person, aside)
        with examining(directory, host, progress, locked=True) as examination:
            report = examined(examination)
    except sqlite3.Error as error:
        raise StorageFailed(f"{directory.database}: {error}", hint="stoker restore --from-backup latest") from error
    except OSError as error:
        raise storage_error(error.filename or directory.root, error) from error
    finally:
        directory.unlock()
    report["repairs"] = repairs
    report["kept_in"] = None if aside is None else str(aside)
    return report


def _set_aside(examination: Examination, progress: Progress) -> Path:
    """A backup of the database as it is, in a directory of its own."""
    aside = examination.directory.root / f"before-repair-{time_name(wall_ms())}"
    aside.mkdir(mode=0o700)
    examination.directory.sync()
    damage = find_damage(examination.connection)
    back_up(
        examination.connection,
        lambda _at, _seq: aside / "stoker.db",
        lambda done, of: progress("backup", done, of),
        damage=damage,
    )
    return aside


def _repair(
    directory: StateDirectory, names: list[str], moves: dict[str, list[Path]], person: Person, aside: Path
) -> list[RepairView]:
    repairs: list[RepairView] = []
    with repair.writing(directory.database) as connection:
        for name in names:
            rows = REPAIRS[name].rows
            with transaction(connection):
                what = [str(path) for path in moves[name]] if rows is None else rows(connection)
                repair.recorded(connection, name, what, person.uid, person.reason, aside)
            for path in moves.get(name, ()):
                _move(path, aside)
            repairs.append({"check": name, "what": what})
    return repairs


def _move(path: Path, aside: Path) -> None:
    target = aside / path.parent.name / path.name
    target.parent.mkdir(mode=0o700, exist_ok=True)
    path.rename(target)
    sync(target.parent)
    sync(path.parent)
