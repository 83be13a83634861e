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
from stoker.cli.kit.selection import matching
from stoker.core.errors import StokerError, UsageError
from stoker.core.workflow.step_names import group_of
from stoker.rpc.client import Client

PATIENCE_S = 1.0
MOST_IDS = 100
MOST_WORDS = 500  # of these a shell makes a list at once
Query = Callable[[Client, Sequence[str]], list[str]]
PLAIN = re.compile(r"[A-Za-z0-9_.:@%+=,/-][A-Za-z0-9_.:@%+=,/#\[\]-]*")  # the script of bash quotes brackets
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


def words_of_kind(socket: str | None, kind: str, line: Sequence[str], begun: str) -> list[str]:
    """The words of a kind that begin so; `line`: the words typed before."""
    query = _addresses(begun) if kind.startswith("jobs") and "/" in begun else KINDS.get(kind) or _jobs_for(kind)
    if query is None:
        return []
    try:
        with Client(socket, timeout_s=PATIENCE_S) as client:
            words = [word for word in query(client, line) if word.startswith(begun) and PLAIN.fullmatch(word)]
    except (StokerError, OSError):
        return []
    return words if len(words) <= MOST_WORDS else [word for word in words if "[" not in word][:MOST_WORDS]


def _addresses(begun: str) -> Query:
    """`7/link`, once `7/` is typed."""
    workflow = begun.partition("/")[0]
    return lambda client, _line: [f"{workflow}/{step}" for step in _steps(client, [workflow])]


def _jobs(client: Client, _line: Sequence[str]) -> list[str]:
    return [str(job["id"]) for job in client.list(limit=MOST_IDS)["jobs"]]


def _jobs_for(kind: str) -> Query | None:
    """Only the jobs that the command can change: `jobs-cancel`."""
    states = APPLIES_TO.get(kind.removeprefix("jobs-"))
    if states is None:
        return None
    return lambda client, _line: [str(job["id"]) for job in matching(client, states, {}, MOST_IDS)]


def _workflows(client: Client, _line: Sequence[str]) -> list[str]:
    page = client.call("workflow.list", {"limit": MOST_IDS}, again=True)
    return [str(workflow["id"]) for workflow in page["workflows"]]


def _steps(client: Client, line: Sequence[str]) -> list[str]:
    """The steps of the workflow that was typed before, and the groups of these."""
    names = [step["name"] for step in client.call("workflow.steps", {"id": next(_ids(line))}, again=True)["steps"]]
    return list(dict.fromkeys([*(group_of(name) for name in names), *names]))


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
        *(f"job:{job['id']}" for job in matching(client, APPLIES_TO["cancel"], {}, MOST_IDS)),
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


KINDS: dict[str, Query] = {
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
