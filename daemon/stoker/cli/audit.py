"""`stoker audit verify`: whether the log of changes is as it was written.

Owns how the verdict is printed, and its exit status. `ops.audit` verifies, beside a running daemon or without one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from stoker.cli.kit import render
from stoker.cli.kit.connection import state_dir
from stoker.cli.kit.parser import JSON, STATE_DIR, Command, Given, Option, path
from stoker.cli.kit.progress import QUIET, Progress
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.daemon_views import AuditView, JournalAuditView


@Command(
    options=(
        Option(
            "--from-backup",
            "latest|FILE",
            "verify the newest backup, one that `stoker backup ls` names, or this file, instead of the state",
            convert=path,
        ),
        STATE_DIR,
        QUIET,
        JSON,
    ),
    examples=(
        "stoker audit verify",
        "stoker audit verify --from-backup latest",
        "stoker audit verify --from-backup /mnt/disk/stoker.db --json",
    ),
)
def verify(given: Given) -> int:
    """Each change has the hash of its content and of the change before it: one that was edited, removed or added
    breaks the chain. The journal is verified the same way, and shows whether the end of the log was cut off; keep the
    last change and its hash (--json) elsewhere to notice it for both. Exit status 0 if all is whole, 1 if not."""
    from stoker.ops import audit as ops  # noqa: PLC0415 - SQLite and msgspec: completions load this module

    with Progress(given) as progress:
        if given["from_backup"] is not None:
            verdict = ops.verify_backup(state_dir(given), given["from_backup"], partial(progress.show, "changes"))
        else:
            verdict = ops.verify_state(state_dir(given), partial(progress.show, "changes"))
    if given["json"]:
        render.json_document(verdict)
    else:
        _print(verdict)
    return 0 if verdict["ok"] else 1


def _print(verdict: AuditView) -> None:
    if verdict["broken"] is None:
        whole = f"{counted(verdict['changes'], 'change')}, {verdict['first']} to {verdict['last']}: the chain is whole"
        render.line(whole if verdict["changes"] else "no changes")
    else:
        render.line(f"BROKEN: {verdict['broken']}")
        render.line(f"{counted(verdict['changes'], 'change')} before that are whole; {verdict['path']}")
    if verdict["journal"] is not None:
        _print_journal(verdict["journal"])


def _print_journal(journal: JournalAuditView) -> None:
    lines = counted(journal["lines"], "line")
    if journal["broken"] is None:
        render.line(f"journal: {lines}, up to change {journal['last']}: the chain is whole")
    else:
        render.line(f"BROKEN: {journal['broken']}")
        render.line(f"{lines} of the journal before that are whole; {journal['path']}")
