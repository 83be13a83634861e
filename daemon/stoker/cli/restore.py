"""`stoker restore`: put a backup in the place of the database, or say what that would do.

Owns how a restore is described, and how its end is named. `ops.restore` does it; the next start of the daemon settles
the jobs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stoker import paths
from stoker.cli.kit import render, values
from stoker.cli.kit.parser import JSON, STATE_DIR, Command, Given, Option, path
from stoker.cli.kit.progress import QUIET, Progress
from stoker.core.errors import UsageError
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.daemon_views import RestoreView


def _end(text: str) -> dict[str, int]:
    """`120` is the number of a change; anything else is a past time."""
    if not text.isdecimal():
        return {"at": values.past(text)}
    if not int(text):
        raise UsageError("changes are counted from 1", hint="stoker restore --to 1")
    return {"seq": int(text)}


@Command(
    options=(
        Option(
            "--from-backup",
            "latest|FILE",
            "the newest backup, one that `stoker backup ls` names, or this file",
            convert=path,
        ),
        Option("--from-journal", None, "rebuild the database from the journal in the state directory"),
        Option("--to", "TIME|SEQ", "end at this time or change; the journal adds changes to a backup", convert=_end),
        STATE_DIR,
        Option("--yes", None, "restore; without this option only print what it would do"),
        QUIET,
        JSON,
    ),
    examples=(
        "stoker restore --from-backup latest",
        "stoker restore --from-backup latest --yes",
        "stoker restore --from-journal --yes",
        "stoker restore --from-backup latest --to 2026-11-29T09:12 --yes",
        "stoker restore --from-backup /mnt/disk/stoker.db --state-dir /var/lib/stoker --yes",
    ),
)
def restore(given: Given) -> None:
    """The daemon must not run; its database may be lost or damaged. The new database is verified first. Old files are
    moved to a directory beside it, never deleted. Jobs that may have run since the backup do not run again by
    themselves: the next start holds waiting jobs for a person, except safe ones, and stops workers that the backup does
    not know. New jobs get higher ids than any that were given out."""
    if (given["from_backup"] is None) is not given["from_journal"]:
        raise UsageError(
            "name one of --from-backup and --from-journal",
            hint="stoker restore --from-backup latest; stoker backup ls lists them",
        )
    from stoker.ops import rebuild  # noqa: PLC0415 - SQLite and msgspec: completions load this module
    from stoker.ops import restore as ops  # noqa: PLC0415 - as above

    root = paths.state_dir(given["state_dir"], os.environ, os.getuid())
    until = None if given["to"] is None else rebuild.Until(**given["to"])
    with Progress(given, unit=render.size) as progress:
        done = (ops.carry_out if given["yes"] else ops.preview)(root, given["from_backup"], until, progress.show)
    if given["json"]:
        render.json_document(done)
    else:
        render.facts(_facts(done))
    if not given["yes"]:
        render.flush()
        raise UsageError("nothing was restored", hint="--yes does it")


def _facts(view: RestoreView) -> list[tuple[str, object]]:
    return [
        ("state dir", view["state_dir"]),
        ("source", f"{view['backup']}, up to change {view['seq']}, verified"),
        *[("remark", remark) for remark in view["remarks"]],
        ("instance", view["instance"]),
        ("lost", _lost(view["lost_changes"])),
        ("jobs", f"{view['jobs']}, of those that wait {view['held']} are held, {view['queued_again']} safe ones start"),
        ("running", _running(view["running"])),
        ("old state", view["old_state"]),
        ("next", None if view["old_state"] is None else "start stokerd, then: stoker ls --state held"),
    ]


def _lost(changes: int | None) -> str:
    if changes is None:
        return "not known"
    return f"at least {counted(changes, 'change')} made since" if changes else "no known change"


def _running(count: int) -> str | None:
    return f"{counted(count, 'job')} ran: settled at the start, as after a crash" if count else None
