"""`stoker workflow wait`, and the `--wait` of other commands.

Decides what counts as an end (also a workflow that only a person can continue), and with which exit status. It never
polls: it reads the workflow again when the log of changes has a change that may have ended it.
"""

from __future__ import annotations

import signal
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, values
from stoker.cli.kit.connection import patiently
from stoker.cli.kit.naming import few, workflow_id
from stoker.cli.kit.outcome import FINAL
from stoker.cli.kit.parser import JSON, Command, Given
from stoker.cli.kit.progress import QUIET
from stoker.cli.workflow_progress import WorkflowProgress, WorkflowStandings
from stoker.core.errors import DaemonUnreachable, WaitTimeout
from stoker.rpc.client import Client, own_token

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from stoker.core.views import WorkflowDetails
    from stoker.core.wire_types import ChangeShape

ENDED = ("succeeded", "failed", "cancelled")
# For each state other than success: its words, and the next command.
REMARKS = {
    "failed": ("failed", "show {} --analyse"),
    "cancelled": ("cancelled", "show {}"),
    "paused": ("is paused", "resume {}"),
}
BAD = ("held", "failed", "expired", "cancelled")


@Command(
    words="ID…",
    options=(
        values.duration_option("--timeout", "stop waiting after this time (exit 75); the workflows go on"),
        QUIET,
        JSON,
    ),
    examples=(
        "stoker workflow wait 7 && deploy",
        "stoker workflow wait 7 --timeout 1h",
        "stoker workflow ls --state running --ids | xargs stoker workflow wait",
    ),
)
def wait(given: Given) -> int:
    """Exit status 0 if all of them succeeded, else 1. Returns early if only a person can continue a workflow."""
    until = None if given["timeout_ms"] is None else time.monotonic() + given["timeout_ms"] / 1_000
    idents = [workflow_id(word) for word in given["words"]]
    try:
        return max(until_ended(given, ident, until) for ident in idents)
    except WaitTimeout as error:
        error.message = f"{error.message} within {given['typed']['timeout_ms'][-1][1]}"
        raise


def until_ended(given: Given, ident: int, until: float | None = None) -> int:
    """Wait until a workflow has ended, or only a person can continue it. Prints how it ended; 0 if it succeeded.

    `until`: monotonic seconds. Raises WaitTimeout.
    """
    try:
        progress = WorkflowProgress(given)
        workflow = patiently(given, lambda client: wait_until_still(client, ident, until, progress))
    except KeyboardInterrupt:
        render.note(f"workflow {ident} goes on")
        render.hint(f"stoker workflow cancel {ident} ends it")
        raise
    if given["json"]:
        render.json_document({key: workflow[key] for key in ("id", "name", "state", "counts")})
    if workflow["state"] == "succeeded":
        return 0
    bad = [f"{step['name']} ({step['state']})" for step in workflow["steps"] if step["state"] in BAD]
    named = f": {few(bad, 5)}" if bad else ""
    remark, hint = REMARKS.get(workflow["state"], ("waits for a person", "show {}"))
    render.note(f"workflow {ident} {remark}{named}")
    render.hint(f"stoker workflow {hint.format(ident)}")
    return 1


def wait_until_still(
    client: Client, ident: int, until: float | None = None, progress: WorkflowProgress | None = None
) -> WorkflowDetails:
    # Read the cursor first, so that no change is missed between reading the workflow and following it.
    cursor = client.status()["last_seq"]
    workflow = client.workflow(ident)
    if _is_still(workflow):
        return workflow
    standings = WorkflowStandings(workflow)
    with _Alarm(ident, until), progress or nullcontext():
        if progress is not None:
            progress.show(standings)
        token = own_token() if until is None else {}  # a wait with a limit ends by itself
        for notification in client.stream("watch", {"after": cursor, "workflow": ident, **token}):
            changes = notification["changes"]
            if any(_may_end(change, workflow, standings.states.keys()) for change in changes):
                workflow = client.workflow(ident)
                if _is_still(workflow):
                    return workflow
                standings = WorkflowStandings(workflow)
            else:
                for change in changes:
                    standings.take(change)
            if progress is not None:
                progress.show(standings)
    raise DaemonUnreachable("the daemon ended the stream of changes")


class _Alarm:
    """Raises WaitTimeout at `until`, also while a stream is silent for days."""

    def __init__(self, ident: int, until: float | None) -> None:
        self._timeout = WaitTimeout(f"workflow {ident} has not ended", hint=f"stoker workflow show {ident}")
        self._until = until

    def __enter__(self) -> None:
        if self._until is None:
            return
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise self._timeout
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, left_s)

    def __exit__(self, *_: object) -> None:
        if self._until is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, *_: object) -> None:
        raise self._timeout


def _may_end(change: ChangeShape, workflow: WorkflowDetails, jobs: Collection[int]) -> bool:
    """Whether the workflow may be still after this change: it ended, or its remaining steps are held."""
    if change["kind"] == "workflow":
        return bool(change["subject"] == str(workflow["id"]))
    if change["job"] not in jobs:
        return change["kind"] == "job"  # a step that was added since the workflow was read
    stands = workflow["state"] == "paused" or bool(workflow["counts"].get("held"))
    return change["to"] == "held" or (stands and change["to"] != "running")


def _is_still(workflow: Mapping[str, Any]) -> bool:
    """Whether only a person can change it: it ended, is paused, or all open steps are held or wait for held ones."""
    if workflow["state"] in ENDED:
        return True
    states = {step["name"]: step["state"] for step in workflow["steps"]}
    if workflow["state"] == "paused":
        return "running" not in states.values()
    return "held" in states.values() and not any(_moves(step, states) for step in workflow["steps"])


def _moves(step: Mapping[str, Any], states: Mapping[str, str]) -> bool:
    """Whether the step runs or will run by itself, also one that waits only for a time, as between two attempts."""
    if step["state"] == "waiting":
        return all(states[need["step"]] in FINAL for need in step["needs"])
    return step["state"] in ("running", "queued")
