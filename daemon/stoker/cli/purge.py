"""`stoker purge`: remove what has ended before a time, or count what would be removed.

Owns the loop: the daemon removes for about a second at a time, so an interrupt stops between two portions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import outcome, render, values
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import JSON, REASON, Command, Given, Option
from stoker.cli.kit.progress import QUIET, Progress
from stoker.core.errors import UsageError
from stoker.core.units import counted
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from stoker.core.daemon_views import Purged, PurgePreview


@Command(
    options=(
        Option(
            "--before", "AGE|TIME", "jobs that ended that long ago (30d, 12h) or before a time", convert=values.past
        ),
        Option("--queue", "NAME", "only jobs of this queue, and no workflows"),
        Option(
            "--state", "STATE,…", "only what ended in these states", to="states", choices=outcome.FINAL, listed=True
        ),
        Option("--dry-run", None, "remove nothing: count what would be removed"),
        Option("--yes", None, "remove it"),
        REASON,
        QUIET,
        JSON,
    ),
    examples=(
        "stoker purge --before 30d --dry-run",
        "stoker purge --before 30d --yes",
        "stoker purge --before 1d --queue bulk --state succeeded --yes",
    ),
)
def purge(given: Given) -> None:
    """Ended jobs go with their attempts, logs and checkpoints, workflows with all their steps, and without --queue and
    --state also the older changes. Jobs that an open job needs stay. The daemon removes old ones by itself:
    [retention]."""
    if given["before"] is None:
        raise UsageError("missing --before", hint="stoker purge --before 30d --dry-run")
    asked = {name: given[name] for name in ("before", "queue", "states", "reason") if given[name] is not None}
    with connect(given) as client:
        if given["yes"] and not given["dry_run"]:
            with Progress(given) as progress:
                totals = _remove(client, asked, progress)
            if given["json"]:
                render.json_document(totals)
            else:
                _print(totals, "removed")
            return
        counts: PurgePreview = client.call("system.purge", asked | {"dry_run": True})
    if given["json"]:
        render.json_document(counts)
    else:
        _print(counts, "would be removed")
        render.flush()
    if (counts["jobs"] or counts["workflows"] or counts["changes"]) and not given["dry_run"]:
        raise UsageError("nothing was removed: --yes is missing", hint="--yes removes it, --dry-run only counts it")


def _remove(client: Client, asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Remove it in portions; returns what is gone in all."""
    removed: Counter[str] = Counter()
    of = 0
    if progress.is_shown:  # only a bar needs the total
        goal: PurgePreview = client.call("system.purge", asked | {"dry_run": True})
        of = _rows(goal)
    while True:
        answer: Purged = client.call("system.purge", asked)
        removed.update(
            jobs=answer["jobs"], workflows=answer["workflows"], steps=answer["steps"], changes=answer["changes"]
        )
        if not answer["more"]:
            return {**removed, "needed": answer["needed"]}
        progress.show("removed", _rows(removed), of)


def _rows(counts: Mapping[str, Any]) -> int:
    return int(counts["jobs"] + counts["steps"] + counts["changes"])


def _print(counts: Mapping[str, Any], verb: str) -> None:
    render.line(f"{_counts(counts)} {verb}")
    sizes = [f"{render.size(counts[name])} of {name.removesuffix('_bytes')}s" for name in SIZES if counts.get(name)]
    if sizes:
        render.line(f"with {' and '.join(sizes)}")
    if counts["needed"]:
        render.line(f"kept, because an open job or a schedule needs them: {counts['needed']}")


def _counts(counts: Mapping[str, Any]) -> str:
    steps = f" ({counted(counts['steps'], 'step')})" if counts["steps"] else ""
    jobs, workflows, changes = (counted(counts[f"{noun}s"], noun) for noun in ("job", "workflow", "change"))
    return f"{jobs}, {workflows}{steps} and {changes}"


SIZES = ("log_bytes", "checkpoint_bytes")
