"""Large workflows, and clients that change them at random: the load of a torture of workflows.

Owns the shape of such workflows, the verbs and their frequencies, and the way to the end for a workflow in any state.
Invariant: all random choices come from the seed.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

from stoker.core.errors import NotAllowed
from tests.support.facts import until
from tests.support.flows import ENDED, chain, flow, send, workflow_view
from tests.support.restless import Restless

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.ledger import Ledger

RESOURCES = {"press": 2, "lathe": 3}
STRATEGIES = ["restart", "from_checkpoint", "skip", "fail", "adopt"]


def large_flow(dice: random.Random, ledger: Ledger, steps: int) -> dict[str, Any]:
    """A workflow of about `steps` steps with layers, widths, resources, checkpoints, fingerprints and every policy."""
    flow_steps: dict[str, dict[str, Any]] = {}
    size = 0
    while size < steps:
        needs = [
            {"step": name, "on": dice.choices(["ok", "any", "failed"], [12, 3, 1])[0]}
            for name in dice.sample(sorted(flow_steps), min(len(flow_steps), dice.randrange(3)))
        ]
        flow_steps[f"s{len(flow_steps)}"] = step = _step(dice, ledger, needs)
        if dice.random() < 0.2:
            step |= {"each": [str(number) for number in range(dice.randrange(2, 12))], "width": dice.randrange(1, 4)}
        size += len(step.get("each", "1"))
    return flow(flow_steps)


def _step(dice: random.Random, ledger: Ledger, needs: list[dict[str, str]]) -> dict[str, Any]:
    trouble = dice.choice(["-", "-", "-", "-", "saves", "once"])
    spec = ledger.spec(
        "",
        lasts_s=dice.choice([0, 0, 0, 0.02, 0.2]),
        code=dice.choice([0] * 14 + [9]),
        trouble=trouble,
        on_orphan=dice.choice(["requeue", "requeue", "requeue", "fail", "hold"]),
        survive=dice.random() < 0.3,
        max_orphanings=1000,
        grace_ms=100,
        max_attempts=dice.choice([1, 1, 2]),
        base_delay_ms=1,
    )
    del spec["idempotency_key"]
    taken = dice.choice([{}, {}, {"press": 1}, {"lathe": 2}, {"press": 2, "lathe": 1}])
    about = {"resume": dice.choice(STRATEGIES), "verify": dice.random() < 0.3, "critical": dice.random() < 0.7}
    return {**spec, "needs": needs, "resources": taken, **about}


class Meddler(Restless):
    """Sends random commands to these workflows until it is stopped, and counts refusals."""

    def __init__(self, daemon: DaemonProcess, workflows: list[int], seed: str) -> None:
        super().__init__(daemon, f"meddler {seed}")
        self._workflows = workflows

    def step(self, client: stoker.Client) -> None:
        self.ask(client, *self._draw(client, self.dice.choice(self._workflows)))
        self.enough.wait(self.dice.random() * 0.1)

    def _draw(self, client: stoker.Client, workflow: int) -> tuple[str, dict[str, Any]]:
        """Draw a command, mostly one that lets the workflow go on."""
        dice, steps = self.dice, workflow_view(client, workflow)["steps"]
        step = dice.choice(steps)
        kind = dice.choices(
            ["resume", "retry", "rollback", "pause", "skip", "cancel", "job", "resource", "need"],
            [8, 5, 4, 3, 2, 1, 4, 2, 1],
        )[0]
        match kind:
            case "resume":
                asked = dice.choice(
                    [
                        {},
                        {},
                        {"strategy": dice.choice(STRATEGIES)},
                        {"from": step["name"]},
                        {"verify": False},
                        {"explain": True},
                    ]
                )
            case "retry":
                asked = dice.choice(
                    [{}, {"again": "all"}, {"again": "incomplete"}, {"step": step["name"]}, {"max_attempts": 2}]
                )
            case "rollback":
                links = chain(client, workflow=workflow)
                asked = {"to": dice.choice(["latest", dice.choice(links)["id"]]), "redo": dice.random() < 0.2,
                         "resume": dice.random() < 0.7}  # fmt: skip
            case "skip":
                asked = {"step": step["name"]}
            case "job":
                verb = dice.choice(["cancel", "retry", "hold", "release", "skip", "restart"])
                return f"job.{verb}", {"id": step["job"]} | ({"yes": True} if verb == "restart" else {})
            case "resource":
                name = dice.choice(sorted(RESOURCES))
                return "resource.set", {"name": name, "capacity": dice.randrange(RESOURCES[name] + 2)}
            case "need":
                verb = dice.choice(["add_need", "remove_need"])
                return f"workflow.{verb}", {"id": workflow, "step": step["name"], "need": dice.choice(steps)["name"]}
            case _:
                asked = {}
        return f"workflow.{kind}", {"id": workflow, **asked}


def begun(client: stoker.Client, dice: random.Random, ledger: Ledger, *, flows: int, steps: int) -> list[int]:
    """Submit large workflows and make the resources that they need."""
    furnish(client)
    ids = []
    for number in range(flows):
        key, sent = f"k{number}", large_flow(dice, ledger, steps)
        ledger.send(key, sent)
        answer = send(client, sent, idempotency_key=key)
        ledger.answer(key, min(answer["steps"].values()))
        ids.append(answer["id"])
    return ids


def furnish(client: stoker.Client) -> None:
    for name, capacity in RESOURCES.items():
        client.call("resource.set", {"name": name, "capacity": capacity})


def to_its_end(client: stoker.Client, workflow: int, timeout_s: float) -> str:
    """Bring a workflow to its end: resume it if it is paused, and release or retry steps that wait for a person."""
    until(lambda: _pushed(client, workflow) in ENDED, timeout_s, why=f"the end of workflow {workflow}")
    return str(workflow_view(client, workflow)["state"])


def _pushed(client: stoker.Client, workflow: int) -> str:
    view = workflow_view(client, workflow)
    with contextlib.suppress(NotAllowed):  # it went on by itself since
        if view["state"] == "paused":
            client.call("workflow.resume", {"id": workflow})
        for step in view["steps"]:
            if step["state"] == "held":
                client.call("job.cancel", {"id": step["job"]})
    return str(view["state"])
