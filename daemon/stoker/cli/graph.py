"""`stoker workflow graph`: the steps of a workflow or of a flow file and their needs, as text or as a drawing.

Owns where the steps come from, and the choice of the format (kit/drawings.py has the dialects, kit/graph_shape.py the
layers). A flow file is drawn without a daemon.
"""

from __future__ import annotations

from typing import Any

from stoker.cli import flowfile
from stoker.cli.kit import graph_edges, render
from stoker.cli.kit.connection import call
from stoker.cli.kit.drawings import DRAWINGS, Node, sign
from stoker.cli.kit.graph_parts import parts_of
from stoker.cli.kit.graph_shape import URGENT, Layers, folded, layered, of_step
from stoker.cli.kit.naming import edges, few, need_text, workflow_id
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.core.errors import FlowInvalid, UsageError
from stoker.core.units import counted

MOST_IN_A_LAYER = 20
MOST_LINES = 300
FEW_NEEDS = 5
MERMAID_EDGES = 500  # Mermaid's own default of `maxEdges`, which a drawing cannot raise


@Command(
    words="ID|FILE",
    options=(
        Option("--format", "NAME", "format of the drawing (default: text)", choices=("text", *DRAWINGS)),
        Option("--all", None, "show every step: fold no groups"),
        Option("-o --output", "FILE", "write to this file instead of stdout"),
        JSON,
    ),
    examples=(
        "stoker workflow graph 7",
        "stoker workflow graph build.toml                     # needs no daemon",
        "stoker workflow graph 7 --format svg -o build.svg",
        "stoker workflow graph 7 --format dot | dot -Tpng > build.png",
    ),
)
def graph(given: Given) -> None:
    (word,) = given["words"]
    if given["json"] and given["format"]:
        raise UsageError("--json and --format exclude each other")
    title, steps = _of_workflow(given, word) if _is_id(word) else _of_file(word)
    form = "json" if given["json"] else given["format"] or "text"
    nodes = steps if given["all"] else _folded(steps, form)
    layers = layered(nodes)
    if form == "mermaid" and sum(len(node.needs) for node in nodes) > MERMAID_EDGES:
        render.note(f"Mermaid draws at most {MERMAID_EDGES} edges unless its setting maxEdges is raised")
    if given["output"] is None and form == "json":
        render.json_document(_as_json(title, layers))
    elif given["output"] is None and form == "text":
        for line, colour in text_lines(title, layers, unfolded=given["all"]):
            render.line(render.paint(render.visible(line), colour))
    else:
        with render.Sink(given["output"]) as write:
            write(_render(form, title, layers, unfolded=given["all"]).encode())


def _folded(steps: list[Node], form: str) -> list[Node]:
    """Groups as one node each; where that is more than a person can follow, nested workflows, else layers."""
    groups = folded(steps)
    if form == "json" or (form == "text" and _lines(groups) <= MOST_LINES):  # programs can follow anything
        return groups
    parts = parts_of(steps)
    if parts.by_layer:
        render.note("too large to show each step or group: by layers; --all shows all")
    return parts.nodes


def _lines(nodes: list[Node]) -> int:
    """Of text, in which long layers are shortened."""
    return sum(min(len(layer), MOST_IN_A_LAYER) for layer in layered(nodes))


def _render(form: str, title: str, layers: Layers, *, unfolded: bool) -> str:
    match form:
        case "json":
            return render.json_text(_as_json(title, layers)) + "\n"
        case "text":
            return "".join(f"{render.visible(line)}\n" for line, _ in text_lines(title, layers, unfolded=unfolded))
    return DRAWINGS[form](title, layers)


def _is_id(word: str) -> bool:
    return word.removeprefix("#").removeprefix("w").isdecimal()


def _of_workflow(given: Given, word: str) -> tuple[str, list[Node]]:
    workflow = call(given, "workflow.get", {"id": workflow_id(word)})
    nodes = [of_step(step) for step in workflow["steps"]]
    return f"{workflow['name']} (workflow {workflow['id']}, {workflow['state']})", nodes


