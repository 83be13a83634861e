"""What completions offer beside commands and options: ids, queues, states, steps, strategies, resources.

Owns which kind of word stands where, and where the words come from. Refuses to fail or to wait: where no daemon answers
at once, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stoker.cli.control import APPLIES_TO
from stoker.cli.kit.parser import Command, Option
from stoker.cli.kit.selection import STATES, matching
from stoker.cli.kit.steps import workflow_id
from stoker.core.errors import StokerError, UsageError
from stoker.rpc.client import Client

PATIENCE_S = 1.0
MOST_IDS = 100
WORKFLOW_STATES = ("running", "paused", "rolling_back", "succeeded", "failed", "cancelled")
# Options by the kind of their values; those with a closed list of choices say so themselves.
OF_OPTIONS = {
    "--queue": "queues",
    "--state": "states",
    "--after": "jobs",
    "--job": "jobs",
    "--resource": "resources",
    "--from": "steps",
    "--step": "steps",
    "--strategy": "strategies",
}


def of_option(name: str, option: Option) -> str:
    """The kind of the values of an option of the command `name`; empty where nothing is known of them."""
    if option.choices or not option.metavar:
        return ""
    kind = OF_OPTIONS.get(option.names[-1], "")
    return f"workflow-{kind}" if kind == "states" and name.startswith("workflow") else kind


def of_words(name: str, asked: Command) -> str:
    """The kind of the words of a command."""
    group, first = name.split(maxsplit=1)[0], asked.words.strip("[]")
    if group in ("queue", "resource"):
        return f"{group}s" if first else ""
    if first == "WORKFLOW" or (group == "workflow" and first.startswith("ID")):
        return "workflow-words" if "STEP" in first else "workflows"
    if group == "checkpoint" or not first.startswith("ID"):
        return ""
    return f"jobs-{name}" if name in APPLIES_TO else "jobs"


def offered(socket: str | None, kind: str, line: Sequence[str]) -> list[str]:
    """The words of a kind; `line`: what was typed before."""
    look = KINDS.get(kind) or (_jobs_for(kind.removeprefix("jobs-")) if kind.startswith("jobs-") else None)
    if look is None:
        return []
    try:
        with Client(socket, timeout_s=PATIENCE_S) as client:
            return look(client, line)
    except (StokerError, OSError):
        return []


def _jobs(client: Client, _line: Sequence[str]) -> list[str]:
    return [str(job["id"]) for job in client.list(limit=MOST_IDS)["jobs"]]


def _jobs_for(verb: str) -> Callable[[Client, Sequence[str]], list[str]]:
    """Only those that the verb can change."""
    states = APPLIES_TO.get(verb, STATES)
    return lambda client, _line: [str(job["id"]) for job in matching(client, states, {}, MOST_IDS)]


def _workflows(client: Client, _line: Sequence[str]) -> list[str]:
    found = client.call("workflow.list", {"limit": MOST_IDS}, again=True)["workflows"]
    return [str(workflow["id"]) for workflow in found]


def _steps(client: Client, line: Sequence[str]) -> list[str]:
    """Of the workflow that was typed before."""
    return [step["name"] for step in client.workflow(next(_ids(line)))["steps"]]


def _workflow_words(client: Client, line: Sequence[str]) -> list[str]:
    """A workflow, and behind it its steps."""
    return _steps(client, line) if any(_ids(line)) else _workflows(client, line)


def _ids(line: Sequence[str]) -> Any:
    for word in line:
        try:
            yield workflow_id(word)
        except UsageError:
            continue


KINDS: dict[str, Callable[[Client, Sequence[str]], list[str]]] = {
    "jobs": _jobs,
    "workflows": _workflows,
    "workflow-words": _workflow_words,
    "steps": _steps,
    "queues": lambda client, _line: [queue["name"] for queue in client.call("queue.list", {})["queues"]],
    "resources": lambda client, _line: [one["name"] for one in client.call("resource.list", {})["resources"]],
    "strategies": lambda client, _line: list(client.status()["strategies"]),
}
# Known without a daemon: they stand in the scripts.
CLOSED = {"states": STATES, "workflow-states": WORKFLOW_STATES}
