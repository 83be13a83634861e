"""Checkpoints: save (from inside a job), ls, show, export, diff.

Owns which checkpoints a command is about and what is shown of them; kit/checkpoint_text.py makes their data readable.
`save` uses `stoker.checkpoint`, as programs do; a test bounds the modules that it loads.
"""

from __future__ import annotations

import sys

from stoker.cli.kit import render, table, values
from stoker.cli.kit.addresses import address, job_named
from stoker.cli.kit.checkpoint_text import changes, differing_lines, plain, readable
from stoker.cli.kit.connection import connect
from stoker.cli.kit.naming import checkpoint_id, workflow_id
from stoker.cli.kit.parser import JSON, Command, Option
from stoker.core.errors import EX_IOERR, CheckpointDamaged, CheckpointTooLarge, UsageError
from stoker.core.units import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stoker.cli.kit.parser import Given
    from stoker.core.wire_types import CheckpointView
    from stoker.rpc.client import Client

PAGE = 1000
OF_JOB = Option("--job", "ID", "the checkpoints of this job", convert=address)


@Command(
    options=(
        Option("--status", "TEXT", "a few words on the progress"),
        values.duration_option("--patience", "how long to try while the daemon is away (default: 60s)"),
        JSON,
    ),
    examples=(
        "stoker checkpoint save --status 'epoch 12' < model.bin",
        'echo "$line" | stoker checkpoint save                     # inside a job, which STOKER_TOKEN names',
        'start=$(cat "$STOKER_CHECKPOINT" 2>/dev/null || echo 0)   # what the last attempt saved',
    ),
)
def save(given: Given) -> None:
    import stoker.checkpoint as checkpoint  # noqa: PLC0415, PLR0402 - only for `save`; `from stoker` would load it by __getattr__

    checkpoint.must_be_job()
    if sys.stdin.isatty():
        raise UsageError("no data: stdin is a terminal", hint="stoker checkpoint save < FILE")
    data = sys.stdin.buffer.read(checkpoint.MAX_BYTES + 1)
    if len(data) > checkpoint.MAX_BYTES:
        raise CheckpointTooLarge(
            f"stdin: more than {checkpoint.MAX_BYTES} bytes, the limit of a checkpoint",
            hint="write the data to a file and save its path",
        )
    more = {} if given["patience_ms"] is None else {"patience_s": given["patience_ms"] / 1_000}
    new_id = checkpoint.save(data, given["status"] or "saved", **more) or None
    if given["json"]:
        render.line(render.json_text({"id": new_id, "bytes": len(data)}))
    elif new_id is not None:  # on a node of a cluster the daemon gives it later
        render.line(new_id)


@Command(
    words="[WORKFLOW]",
    options=(
        OF_JOB,
        *values.HOW_MANY,
        JSON,
    ),
    examples=("stoker checkpoint ls 7", "stoker checkpoint ls --job 42", "stoker checkpoint ls 7 --ids --limit 1"),
)
def ls(given: Given) -> None:
    most = values.how_many(given)
    with connect(given) as client:
        pages = _newest_first(client, _chain(client, given), given["job"])
        rows = [row for row, _ in zip(pages, range(most + 1), strict=False)] if most is not None else list(pages)
    more = most is not None and len(rows) > most
    rows = rows[:most]
    if given["json"]:
        render.json_document({"checkpoints": rows, "more": more})
    elif given["ids"]:
        for row in rows:
            render.line(row["id"])
    else:
        headers = ("ID", "SEQ", "KIND", "STEP", "JOB", "SIZE", "AT", "STATUS")
        table.show(headers, [_cells(row) for row in rows], spare=("SIZE", "SEQ", "JOB", "KIND"))
        if not rows:
            render.note(f"job {given['job']} has saved no checkpoint")
        if more and not given["limit"]:
            render.note(f"only the newest {len(rows)} checkpoints are shown; --all or --limit N shows more")


def _cells(row: CheckpointView) -> tuple[object, ...]:
    size = render.size(row["bytes"])
    at = render.when(row["at"])
    return row["id"], row["seq"], row["kind"], row["step"] or "-", row["job"] or "-", size, at, row["status"]


@Command(
    words="ID",
    options=(Option("--context", None, "show the whole workflow as it was at this checkpoint"), JSON),
    examples=("stoker checkpoint show 12", "stoker checkpoint show 12 --context", "stoker checkpoint show 12 --json"),
)
def show(given: Given) -> None:
    ident = checkpoint_id(given["words"][0])
    with connect(given) as client:
        about = client.call("checkpoint.get", {"id": ident, "context": given["context"]}, again=True)
        data = b"" if given["context"] else client.checkpoint_data(ident)
    if given["context"]:
        render.sorted_document(about) if given["json"] else render.text(render.sorted_text(about))
    elif given["json"]:
        render.sorted_document({**about, "data": plain(data)})
    else:
        render.facts(_facts(about))
        render.line()
        render.text(readable(data))


