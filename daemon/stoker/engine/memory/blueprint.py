"""The plan of a workflow as its row keeps it: the flow as it was sent, and the steps that were made of it.

Owns the JSON of the column `workflows.flow`, and the names of widths. Invariant: a blueprint that an earlier version
stored is read with the defaults of what it did not know.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from stoker.core.workflow.definition import FlowLimits
from stoker.core.workflow.state import Step, Workflow


class Blueprint(Struct, frozen=True, kw_only=True):
    """The content of the column `workflows.flow`: the flow as it was sent, its parameters, its steps and their jobs.

    `inner_limits`: those of time of nested workflows, by what the names of their steps begin with. `reuse`: the earlier
    run whose ends are also taken over by steps that are added later.
    """

    flow: msgspec.Raw
    parameters: dict[str, str]
    steps: tuple[Step, ...]
    widths: dict[str, int] = {}
    limits: FlowLimits = FlowLimits()
    inner_limits: dict[str, FlowLimits] = {}
    reuse: int | None = None


_decode = msgspec.json.Decoder(Blueprint).decode


def blueprint(workflow: Workflow) -> Blueprint:
    """The content of the column `flow`."""
    return _decode(workflow.flow)


def steps_of(workflow: Workflow) -> tuple[Step, ...]:
    """The steps of a workflow as accepted, with later changes of its needs."""
    return blueprint(workflow).steps


def width_of(workflow_id: int, group: str) -> str:
    """The name under which the steps of one `each` share their width; a person cannot give it to a resource."""
    return f"w{workflow_id}/{group}"
