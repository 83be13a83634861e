"""The words that completions offer besides commands and options: ids and names that the daemon knows.

Owns which kind of word an option or argument takes, and which request lists the words. If no daemon answers at once,
nothing is offered.
Invariant: every word is plain text for a shell. The shell expands what a completion offers, and the daemon that answers
may be another user's: a word such as `$(command)` would be carried out at the tab key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from stoker.cli.control import APPLIES_TO
from stoker.cli.kit.naming import workflow_id
from stoker.cli.kit.parser import Command, Option
from stoker.cli.kit.selection import STATES, matching
from stoker.core.errors import StokerError, UsageError
from stoker.rpc.client import Client

PATIENCE_S = 1.0
MOST_IDS = 100
PLAIN = re.compile(r"[A-Za-z0-9_.:@%+=,/-]+")
# The kind of an option's values; options with `choices` need no kind.
OPTION_KINDS = {
    "--queue": "queues",
    "--after": "jobs",
    "--job": "jobs",
    "--workflow": "workflows",
    "--resource": "resources",
    "--from": "steps",
    "--step": "steps",
    "--strategy": "strategies",
    "--rate-key": "rates",
    "--wait-for": "conditions",
    "--wait-any": "conditions",
}


def option_kind(option: Option) -> str:
    """The kind of an option's values; empty if there is none."""
    return OPTION_KINDS.get(option.names[-1], "") if option.metavar and not option.choices else ""


def argument_kind(name: str, command: Command) -> str:
    group, first = name.split(maxsplit=1)[0], command.words.strip("[]")
    if group in ("event", "queue", "rate", "resource", "schedule"):
        return f"{group}s" if first.startswith(("NAME", "KEY")) and name != "schedule add" else ""
    if first == "WORKFLOW" or (group == "workflow" and first.startswith("ID")):
        return "workflow-words" if "STEP" in first else "workflows"
    if group == "checkpoint" or not first.startswith("ID"):
        return ""
    return f"jobs-{name}" if name in APPLIES_TO else "jobs"


def words_of_kind(socket: str | None, kind: str, line: Sequence[str]) -> list[str]:
    """The words of a kind; `line`: the words typed before."""
    query = KINDS.get(kind) or (_jobs_for(kind.removeprefix("jobs-")) if kind.startswith("jobs-") else None)
    if query is None:
        return []
    try:
        with Client(socket, timeout_s=PATIENCE_S) as client:
            return [word for word in query(client, line) if PLAIN.fullmatch(word)]
    except (StokerError, OSError):
        return []


def _jobs(client: Client, _line: Sequence[str]) -> list[str]:
    return [str(job["id"]) for job in client.list(limit=MOST_IDS)["jobs"]]


def _jobs_for(verb: str) -> Callable[[Client, Sequence[str]], list[str]]:
    """Only the jobs that the command can change."""
    states = APPLIES_TO.get(verb, STATES)
    return lambda client, _line: [str(job["id"]) for job in matching(client, states, {}, MOST_IDS)]


def _workflows(client: Client, _line: Sequence[str]) -> list[str]:
    page = client.call("workflow.list", {"limit": MOST_IDS}, again=True)
    return [str(workflow["id"]) for workflow in page["workflows"]]


def _steps(client: Client, line: Sequence[str]) -> list[str]:
    """The steps of the workflow that was typed before."""
    return [step["name"] for step in client.workflow(next(_ids(line)))["steps"]]


def _workflow_words(client: Client, line: Sequence[str]) -> list[str]:
    """Workflows first, then the steps of the one that was typed."""
    return _steps(client, line) if any(_ids(line)) else _workflows(client, line)


def _events(client: Client, _line: Sequence[str]) -> list[str]:
    """The names that jobs wait for, and those of the newest events."""
    waiting = client.list(states=["waiting"], limit=MOST_IDS)["jobs"]
    awaited = [
        text.removeprefix("event:") for job in waiting for text in job["conditions_open"] if text[:6] == "event:"
    ]
    events = client.call("event.list", {"limit": MOST_IDS}, again=True)["events"]
    return list(dict.fromkeys([*awaited, *(event["name"] for event in events)]))


def _conditions(client: Client, line: Sequence[str]) -> list[str]:
    """Events, jobs and workflows that have not ended, and the conditions about the host."""
    page = client.call("workflow.list", {"states": ["running", "paused"], "limit": MOST_IDS}, again=True)
    return [
        *(f"event:{name}" for name in _events(client, line)),
        *(f"job:{job}" for job in _jobs_for("cancel")(client, line)),
        *(f"workflow:{workflow['id']}" for workflow in page["workflows"]),
        "idle",
        "charging",
    ]


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
    "events": _events,
    "conditions": _conditions,
    "queues": lambda client, _line: [queue["name"] for queue in client.call("queue.list", {})["queues"]],
    "resources": lambda client, _line: [one["name"] for one in client.call("resource.list", {})["resources"]],
    "rates": lambda client, _line: [one["key"] for one in client.call("rate.list", {})["rates"]],
    "schedules": lambda client, _line: [one["name"] for one in client.call("schedule.list", {})["schedules"]],
    "hooks": lambda client, _line: [one["name"] for one in client.call("hook.list", {})["hooks"]],
    "strategies": lambda client, _line: list(client.status()["strategies"]),
}
