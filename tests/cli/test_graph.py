"""The graph of a workflow, drawn without a daemon: layers, folding, and names that look like syntax."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from stoker.cli import graph, main
from stoker.cli.kit import graph_shape
from stoker.cli.kit.drawings import DRAWINGS, Node

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
OK = {"command": "true"}
FANNED = {"a": {**OK, "each": ["1", "2"]}, "b": {**OK, "needs": [{"step": "a", "on": "any"}], "critical": False}}
EVIL = 'a"]; <script>&\\ --> \x1b[31m #quot; \u202e'


def nodes(*edges: tuple[str, list[str]]) -> list[Node]:
    return [Node(name, [(need, "ok") for need in needs], None) for name, needs in edges]


def names(layers: list[list[Node]]) -> list[list[str]]:
    return [[node.name for node in layer] for layer in layers]


def drawn(name: str, of: list[Node], title: str = "t") -> str:
    return DRAWINGS[name](title, graph_shape.layered(of))


def shown(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = main.guarded(["workflow", "graph", *arguments])
    out, err = capfd.readouterr()
    return status, out, err


def flow_file(folder: Path, steps: dict[str, Any]) -> str:
    path = folder / "flow.json"
    path.write_text(json.dumps({"name": "x", "steps": steps}))
    return str(path)


def test_layers_when_steps_need_each_other_then_each_comes_after_all_its_needs() -> None:
    layers = graph_shape.layered(nodes(("d", ["b", "c"]), ("b", ["a"]), ("c", ["a"]), ("a", [])))

    assert names(layers) == [["a"], ["b", "c"], ["d"]]


def test_layers_when_edges_would_cross_then_steps_stand_beside_what_they_need() -> None:
    layers = graph_shape.layered(nodes(("s9", []), ("s10", []), ("b", ["s10"]), ("y", ["s9"]), ("a", ["s9"])))

    assert names(layers) == [["s9", "s10"], ["y", "a", "b"]]


def test_layers_when_the_chain_is_long_then_each_step_is_looked_at_a_few_times() -> None:
    looked = 0

    class Watched(Node):
        def __getattribute__(self, name: str) -> Any:
            nonlocal looked
            looked += name == "name"
            return super().__getattribute__(name)

    layers = graph_shape.layered([Watched(str(n), [(str(n - 1), "ok")] if n else [], None) for n in range(300)])

    assert len(layers) == 300
    assert 0 < looked <= 10 * 300


def test_folding_when_each_made_many_steps_then_they_are_one_node_in_the_worst_state() -> None:
    compiles = [Node(f"compile[{number}]", [("init", "ok")], "succeeded") for number in range(1, 4)]
    compiles[1].state = "failed"
    link = Node("link", [(node.name, "ok") for node in compiles], "skipped")

    folded = graph_shape.folded([Node("init", [], "succeeded"), *compiles, link])

    assert [(node.label, node.state, node.state_text) for node in folded] == [
        ("init", "succeeded", "succeeded"),
        ("compile x3", "failed", "2 succeeded, 1 failed"),
        ("link", "skipped", "skipped"),
    ]  # fmt: skip
    assert folded[2].needs == [("compile", "ok")]


def test_folding_when_a_step_needs_another_of_its_each_then_these_stay_apart() -> None:
    steps = nodes(("c[x]", []), ("c[y]", ["link"]), ("link", ["c[x]"]), ("pack:1", []), ("pack:2", []))

    folded = graph_shape.folded(steps)

    assert names(graph_shape.layered(folded)) == [["c[x]", "pack"], ["link"], ["c[y]"]]
    assert [node.label for node in graph_shape.folded(nodes(("a:1", []), ("a:2", ["a:1"])))] == ["a:1", "a:2"]


def test_folding_when_the_list_came_at_run_time_then_the_group_is_one_node() -> None:
    steps = [
        Node("list", [], "succeeded"),
        Node("compile", [("list", "ok")], "succeeded"),
        *(Node(f"compile[{number}]", [("compile", "ok")], "running") for number in range(3)),
        Node("link", [("compile", "ok"), *((f"compile[{number}]", "ok") for number in range(3))], "waiting"),
    ]

    layers = graph_shape.layered(graph_shape.folded(steps))
    before = graph_shape.folded([Node("compile", [], "waiting")])

    assert names(layers) == [["list"], ["compile"], ["link"]]
    assert (layers[1][0].label, layers[1][0].state_text) == ("compile x3", "running")
    assert [node.label for node in before] == ["compile"]


def test_graph_when_a_step_has_an_if_then_every_format_shows_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = flow_file(tmp_path, {"a": OK, "b": {**OK, "needs": ["a"], "if": "needs.a.exit_code == 0"}})

    assert shown(capfd, file)[1].splitlines()[-1] == "2  • b    ← a  if needs.a.exit_code == 0"
    assert json.loads(shown(capfd, file, "--json")[1])["steps"][1]["if"] == "needs.a.exit_code == 0"
    for form in DRAWINGS:
        assert "b, if needs.a.exit_code == 0" in shown(capfd, file, "--format", form)[1]


def test_graph_when_a_list_comes_at_run_time_then_the_if_of_its_steps_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    later = {**OK, "each": {"step": "list", "output": "files"}, "if": "item.size > 3"}
    file = flow_file(tmp_path, {"list": OK, "compile": later})

    assert shown(capfd, file)[1].splitlines()[-1] == "2  • compile    ← list  if item.size > 3"


def test_text_when_a_layer_is_long_then_urgent_steps_are_shown_and_the_rest_counted() -> None:
    layer = [Node(f"s{number:04}", [], "succeeded") for number in range(1_000)]
    layer[700].state = "failed"

    lines = [line for line, _ in graph.text_lines("t", graph_shape.layered(layer), unfolded=False)]

    assert lines[0] == "t: 1000 steps, 1 layer"
    assert any("✗ s0700" in line for line in lines)
    assert lines[-1] == "   … 980 more: 980 succeeded"
    assert len(graph.text_lines("t", [layer], unfolded=True)) == 1_001


def test_text_when_a_step_needs_many_then_the_first_are_named() -> None:
    many = nodes(*((f"s{number}", []) for number in range(9)), ("last", [f"s{number}" for number in range(9)]))

    line, _ = graph.text_lines("t", graph_shape.layered(many), unfolded=False)[-1]

    assert line.endswith("← s0 s1 s2 s3 s4 … 4 more")


@pytest.mark.parametrize("form", ["text", *DRAWINGS])
def test_graph_when_a_flow_has_a_thousand_steps_then_every_format_holds(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs = {f"s{number}": [f"s{number // 3}"] if number else [] for number in range(1_000)}
    source = flow_file(tmp_path, {name: {"command": "true", "needs": own} for name, own in needs.items()})

    status, out, err = shown(capfd, source, "--format", form, "--all")

    assert status == 0
    assert len(set(re.findall(r"\bs\d+\b", out))) >= 1_000
    assert ("maxEdges" in err) == (form == "mermaid")


def test_svg_when_drawn_then_it_is_xml_with_a_box_a_step_and_a_path_a_need() -> None:
    of = nodes(("a", []), ("b", ["a"]), ("c", ["a", "b"]))

    root = ET.fromstring(drawn("svg", of))

    labels = [text.text for text in root.iter(f"{SVG}text")]
    assert labels == ["t", "a", "b", "c"]
    assert len([path for path in root.iter(f"{SVG}path") if path.get("d", "").startswith("M0 0 ") is False]) == 3
    assert float(root.get("width", "0")) > 3 * 40


def test_svg_when_a_need_crosses_a_layer_then_its_edge_passes_between_the_boxes() -> None:
    root = ET.fromstring(drawn("svg", nodes(("a", []), ("b", ["a"]), ("c", ["a", "b"]))))

    boxes = [(float(box.get("y", "0")), float(box.get("height", "0"))) for box in root.iter(f"{SVG}rect")][1:]
    lanes = [float(edge[1]) for path in root.iter(f"{SVG}path") if (edge := re.search(r"([\d.]+)H", path.get("d", "")))]
    assert len(lanes) == 1
    assert not any(top <= lane <= top + height for lane in lanes for top, height in boxes)


def test_svg_when_names_are_hostile_then_they_stay_text() -> None:
    root = ET.fromstring(drawn("svg", nodes((EVIL, []), ("\ufffe", [EVIL])), title=EVIL))

    assert list(root.iter("script")) == []
    assert any("<script>&" in (text.text or "") for text in root.iter(f"{SVG}text"))


def test_dot_when_names_are_hostile_then_they_stay_text() -> None:
    text = drawn("dot", nodes((EVIL, []), ("b", [EVIL])), title=EVIL)

    for line in text.splitlines():
        assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) % 2 == 0
    assert "\x1b" not in text
    assert "s0 -> s1;" in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_dot_when_graphviz_reads_it_then_it_is_accepted() -> None:
    text = drawn("dot", nodes((EVIL, []), ("b", [EVIL])), title=EVIL)

    done = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_mermaid_when_names_are_hostile_then_they_stay_text() -> None:
    text = drawn("mermaid", [Node(EVIL, [], "failed"), Node("b", [(EVIL, "failed")], "running")], title=EVIL)

    first = next(line for line in text.splitlines() if line.startswith("    s0["))
    assert re.fullmatch(r'    s0\["[^"<>\\]*"\]:::failed', first)
    assert "    s0 -. failed .-> s1" in text
    assert "classDef running" in text


@pytest.mark.parametrize(
    ("steps", "mistakes"),
    [
        ({"a": {**OK, "needs": ["b"]}, "b": {**OK, "needs": ["a"]}}, ["steps.b.needs: a cycle: a -> b -> a"]),
        ({"a": {**OK, "needs": ["z"]}, "b": {"timeout": "90s"}},
         ["steps.a.needs[0]: there is no step 'z'", "steps.b.command: this field is missing", "timeout_ms = 90000"]),
        ({"a": 1}, ["steps.a: expected an object, got 1"]),
        ({"a": {**OK, "needs": 5}}, ["steps.a.needs: expected a list, got 5"]),
        ({}, ["steps: a workflow has at least one step"]),
    ],
)  # fmt: skip
def test_graph_when_a_file_has_mistakes_then_they_are_printed_without_a_graph(
    steps: dict[str, Any], mistakes: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = shown(capfd, flow_file(tmp_path, steps))

    assert (status, out) == (65, "")
    assert [one for one in mistakes if one not in err] == []


def test_graph_when_it_goes_to_a_file_then_that_is_whole_and_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = flow_file(tmp_path, FANNED)

    status, out, _ = shown(capfd, source, "--format", "svg", "-o", str(tmp_path / "x.svg"))
    shown(capfd, source, "--json", "-o", str(tmp_path / "x.json"))

    assert (status, out) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow.json", "x.json", "x.svg"]
    labels = [text.text for text in ET.parse(tmp_path / "x.svg").getroot().iter(f"{SVG}text")]
    assert labels == ["x", "a x2", "b (may fail)"]
    assert json.loads((tmp_path / "x.json").read_text())["layers"] == [["a"], ["b"]]


def test_graph_when_a_file_has_each_and_all_is_given_then_every_step_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = flow_file(tmp_path, FANNED)

    _, folded, _ = shown(capfd, source)
    _, every, _ = shown(capfd, source, "--all")

    assert folded.splitlines() == ["x: 3 steps, 2 layers", "1  • a x2", "2  • b (may fail)    ← a(any)"]
    assert every.splitlines()[1:] == [
        "1  •   a[1]",
        "   │ • a[2]",
        "2  •─╯ b (may fail)    ← a[1](any) a[2](any)",
    ]


def test_graph_when_json_is_given_then_it_has_the_needs_of_each_step(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = shown(capfd, flow_file(tmp_path, FANNED), "--json")
    status, _, err = shown(capfd, flow_file(tmp_path, FANNED), "--json", "--format", "dot")

    document = json.loads(out)
    assert document["layers"] == [["a"], ["b"]]
    assert [(step["name"], step["count"], step["critical"], step["needs"]) for step in document["steps"]] == [
        ("a", 2, True, []), ("b", 1, False, [{"step": "a", "on": "any"}])
    ]  # fmt: skip
    assert (status, "exclude each other" in err) == (64, True)


def test_graph_when_steps_wait_for_conditions_then_these_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    each = {"command": "true", "each": ["x", "y"], "wait_for": {"any": ["event:go", "job:7"]}}
    source = flow_file(tmp_path, {"a": {"command": "true", "wait_for": "event:go"}, "b": each})

    _, out, _ = shown(capfd, source)
    _, as_json, _ = shown(capfd, source, "--json")

    assert [line.rstrip() for line in out.splitlines()[1:]] == [
        "1  • a     waits for event:go",
        "   • b x2  waits for event:go job:7",
    ]
    assert [step["conditions_open"] for step in json.loads(as_json)["steps"]] == [["event:go"], ["event:go", "job:7"]]
