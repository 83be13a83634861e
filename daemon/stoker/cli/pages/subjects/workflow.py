"""One workflow: its graph, its steps, and why it failed.

Owns what the graph and the table show of the steps; both show all of them, the table page by page, and a node of the
graph that stands for several steps leads to these in the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from stoker.cli import workflows
from stoker.cli.kit import outcome, render, step_groups
from stoker.cli.kit.drawings import Node, sign
from stoker.cli.kit.graph_parts import GraphParts, parts_of
from stoker.cli.kit.graph_shape import of_step
from stoker.cli.kit.naming import few, groups
from stoker.cli.kit.step_groups import StepGroup
from stoker.cli.pages.actions import offered
from stoker.cli.pages.graph_layout import BOX_HEIGHT, PlacedNode, laid_out
from stoker.cli.pages.page import Asked, Page
from stoker.cli.pages.subjects import workflow_actions
from stoker.core.workflow.step_names import steps_named
from stoker.rpc.async_client import AsyncClient

if TYPE_CHECKING:
    from stoker.core.views import AnalysisView, StepView, WorkflowDetails
    from stoker.core.wire_types import ChangeShape

ROWS: Final = 100
# Sizes in the drawing: a box is as wide as its longest line, which has at most so many characters.
CHARACTER, PADDING = 7.3, 20
MOST_CHARACTERS, FEWEST_CHARACTERS = 26, 12
MOST_CAUSES = 8


async def read(client: AsyncClient, asked: Asked) -> Mapping[str, Any]:
    workflow: Any = await client.call("workflow.get", id=asked.number("workflow"), analyse=True)
    shown = await asyncio.to_thread(_shown, workflow, asked)  # there may be thousands of steps
    blocked = step_groups.blocked_step(workflow)
    why = None if blocked is None else await client.call("job.why", id=blocked["job"])
    return {
        "workflow": workflow,
        "blocked": blocked,
        "why": why,
        "labels": " ".join(f"{name}={value}" for name, value in workflow["labels"].items()),
        "done": workflows.done_steps(workflow["counts"]),
        "stale": [outcome.stale(one) for one in workflow["stale"]],
        "analysis": _analysis(workflow["analysis"]),
        "settled": workflow["finished_at"] is not None and (workflow["state"] != "failed" or bool(workflow["archive"])),
        **shown,
    }


def _shown(workflow: WorkflowDetails, asked: Asked) -> dict[str, Any]:
    """The drawing, and a page of the steps that were asked for."""
    parts = parts_of([of_step(step) for step in workflow["steps"]])
    chosen = _members(parts, workflow, asked.text("part"))
    state = asked.text("state")
    steps = [
        step
        for step in workflow["steps"]
        if (chosen is None or step["name"] in chosen) and (state is None or step["state"] == state)
    ]
    every = bool(chosen is not None or state is not None or asked.text("each")) or len(steps) <= ROWS
    rows = step_groups.as_shown(steps, every=every)
    first = (asked.optional_number("from") or 1) - 1
    return {
        "graph": _graph(parts, workflow["steps"], asked),
        "rows": [_row(row, asked) for row in rows[first : first + ROWS]],
        "grouped": len(rows) < len(steps),
        "total": len(rows),
        "first": first + 1,
        "earlier": max(1, first + 1 - ROWS) if first else None,
        "later": first + ROWS + 1 if first + ROWS < len(rows) else None,
        "part": asked.text("part") if chosen is not None else None,
        "state": state,
        "actions": workflow_actions.useful(workflow),
    }


def _members(parts: GraphParts, workflow: WorkflowDetails, part: str | None) -> Collection[str] | None:
    """The steps of a part of the graph, or those that a name stands for; None for all."""
    if part is None or part in parts.members:
        return None if part is None else parts.members[part]
    return set(steps_named(part, (step["name"] for step in workflow["steps"]))) or None


def _row(row: StepGroup, asked: Asked) -> dict[str, Any]:
    """A step, or a group of steps, which leads to these."""
    name, job, state, why, tries, needs, remark = step_groups.cells(row)
    alone = len(row.steps) == 1
    return {
        "name": row.name,
        "shown": name,
        "job": job if alone else None,
        "link": None if alone else asked.link(part=row.name, state=None, **{"from": None}) + "#steps",
        "state": state,
        "why": None if why == "-" else why,
        "tries": tries,
        "needs": needs,
        "remark": remark,
        "actions": offered(workflow_actions.OF_STEP, row.state),
    }


def _analysis(analysis: AnalysisView | None) -> dict[str, Any] | None:
    if analysis is None:
        return None
    causes = [(cause.replace("_", " "), few(groups(names), MOST_CAUSES)) for cause, names in analysis["causes"].items()]
    critical = "a critical step failed" if analysis["critical"] else "no critical step failed"
    return {**analysis, "causes": [("failure", f"{analysis['scope']}; {critical}"), *causes]}


# --- the drawing --------------------------------------------------------------------------------------------


def _graph(parts: GraphParts, steps: Sequence[StepView], asked: Asked) -> dict[str, Any]:
    """`boxes` and `edges` as the template draws them."""
    jobs = {step["name"]: step["job"] for step in steps}
    texts = {node.name: _lines(node) for node in parts.nodes}
    longest = max((len(line) for lines in texts.values() for line in lines), default=0)
    width = round(max(FEWEST_CHARACTERS, longest) * CHARACTER) + PADDING
    layout = laid_out(parts.nodes, width)

    def box(placed: PlacedNode) -> dict[str, Any]:
        node, (name, state) = placed.node, texts[placed.node.name]
        members = parts.members[node.name]
        (only,) = members if len(members) == 1 else (None,)
        link = asked.link(part=node.name, state=None, **{"from": None}) + "#steps"
        return {
            "id": f"node-{node.name.replace(' ', '-')}",
            "left": placed.left,
            "top": placed.top,
            "name": name,
            "state": state,
            "class": node.state,
            "title": ", ".join(filter(None, (f"{node.label}: {node.state_text}", node.if_text))),
            "link": link if only is None else f"/jobs/{jobs[only]}",
        }

    return {
        "boxes": [box(placed) for placed in layout.nodes],
        "edges": layout.edges,
        "width": layout.width,
        "height": layout.height,
        "box_width": width,
        "box_height": BOX_HEIGHT,
        "by_layer": parts.by_layer,
    }


def _lines(node: Node) -> tuple[str, str]:
    """The two lines in a box."""
    name, state = render.visible(node.label), render.visible(f"{sign(node.state)} {node.state_text}")
    return render.cut(name, MOST_CHARACTERS), render.cut(state, MOST_CHARACTERS)


def concerns(change: ChangeShape, asked: Asked) -> bool:
    """Jobs may be steps of it: only the daemon knows."""
    return change["kind"] == "job" or (
        change["kind"] == "workflow" and change["subject"] == str(asked.number("workflow"))
    )


PAGES = (Page("/workflows/{workflow}", "workflow.html", read, concerns, every_s=15),)
