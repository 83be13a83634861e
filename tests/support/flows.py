"""Workflows in tests: sent, waited for, and read.

Owns the few reads that many tests make of a workflow and its chain of checkpoints, and the workflows of tortures. They
need only a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.facts import DEADLINE_S, until
from tests.support.work import shell

if TYPE_CHECKING:
    import random

    import stoker
    from tests.support.ledger import Ledger

ENDED = {"succeeded", "failed", "cancelled"}


def flow(steps: dict[str, dict[str, Any]], **head: Any) -> dict[str, Any]:
    return {"name": "flow", "steps": steps, **head}


def send(client: stoker.Client, sent: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The answer to a workflow that must be accepted."""
    answer: dict[str, Any] = client.call("workflow.submit", {"flow": sent, **options})
    return answer


def step(script: str, *needs: str | dict[str, Any], **options: Any) -> dict[str, Any]:
    """A step that is a shell script."""
    return {**shell(script), "needs": list(needs), **options}


def sent_flow(client: stoker.Client, steps: dict[str, dict[str, Any]], **head: Any) -> int:
    """The id of a workflow that must be accepted."""
    workflow: int = send(client, flow(steps, **head))["id"]
    return workflow


def workflow_view(client: stoker.Client, workflow: int) -> dict[str, Any]:
    view: dict[str, Any] = client.call("workflow.get", {"id": workflow})
    return view


def step_states(client: stoker.Client, workflow: int) -> dict[str, str]:
    """The state of every step, by name."""
    return {step["name"]: step["state"] for step in workflow_view(client, workflow)["steps"]}


def flow_end(client: stoker.Client, workflow: int, timeout_s: float = DEADLINE_S) -> str:
    """The state in which a workflow ends."""
    until(lambda: workflow_view(client, workflow)["state"] in ENDED, timeout_s, why=f"the end of workflow {workflow}")
    return str(workflow_view(client, workflow)["state"])


def settled(client: stoker.Client, workflow: int, *states: str, timeout_s: float = DEADLINE_S) -> str:
    """The state, once it is one of these; by default, once it has ended."""
    wanted = states or ENDED
    until(lambda: workflow_view(client, workflow)["state"] in wanted, timeout_s, why=f"workflow {workflow} {wanted}")
    return str(workflow_view(client, workflow)["state"])


def job_of(client: stoker.Client, workflow: int, name: str) -> int:
    """The job of a step."""
    (job,) = [step["job"] for step in workflow_view(client, workflow)["steps"] if step["name"] == name]
    return int(job)


def chain(client: stoker.Client, **of: int) -> list[dict[str, Any]]:
    """Every checkpoint of a workflow or a job, oldest first."""
    checkpoints: list[dict[str, Any]] = []
    before = None
    while True:
        asked = of if before is None else {**of, "before_seq": before}
        page = client.call("checkpoint.list", {**asked, "limit": 1000})
        checkpoints += page["checkpoints"]
        before = page["next"]
        if before is None:
            return checkpoints[::-1]


def context(client: stoker.Client, checkpoint: int) -> dict[str, Any]:
    """The whole workflow as it was at a checkpoint."""
    checkpoint_view: dict[str, Any] = client.call("checkpoint.get", {"id": checkpoint, "context": True})
    return checkpoint_view


def draw_flow(dice: random.Random, ledger: Ledger, key: str) -> dict[str, Any]:
    """The request for a workflow of a torture: no step waits for a person, whatever the faults do."""
    steps: dict[str, dict[str, Any]] = {}
    for number in range(dice.randrange(2, 5)):
        needs = [{"step": name, "on": dice.choice(["ok", "ok", "any", "failed"])} for name in steps]
        promises: dict[str, Any] = {"on_orphan": dice.choice(["fail", "requeue"]), "survive": dice.random() < 0.3}
        spec = ledger.spec(key, lasts_s=dice.choice([0, 0, 0.02, 0.1]), code=dice.choice([0, 0, 0, 9]), **promises)
        del spec["idempotency_key"]
        chosen = [need for need in needs if dice.random() < 0.6]
        steps[f"s{number}"] = {**spec, "grace_ms": 100, "max_orphanings": 1000, "needs": chosen}
    return {"flow": flow(steps), "idempotency_key": key}