def _of_file(source: str) -> tuple[str, list[Node]]:
    """The steps of a flow file. Raises FlowInvalid with every mistake that can be found without a daemon."""
    from stoker.rpc.flows import planned  # noqa: PLC0415 - msgspec, only for files

    try:
        flow, files = flowfile.read(source)
    except UsageError as error:
        error.hint = "name the id of a workflow, or a flow file"
        raise
    try:
        plan = planned(flow)
    except FlowInvalid as error:
        raise flowfile.located(source, flow, error, files=files) from None
    nodes = [
        Node(
            step.name,
            edges({"needs": [{"step": need.step, "on": need.on.value} for need in step.needs], "when": step.when}),
            None,
            critical=step.critical,
            conditions=step.conditions,
            run_if=step.text_of_if,
            handler=step.handler,
        )
        for step in plan.steps
    ]
    return str(flow["name"]), nodes


def _as_json(title: str, layers: Layers) -> dict[str, Any]:
    """`layers` has the names, `steps` what each of them stands for and needs."""
    steps = [
        {
            "name": node.name,
            "count": node.count,
            "state": node.state,
            "states": node.states,
            "critical": node.critical,
            "handler": node.handler,
            "if": node.run_if,
            "needs": [{"step": need, "on": on} for need, on in node.needs],
            "conditions_open": node.conditions,
        }
        for layer in layers
        for node in layer
    ]
    return {"title": title, "layers": [[node.name for node in layer] for layer in layers], "steps": steps}


# --- text ---------------------------------------------------------------------------------------------------


def text_lines(title: str, layers: Layers, *, unfolded: bool) -> list[tuple[str, str]]:
    """Lines and their colours: one line per node, with its edges; long layers and lists of needs are shortened."""
    total = sum(node.count for layer in layers for node in layer)
    lines = [(f"{title}: {counted(total, 'step')}, {counted(len(layers), 'layer')}", render.BOLD)]
    shown = [_shown(layer, unfolded=unfolded) for layer in layers]
    width = max((len(node.label) for layer, _ in shown for node in layer), default=0)
    state_width = max((len(node.state_text) for layer, _ in shown for node in layer), default=0)
    number_width = len(str(len(layers)))
    visible = [node for nodes, _ in shown for node in nodes]
    signs = [sign(node.state) for node in visible]
    columns = iter(graph_edges.edge_columns(visible, signs) or signs)
    for number, (nodes, more) in enumerate(shown, 1):
        for place, node in enumerate(nodes):
            margin = str(number).rjust(number_width) if place == 0 else " " * number_width
            needs = [need_text(need, condition) for need, condition in node.needs]
            arrow = f"← {few(needs, len(needs) if unfolded else FEW_NEEDS)}" if needs else ""
            line = f"{margin}  {next(columns)} {node.label.ljust(width)}  {node.state_text.ljust(state_width)}"
            line += "".join(f"  {text}" for text in (arrow, node.if_text) if text)
            lines.append((line.rstrip(), render.STATE_COLOURS.get(node.state or "", "")))
        if more:
            lines.append((f"{' ' * number_width}  … {more}", render.DIM))
    return lines


def _shown(layer: list[Node], *, unfolded: bool) -> tuple[list[Node], str]:
    """The nodes of a layer that get a line, and a summary of the others."""
    if unfolded or len(layer) <= MOST_IN_A_LAYER:
        return layer, ""
    urgent = sorted(layer, key=lambda node: URGENT.index(node.state) if node.state else 0)
    kept = {node.name for node in urgent[:MOST_IN_A_LAYER]}
    states: dict[str, int] = {}
    for node in urgent[MOST_IN_A_LAYER:]:
        states[node.state or "steps"] = states.get(node.state or "steps", 0) + 1
    more = f"{len(layer) - MOST_IN_A_LAYER} more"
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if state != "steps")
    return [node for node in layer if node.name in kept], f"{more}: {counts}" if counts else more
