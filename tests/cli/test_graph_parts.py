"""The parts of a graph that a drawing shows: groups, nested workflows, layers, as large as needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stoker.cli import main
from stoker.cli.kit.drawings import DRAWINGS, Node
from stoker.cli.kit.graph_parts import MOST_NODES, parts_of

if TYPE_CHECKING:
    from pathlib import Path


def chain(count: int) -> list[Node]:
    return [Node(f"s{number}", [(f"s{number - 1}", "ok")] if number else [], "waiting") for number in range(count)]


def nested(count: int) -> list[Node]:
    """So many nested workflows of three steps, each behind the one before, with the step that stands for each."""
    steps = []
    for number in range(count):
        before = [(f"b{number - 1}", "ok")] if number else []
        steps += [
            Node(f"b{number}/make", before, "succeeded"),
            Node(f"b{number}/link", [(f"b{number}/make", "ok")], None),
        ]
        steps.append(Node(f"b{number}", [(f"b{number}/make", "ok"), (f"b{number}/link", "ok")], "running"))
    return steps


def test_parts_when_there_are_more_layers_than_boxes_then_some_share_one() -> None:
    steps = chain(1_000)

    parts = parts_of(steps)

    assert parts.by_layer
    assert len(parts.nodes) <= MOST_NODES
    assert parts.nodes[0].name == "layers 1 to 7"
    assert sorted(name for names in parts.members.values() for name in names) == sorted(node.name for node in steps)


def test_parts_when_nested_workflows_are_many_then_each_is_one_node() -> None:
    few, many = parts_of(nested(2)), parts_of(nested(100))

    assert [node.name for node in few.nodes] == ["b0/make", "b0/link", "b0", "b1/make", "b1/link", "b1"]
    assert not many.by_layer
    assert [node.label for node in many.nodes[:2]] == ["b0 x3", "b1 x3"]
    assert many.nodes[1].needs == [("b0", "ok")]
    assert many.members["b1"] == {"b1/make", "b1/link", "b1"}


@pytest.mark.parametrize("form", ["text", *DRAWINGS])
def test_graph_when_a_flow_has_a_thousand_layers_then_it_is_short(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = {node.name: {"command": "true", "needs": [need for need, _ in node.needs]} for node in chain(1_000)}
    (tmp_path / "flow.json").write_text(json.dumps({"name": "long", "steps": steps}))

    status = main.guarded(["workflow", "graph", str(tmp_path / "flow.json"), "--format", form])

    out, err = capfd.readouterr()
    assert status == 0
    assert err.startswith("stoker: too large to show each step or group: by layers; --all shows all\n")
    assert "layers 1 to 7" in out
    assert len(out) < 100_000
