"""Workflows: submit and ls.

Owns which facts of a workflow its list shows. The daemon checks a flow; flowfile.py maps its mistakes to places in the
file.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from stoker.cli import flowfile, nested_flows, workflow_parts
from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import connect
from stoker.cli.kit.naming import WAIT, few, groups, need_text
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.kit.progress import QUIET
from stoker.cli.submit_once import in_room, room_wait
from stoker.cli.workflow_wait import until_ended
from stoker.core.errors import FlowInvalid, UsageError
from stoker.core.units import counted
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.core.views import WorkflowView
    from stoker.core.wire_types import WorkflowAccepted

STATES = ("running", "paused", "rolling_back", "succeeded", "failed", "cancelled")
DONE = ("succeeded", "superseded")
PAGE = 1000
MOST_IF = 60  # characters of an expression
HEADERS = ("ID", "STATE", "DONE", "NOT DONE", "AGE", "TOOK", "NAME")


@Command(
    words="FILE|-",
    options=(
        Option("--param", "NAME=VALUE", "value of a parameter of the flow; repeatable", convert=values.pair, many=True),
        *workflow_parts.OPTIONS,
        Option("--idempotency-key", "TEXT", "a second submit with the same key returns the same workflow"),
        Option("--dry-run", None, "store nothing: check the file and print the order of the steps"),
        Option("--block", None, "wait until a queue or a limit of yours has room for all steps"),
        values.duration_option("--patience", "with --block: give up after this time"),
        WAIT,
        QUIET,
        JSON,
    ),
    examples=(
        "stoker workflow submit build.toml",
        "stoker workflow submit --param version=1.4 --dry-run build.toml",
        "stoker workflow submit --target link build.toml      # link, and all that it needs",
        "stoker workflow submit --reuse latest build.toml     # only what changed since the newest run",
        "generate | stoker workflow submit -                  # TOML, or JSON when it begins with {",
        "stoker workflow submit --wait nightly.toml || mail -s 'nightly failed' ops < /dev/null",
    ),
)
def submit(given: Given) -> int:
    if given["dry_run"] and given["wait"]:
        raise UsageError("--dry-run stores nothing, so there is nothing to wait for", hint="leave out --wait")
    if given["dry_run"] and given["block"]:
        raise UsageError("--dry-run and --block exclude each other", hint="leave out --block")
    if given["patience_ms"] is not None and not given["block"]:
        raise UsageError("--patience needs --block")
    (source,) = given["words"]
    flow, files = flowfile.read(source)
    flow = flowfile.complete(flow)
    flowfile.check_size(source, flow)
    for name, remark in flowfile.overdue_steps(flow):
        render.note(f"{name}: {remark}")
    try:
        answer = _submit(given, flow)
    except FlowInvalid as error:
        raise flowfile.located(source, flow, error, "; nothing was stored", files) from None
    if given["dry_run"]:
        _print_plan(answer, flow, as_json=given["json"])
        return 0
    workflow_parts.print_part(answer)
    render.receipt(f"workflow {answer['id']}", render.json_text(answer) if given["json"] else answer["id"])
    if answer["skipped"]:
        render.note(f"skipped: workflow {answer['id']} of the same concurrency key has not ended; nothing was stored")
    if answer["existing"]:
        render.note(f"workflow {answer['id']} was submitted before with this key")
    if not given["wait"]:
        return 0
    return until_ended(given, answer["id"] or 0)


def _submit(given: Given, flow: dict[str, Any]) -> WorkflowAccepted:
    parameters, room = _parameters(given["param"]), room_wait(given)
    options: dict[str, Any] = {
        "idempotency_key": given["idempotency_key"],
        "dry_run": given["dry_run"],
        **workflow_parts.part_params(given),
    }
    if values := flowfile.secrets(flow):
        options["secrets"] = values
    with connect(given) as client:
        return in_room(room, client, lambda: client.submit_workflow(flow, parameters, **options))


def _parameters(pairs: list[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise UsageError(f"--param {name} is given twice: {values[name]!r} and {value!r}", hint="leave one out")
        values[name] = value
    return values


def _print_plan(answer: WorkflowAccepted, flow: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        render.json_document(answer)
        return
    layers = answer["layers"]
    render.line(f"{counted(len(answer['steps']), 'step')} in {counted(len(layers), 'layer')}")
    remarks = dict(_plan_remarks(flow))
    rows = [(number, len(layer), few(groups(layer, remarks))) for number, layer in enumerate(layers, 1)]
    table.show(("LAYER", "STEPS", "WHICH"), rows, whole=True)
    if answer["reuse"]:
        workflow_parts.print_reuse(answer["reuse"])
    render.flush()
    workflow_parts.print_part(answer)
    for warning in answer.get("warnings", ()):
        render.note(f"{warning} yet; the step looks again as it starts")
    for remark in flowfile.values_in_scripts(flow):
        render.note(remark)


def _target(need: dict[str, Any]) -> str:
    """The step that a need names: `compile`, or `job:41` for work outside of the workflow."""
    return next((f"{kind}:{need[kind]}" for kind in ("job", "workflow") if kind in need), need.get("step", ""))


def _plan_remarks(flow: dict[str, Any], outer: str = "") -> Iterator[tuple[str, str]]:
    """The remark on each step that has one, also in nested workflows."""
    for kind in nested_flows.TABLES:
        for name, step in flow.get(kind, {}).items():
            if remark := _plan_remark(kind, step):
                yield f"{outer}{name}", remark
            if "workflow" in step:
                yield from _plan_remarks(step["workflow"], f"{outer}{name}/")


def _plan_remark(table: str, step: dict[str, Any]) -> str:
    """`width 2; when any_failed`, `if item != 'x'`, `finally`: what a reader of the layers would not expect."""
    handler = [] if table == nested_flows.TABLES[0] else [table]
    width = [f"width {step['width']}"] if "width" in step else []
    needs = [(_target(need), need.get("on", "ok")) for need in step.get("needs", ()) if isinstance(need, dict)]
    words = step.get("when") or " ".join(need_text(need, on) for need, on in needs if on != "ok")
    whens = [f"when {words}"] if words else []
    ifs = [render.cut(f"if {step['if']}", MOST_IF)] if "if" in step else []
    each = step.get("each")
    lists = [f"for each of {each['step']}.{each['output']}"] if isinstance(each, dict) and "output" in each else []
    return "; ".join([*handler, *lists, *width, *whens, *ifs])


@Command(
    options=(
        Option("--state", "STATE,…", "only these states", choices=STATES, listed=True),
        Option("--label", "K=V", "only workflows with this label", convert=values.label),
        *values.HOW_MANY,
        JSON,
    ),
    examples=(
        "stoker workflow ls",
        "stoker workflow ls --label team=blue",
        "stoker workflow ls --state failed --ids | xargs -n1 stoker workflow retry --failed",
    ),
)
def ls(given: Given) -> None:
    most = values.how_many(given)
    with connect(given) as client:
        workflows, more = _newest(client, {"states": given["state"] or [], "label": given["label"]}, most)
    if given["json"]:
        render.json_document({"workflows": workflows, "more": more})
    elif given["ids"]:
        for workflow in workflows:
            render.line(workflow["id"])
    else:
        _print_workflows(workflows)
    if more and not (given["json"] or given["limit"]):
        render.note(f"only the newest {len(workflows)} workflows are shown; --all or --limit N shows more")


def _newest(client: Client, wanted: dict[str, Any], most: int | None) -> tuple[list[WorkflowView], bool]:
    workflows: list[WorkflowView] = []
    before = None
    while most is None or len(workflows) <= most:
        limit = PAGE if most is None else min(PAGE, most + 1 - len(workflows))
        page = client.call("workflow.list", {**wanted, "limit": limit, "before": before}, again=True)
        workflows += page["workflows"]
        before = page["next"]
        if before is None:
            break
    return workflows[:most], most is not None and len(workflows) > most


def _print_workflows(workflows: list[WorkflowView]) -> None:
    now_ms = time.time_ns() // 1_000_000
    rows = [row(workflow, now_ms) for workflow in workflows]
    table.show(HEADERS, rows, spare=("AGE", "TOOK", "NOT DONE"))


def row(workflow: WorkflowView, now_ms: int) -> tuple[object, ...]:
    return (
        workflow["id"],
        workflow["state"],
        f"{done_steps(workflow['counts'])}/{sum(workflow['counts'].values())}",
        open_steps(workflow["counts"]) or "-",
        render.span(now_ms - workflow["created_at"]),
        render.span((workflow["finished_at"] or now_ms) - workflow["created_at"]),
        workflow["name"],
    )


def done_steps(counts: dict[str, int]) -> int:
    return sum(counts.get(state, 0) for state in DONE)


def open_steps(counts: dict[str, int]) -> str:
    """`2 running, 1 failed`."""
    return ", ".join(f"{count} {state}" for state, count in counts.items() if state not in DONE)
