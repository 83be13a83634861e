"""`stoker backup` and `stoker backup ls`: through the daemon, or without one on the state directory itself.

Owns the choice: the daemon that runs on the directory makes the backup; without one this process does.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from stoker import paths
from stoker.cli.kit import render, table
from stoker.cli.kit.connection import PROBE, call, connect
from stoker.cli.kit.parser import JSON, Command, Given, Option, path
from stoker.cli.kit.progress import QUIET, Progress
from stoker.core.errors import AlreadyRunning, BackupFailed, DaemonUnreachable, NoAnswer, UsageError
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.daemon_views import BackupList, BackupView


def _absolute(text: str) -> str:
    """The absolute path: the daemon has another working directory."""
    if text == "-":
        raise UsageError("a backup is a file of its own, not standard output", hint="--to FILE")
    return os.path.abspath(path(text))


STATE_DIR = Option("--state-dir", "DIR", "the state directory, also if its daemon does not run")


@Command(
    options=(
        Option("--to", "FILE", "write it to this file, outside of the state directory", convert=_absolute),
        STATE_DIR,
        QUIET,
        JSON,
    ),
    examples=("stoker backup", "stoker backup --to /mnt/disk/stoker.db", "stoker backup --state-dir /var/lib/stoker"),
)
def backup(given: Given) -> None:
    """Work goes on meanwhile. The backup is complete, verified and durable when this command ends; Ctrl-C cancels it
    and removes what was written. The file is an SQLite database with a .sha256 beside it. The daemon makes backups by
    itself, too: [backup]."""
    with Progress(given, unit=render.size) as progress:
        view = _without_daemon(given, progress) or _by_daemon(given, progress)
    if given["json"]:
        render.json_document(view)
    else:
        render.line(view["path"])
        render.aside(f"{render.size(view['bytes'])}, up to change {view['seq']}, verified")


@Command(options=(STATE_DIR, JSON), examples=("stoker backup ls", "stoker backup ls --json"))
def ls(given: Given) -> None:
    listing: BackupList
    if _works_alone(given):
        from stoker.ops import backup as ops  # noqa: PLC0415 - SQLite and msgspec: completions load this module

        listing = ops.listing(_root(given))
    else:
        listing = call(given, "system.backups", {})
    if given["json"]:
        render.json_document(listing)
        return
    rows = [_row(one) for one in listing["backups"]]
    if rows:
        table.show(("MADE", "CHANGE", "SIZE", "REMARK", "FILE"), rows, whole=True)
    say = render.aside if rows else render.note
    say(f"{counted(len(rows), 'backup')} in {listing['directory']}")


def _row(one: BackupView) -> tuple[object, ...]:
    kept = one["before_migration"]
    remark = "-" if kept is None else f"before migration {kept}, kept"
    return render.when(one["at"]), one["seq"], render.size(one["bytes"]), remark, one["path"].rpartition("/")[2]


# --- by whom ------------------------------------------------------------------------------------------------


def _root(given: Given) -> str:
    return paths.state_dir(given["state_dir"], os.environ, os.getuid())


def _works_alone(given: Given) -> bool:
    """Raises DaemonUnreachable if there is neither a daemon nor a state directory."""
    if given["state_dir"] is not None:
        return True
    try:
        call(given, PROBE, {})
    except NoAnswer:
        raise
    except DaemonUnreachable:
        if not os.path.isdir(_root(given)):
            raise
        render.note(f"no daemon answers: working on {_root(given)} itself")
        return True
    return False


def _without_daemon(given: Given, progress: Progress) -> BackupView | None:
    if not _works_alone(given):
        return None
    from stoker.ops import backup as ops  # noqa: PLC0415 - as above

    try:
        return ops.make(_root(given), given["to"], partial(_show, progress))
    except AlreadyRunning as error:
        if error.details["socket"] is None:  # it is starting, or stopping
            raise
        given["socket"] = error.details["socket"]
        return None


def _by_daemon(given: Given, progress: Progress) -> BackupView:
    with connect(given) as client:
        for step in client.stream("system.backup", {"to": given["to"]}):
            if step["backup"] is not None:
                backup: BackupView = step["backup"]
                return backup
            _show(progress, step["done_bytes"], step["of_bytes"])
    raise BackupFailed("the daemon ended before the backup was complete", hint="stoker backup ls")


def _show(progress: Progress, done: int, of: int) -> None:
    if done < of:
        progress.show("copied", done, of)
    else:
        progress.show("verifying")