def _facts(about: CheckpointView) -> list[tuple[str, object]]:
    return [
        ("checkpoint", f"{about['id']} ({about['chain']}, seq {about['seq']})"),
        ("kind", about["kind"]),
        ("status", about["status"]),
        ("step", about["step"]),
        ("job", about["job"]),
        ("attempt", about["run_id"]),
        ("at", render.when(about["at"])),
        ("builds on", about["parent"]),
        ("data", f"{render.size(about['bytes'])}, stored {about['encoding']}, version {about['version']}"),
        ("sha256", about["checksum"]),
    ]


@Command(
    words="[ID]",
    options=(
        Option("--workflow", "ID", "all checkpoints of a workflow, one JSON object per line", convert=values.job_id),
        OF_JOB,
        Option("-o --output", "FILE", "write to this file instead of stdout"),
    ),
    examples=("stoker checkpoint export 12 > state.bin", "stoker checkpoint export --workflow 7 -o run7.ndjson"),
)
def export(given: Given) -> int:
    """For one checkpoint print its bytes; for a workflow or job one line per checkpoint, oldest first."""
    whole_chain = given["workflow"] is not None or given["job"] is not None
    if whole_chain == bool(given["words"]):
        raise UsageError("name a checkpoint, or give --workflow or --job", hint="stoker checkpoint export 12")
    damaged = 0
    with connect(given) as client, render.Sink(given["output"]) as write:
        if not whole_chain:
            write(client.checkpoint_data(checkpoint_id(given["words"][0])))
            return 0
        for one in reversed(list(_newest_first(client, _chain(client, given), given["job"]))):
            record = _with_data(client, one)
            damaged += "error" in record
            write(render.json_text(record).encode() + b"\n")
    if damaged:
        render.note(f"{counted(damaged, 'line')} with an `error` and no data: checksums do not match")
    return EX_IOERR if damaged else 0


def _with_data(client: Client, one: CheckpointView) -> dict[str, Any]:
    try:
        return {**one, "data": plain(client.checkpoint_data(one["id"]), lossless=True)}
    except CheckpointDamaged as error:
        return {**one, "error": error.message}


@Command(
    words="OLD NEW",
    options=(Option("--context", None, "compare the whole workflow as it was at each checkpoint"), JSON),
    examples=(
        "stoker checkpoint diff 12 15",
        "stoker checkpoint diff --context 12 15",
        "stoker checkpoint diff 12 15 --json | jq -r '.changes[].path'",
    ),
)
def diff(given: Given) -> None:
    """Prints nothing if there is no difference."""
    old, new = map(checkpoint_id, given["words"])
    with connect(given) as client:
        sides = [_content(client, ident, whole=given["context"]) for ident in (old, new)]
    if given["json"]:
        differences = changes(*(plain(side) if isinstance(side, bytes) else side for side in sides))
        render.sorted_document({"old": old, "new": new, "changes": list(differences)})
        return
    before, after = (readable(side) if isinstance(side, bytes) else render.sorted_text(side) for side in sides)
    for line in differing_lines(before, after, (f"checkpoint {old}", f"checkpoint {new}")):
        colour = {"+": render.GREEN, "-": render.RED, "@": render.CYAN}.get(line[:1], "")
        render.line(render.paint(render.visible(line, keep="\t"), colour))


def _content(client: Client, ident: int, *, whole: bool) -> Any:
    """The saved bytes, or the whole workflow at that checkpoint."""
    if whole:
        return client.call("checkpoint.get", {"id": ident, "context": True}, again=True)
    return client.checkpoint_data(ident)


# --- chains -------------------------------------------------------------------------------------------------


def _chain(client: Client, given: Given) -> dict[str, int]:
    """`{"workflow": 7}` or `{"job": 42}`. The checkpoints of a step are in the chain of its workflow."""
    workflow, job = given.get("workflow"), given["job"] and job_named(given, given["job"])
    named = [word for word in (*given["words"], workflow, job) if word is not None]
    if len(named) != 1:
        raise UsageError(
            f"name {'only ' if named else ''}one: a workflow, or a job with --job", hint="stoker checkpoint ls 7"
        )
    for word in given["words"]:
        if "/" in word:
            job = job_named(given, word)
        elif word.startswith("j"):
            job = values.job_id(word[1:])
        else:
            workflow = workflow_id(word)
    given["job"] = job
    if workflow is None and job is not None:
        workflow = client.get(job).get("workflow_id")
    if workflow is not None:
        return {"workflow": workflow}
    assert job is not None, "either a workflow or a job was named"
    return {"job": job}


def _newest_first(client: Client, chain: dict[str, int], job: int | None) -> Iterator[CheckpointView]:
    before: dict[str, int] = {}
    while True:
        page = client.checkpoints(**chain, limit=PAGE, **before)
        yield from (one for one in page["checkpoints"] if job is None or one["job"] == job)
        if page["next"] is None:
            return
        before = {"before_seq": page["next"]}
