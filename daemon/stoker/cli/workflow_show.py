"""`stoker workflow show`: a workflow, how far it has come, its steps, and why it failed.

Owns which facts are shown and how many rows: groups of steps stand for their steps, and of very many rows those that
need a look. An analysis comes first, as it is what the reader wants to know.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stoker.cli.history import TAIL_LINES, log_tail, print_log_tail
from stoker.cli.kit import outcome, render, step_groups, table
from stoker.cli.kit.addresses import StepAddress, address
from stoker.cli.kit.connection import connect
from stoker.cli.kit.naming import few, groups, workflow_id
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.kit.selection import STATES
from stoker.core.units import counted
from stoker.core.workflow.step_names import found_steps
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stoker.cli.kit.step_groups import StepGroup
    from stoker.core.views import AnalysisView, StepView, WorkflowDetails

MOST_LIMITS = 8  # nested workflows whose limits are shown
HEADERS = ("STEP", "JOB", "STATE", "WHY", "TRY", "NEEDS", "REMARK")


@Command(
    words="ID",
    options=(
        Option("--steps", None, "every step by itself, however many there are"),
        Option("--state", "STATE,…", "only steps in these states", choices=STATES, listed=True),
        Option("--analyse", None, "first why it failed, and the next command"),
        Option("--logs", None, f"also the last {TAIL_LINES} lines of the log of each step that is shown"),
        JSON,
    ),
    examples=(
        "stoker workflow show 7",
        "stoker workflow show 7 --state failed,held --logs",
        "stoker workflow show 7/compile                        # the steps of one group",
        "stoker workflow show 7 --analyse",
    ),
)
def show(given: Given) -> None:
    """Groups of steps have one row each. Of very many rows those are shown that need a look."""
    word = given["words"][0]
    asked = address(word) if "/" in word else workflow_id(word)
    show_steps(given, *(asked if isinstance(asked, StepAddress) else (asked,)))


def show_steps(given: Given, ident: int, name: str | None = None) -> None:
    """A workflow with its steps, or with those that `name` stands for. Raises StepNotFound."""
    states, analysed = given.get("state"), given.get("analyse")
    with connect(given) as client:
        workflow = client.call("workflow.get", {"id": ident, **({"analyse": True} if analysed else {})})
        waits = _blocked(client, workflow)
        workflow["steps"] = chosen = _chosen(workflow, name, states)
        rows = step_groups.as_shown(chosen, every=bool(given.get("steps") or states or name))
        shown = rows if given.get("steps") else step_groups.most_urgent_rows(rows)
        logs = _logs(client, chosen if given["json"] else _of(shown)) if given["logs"] else {}
    if given["json"]:
        tails = {name: log.decode(errors="backslashreplace") for name, log in logs.items()}
        if given["logs"]:
            workflow["steps"] = [{**step, "log_tail": tails.get(step["name"], "")} for step in chosen]
        render.json_document(workflow)
        return
    if analysed:
        _print_analysis(workflow.get("analysis"))
        render.line()
    render.facts(_facts(workflow, waits))
    render.line()
    _print_steps(shown)
    if len(shown) < len(rows):
        render.note(f"not shown: {counted(len(rows) - len(shown), 'row')}; --steps shows all, --state STATE some")
    for step in chosen:
        if step["name"] in logs:
            print_log_tail(f"{step['name']} (stoker logs {step['job']}):", logs[step["name"]])


def _chosen(workflow: WorkflowDetails, asked: str | None, states: Collection[str] | None) -> list[StepView]:
    """The steps of the group that was named, in the states that were named. Raises StepNotFound."""
    names = {step["name"]: step for step in workflow["steps"]}
    steps = names.values() if asked is None else [names[name] for name in found_steps(workflow["id"], asked, names)]
    return [step for step in steps if states is None or step["state"] in states]


def _of(rows: Sequence[StepGroup]) -> list[StepView]:
    """The steps of these rows: of a group those that went wrong, or else all."""
    return [
        step
        for row in rows
        for step in [one for one in row.steps if one["state"] in step_groups.BAD][: step_groups.MOST_ROWS]
        or row.steps[: step_groups.MOST_ROWS]
    ]


def _logs(client: Client, steps: Sequence[StepView]) -> dict[str, bytes]:
    """The last lines of the log of each step that ran."""
    return {
        step["name"]: log_tail(client, {"id": step["job"], "attempts": step["attempts"]})
        for step in steps
        if step["attempts"]
    }


def _blocked(client: Client, workflow: WorkflowDetails) -> str | None:
    """`link: queue 'bulk' is paused (stoker queue resume bulk)`, if nothing of a running workflow runs."""
    step = step_groups.blocked_step(workflow)
    if step is None:
        return None
    answer = client.call("job.why", {"id": step["job"]})
    hint = f" ({render.naming_socket(answer['hint'])})" if answer["hint"] else ""
    return f"{step['name']}: {answer['message']}{hint}"


def _facts(workflow: WorkflowDetails, waits: str | None) -> list[tuple[str, object]]:
    counts = workflow["counts"]
    now_ms = time.time_ns() // 1_000_000
    return [
        ("workflow", workflow["id"]),
        ("name", workflow["name"]),
        ("state", workflow["state"]),
        ("progress", step_groups.progress_text(workflow, now_ms, drawn=render.on_terminal())),
        ("steps", ", ".join(f"{count} {state}" for state, count in counts.items())),
        ("waits", waits),
        ("created", render.when(workflow["created_at"])),
        ("finished", workflow["finished_at"] and render.when(workflow["finished_at"])),
        ("waits for", ", ".join(f"workflow {ident}" for ident in workflow["waits_for"]) or None),
        ("labels", ", ".join(f"{key}={value}" for key, value in workflow["labels"].items()) or None),
        *_limits(workflow),
        ("trace", workflow["trace_id"]),
        ("archive", workflow.get("archive")),
        *(("stale", outcome.stale(one)) for one in workflow.get("stale") or ()),
    ]


def _limits(workflow: WorkflowDetails) -> list[tuple[str, object]]:
    """Its limits with the time that is left, and the one that ended it."""
    if workflow["aborted_by"] is not None:
        return [("ended by", f"its {workflow['aborted_by']}")]
    shown = [("", workflow["times_out_at"], workflow["deadline"])]
    shown += [
        (f"{one['step']} ", one["times_out_at"], one["deadline"]) for one in workflow["inner_limits"][:MOST_LIMITS]
    ]
    limits = [
        (f"{of}{name}", at) for of, *both in shown for name, at in zip(("timeout", "deadline"), both, strict=True)
    ]
    return [(name, render.when(at)) for name, at in limits if at is not None and not workflow["finished_at"]]


def _print_steps(rows: Sequence[StepGroup]) -> None:
    headers: Sequence[str] = HEADERS
    cells = [step_groups.cells(row) for row in rows]
    if not any(row[-1] for row in cells):
        headers, cells = HEADERS[:-1], [row[:-1] for row in cells]
    table.show(headers, cells, spare=("TRY", "NEEDS"), whole=True)


def _print_analysis(analysis: AnalysisView | None) -> None:
    if not analysis:
        render.note("nothing to analyse: no step failed")
        return
    render.line(render.visible(analysis["message"]))
    critical = "a critical step failed" if analysis["critical"] else "no critical step failed"
    causes = [(cause.replace("_", " "), few(groups(names))) for cause, names in analysis["causes"].items()]
    render.facts([("failure", f"{analysis['scope']}; {critical}"), *causes])
    render.line(f"next: {render.visible(render.naming_socket(analysis['next']))}")
