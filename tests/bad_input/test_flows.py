"""Workflows that cannot run, and flows made to hang the daemon: refused with the path, and nothing is stored.

Owns the mistakes in a submitted flow, and the answers to other clients while a very large one is read.
tests/engine/test_checkpoints.py has broken checkpoints and outputs.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams
from tests.support.facts import DEADLINE_S
from tests.support.flows import flow, flow_end, send
from tests.support.work import shell

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.rpc import RawClient

untouched = pytest.mark.usefixtures("untouched")
OK: dict[str, Any] = {"command": "true"}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "cycle": (flow({"a": {**OK, "needs": ["c"]}, "b": {**OK, "needs": ["a"]}, "c": {**OK, "needs": ["b"]}}), "cycle"),
    "self need": (flow({"a": {**OK, "needs": ["a"]}}), "steps.a.needs[0]: a step cannot need itself"),
    "unknown need": (flow({"a": {**OK, "needs": ["b"]}}), "steps.a.needs[0]: there is no step 'b'"),
    "need named twice": (
        flow({"a": OK, "b": {**OK, "needs": ["a", "a"]}}),
        "steps.b.needs[1]: step 'a' is named twice",
    ),
    "unknown resource": (flow({"a": {**OK, "resources": {"nowhere": 1}}}), "steps.a.resources.nowhere"),
    "weight above capacity": (flow({"a": {**OK, "resources": {"small": 3}}}), "steps.a.resources.small"),
    "weight of nothing": (flow({"a": {**OK, "resources": {"small": 0}}}), "steps.a.resources"),
    "unknown queue": (flow({"a": {**OK, "queue": "nowhere"}}), "steps.a.queue"),
    "unknown command": (flow({"a": {"command": "no-such-command-here"}}), "steps.a.command"),
    "unknown strategy": (flow({"a": {**OK, "resume": "nope"}}), "steps.a.resume"),
    "unknown parameter": (flow({"a": {"command": "{{who}}"}}), "steps.a.command"),
    "an environment too large to hand over": (
        {
            **flow({"a": {**OK, "env": {f"V{number}": "{{long}}" for number in range(40)}}}),
            "parameters": {"long": "x" * 60_000},
        },
        "steps.a.env: all variables together take 2400190 bytes",
    ),
    "unknown field": (flow({"a": {**OK, "colour": "red"}}), "steps.a.colour"),
    "width without a list": (flow({"a": {**OK, "width": 2}}), "steps.a.width"),
    "only empty lists": (flow({"a": {**OK, "each": []}}), "steps: all lists are empty, so there is no step to run"),
    "an item that is a list": (flow({"a": {**OK, "each": ["x", ["y"]]}}), "steps.a.each[1]"),
    "an item of fractions": (flow({"a": {**OK, "each": [{"v": 3.1}]}}), "steps.a.each[0].v"),
    "a table in a table": (flow({"a": {**OK, "each": [{"v": {}}]}}), "steps.a.each[0].v"),
    "a key that no item has": (
        flow({"a": {**OK, "args": ["{{item.x}}"], "each": [{"v": 1}]}}),
        "steps.a.args[0]: {{item.x}}: an item has no such key (it has: v)",
    ),
    "a file to read": (flow({"a": {**OK, "each": {"file": "/etc/passwd"}}}), "only the client reads a file"),
    "half a source of items": (flow({"a": OK, "b": {**OK, "each": {"step": "a"}}}), "steps.b.each"),
    "a matrix of a million": (
        flow({"a": {**OK, "matrix": {"x": list(range(1_000)), "y": list(range(1_000))}}}),
        "1000000 steps; the limit is 10000",
    ),
    "a matrix of a text": (flow({"a": {**OK, "matrix": {"x": "y"}}}), "steps.a.matrix.x"),
    "a matrix of lists": (flow({"a": {**OK, "matrix": {"x": [["y"]]}}}), "steps.a.matrix.x[0]"),
    "an axis of tables": (flow({"a": {**OK, "matrix": {"x": [{"y": 1}]}}}), "a value of an axis is no table"),
    "an axis that is none": (
        flow({"a": {**OK, "matrix": {"x": [1], "exclude": [{"y": 1}]}}}),
        "steps.a.matrix.exclude[0].y: there is no such axis (there are: x)",
    ),
    "a matrix beside a list": (flow({"a": {**OK, "matrix": {"x": [1]}, "each": ["x"]}}), "either `each` or `matrix`"),
    "groups of different items": (
        flow({"a": {**OK, "each": ["x", "y"]}, "b": {**OK, "each": ["x"], "needs": [{"step": "a", "same": "item"}]}}),
        "steps.b.needs[0]: 'a' also has y",
    ),
    "an item that a group does not have": (
        flow({"a": {**OK, "each": ["x"]}, "b": {**OK, "needs": ["a[y]"]}}),
        "steps.b.needs[0]: 'a' has no y (it has: x)",
    ),
    "the same of what": (
        flow({"a": OK, "b": {**OK, "needs": [{"step": "a", "same": "name"}]}}),
        "steps.b.needs[0].same",
    ),
    "a cycle through the same items": (
        flow(
            {
                "a": {**OK, "each": ["x"], "needs": [{"step": "b", "same": "item"}]},
                "b": {**OK, "each": ["x"], "needs": [{"step": "a", "same": "item"}]},
            }
        ),
        "cycle",
    ),
    "a rate key that is none": (flow({"a": {**OK, "rate_key": "{{p}}"}}, parameters={"p": "a b"}), "steps.a.rate_key"),
    "a condition with an unknown name": (flow({"a": {**OK, "wait_for": "file:/{{x}}"}}), "steps.a.wait_for: {{x}}"),
    "a source of items that is no step": (
        flow({"b": {**OK, "each": {"step": "a", "output": "x"}}}),
        "steps.b.each.step: there is no step 'a'",
    ),
    "an expression that is none": (flow({"a": {**OK, "if": "1 +"}}), "steps.a.if: column 4: Syntax error"),
    "an expression about no need": (flow({"a": {**OK, "if": "needs.b.state == ''"}}), "steps.a.if: column 1"),
    "an expression of a wrong type": (flow({"a": {**OK, "if": True}}), "steps.a.if"),
    "an empty expression": (flow({"a": {**OK, "if": ""}}), "steps.a.if"),
    "a long expression": (flow({"a": {**OK, "if": f"{'!' * 2000}true"}}), "the limit is 1000"),
    "an expression that grows": (flow({"a": {**OK, "if": "['x'].map(x, x + x)[0] == ''"}}), "map is not available"),
    "no steps": (flow({}), "steps: a workflow has at least one step"),
    "steps of wrong type": ({"name": "x", "steps": [OK]}, "steps"),
    "no name": ({"steps": {"a": OK}}, "name"),
    "a step that is no object": ({"name": "flow", "steps": {"a": "true"}}, "steps.a"),
    "a step's name with a space": (flow({"a b": OK}), "steps.a b"),
    "nested without end": (flow({"a": {**OK, "env": {"A": [[[[{}]]]]}}}), "steps.a.env"),
}


@pytest.fixture(scope="module")
def small(shared: DaemonProcess) -> None:
    with shared.client() as client:
        client.call("resource.set", {"name": "small", "capacity": 2})


@pytest.mark.usefixtures("small")
@untouched
@pytest.mark.parametrize("case", WRONG)
def test_flow_when_it_could_never_run_then_the_place_is_named(bystander: stoker.Client, case: str) -> None:
    sent, expected = WRONG[case]

    with pytest.raises(InvalidParams) as refused:
        send(bystander, sent)

    assert expected in refused.value.message


@pytest.mark.usefixtures("small")
@untouched
@pytest.mark.parametrize(
    ("steps", "paths"),
    [
        ({"a": {"x": "y"}, "b": {**OK, "args": 1, "priority": "x"}}, ["a.x", "a.command", "b.args", "b.priority"]),
        ({"a": {**OK, "needs": ["a", "x"]}, "b": {**OK, "width": 1}}, ["a.needs[0]", "a.needs[1]", "b.width"]),
        ({"a": {**OK, "args": 1, "needs": ["x"]}, "b": {**OK, "width": 1}, "c": 1, "d": {**OK, "each": 1, "width": 2}},
         ["a.args", "a.needs[0]", "b.width", "c", "d.each"]),
        ({"a": {**OK, "queue": "x", "resources": {"y": 1, "small": 3}, "deadline": 10**12, "warn_signal": 1},
          "b": {"command": "no-such-command", "resources": {"x": 1}}},
         ["a.queue", "a.resources.y", "a.resources.small", "b.command", "b.resources.x"]),
        ({"a": {**OK, "deadline": 10**12, "run_at": 10**12, "resources": {"x": 1}}},
         ["a.deadline", "a.run_at", "a.resources.x"]),
        ({"a": {"command": "no-such-command", "needs": ["b"]}, "b": {**OK, "needs": ["a"], "queue": "x"},
          "c": {**OK, "args": ["{{x}}"], "resources": {"x": 1}}, "d": {"command": "{{x}}", "queue": "y"},
          "e": {"command": "no-such-command", "timeout": 1}, "f": {"command": "./no-such-command", "cwd": "/"},
          "g": {**OK, "args": 1, "queue": "z"}},
         ["a.command", "b.needs", "b.queue", "c.args[0]", "c.resources.x", "d.command", "d.queue", "e.command",
          "e.timeout", "f.cwd", "g.args", "g.queue"]),
        ({"a": {**OK, "env": {"A": 1, "B": "b", "C": 2}, "args": ["a", 1, 2], "needs": ["b", {"step": "b", "on": "x"}]},
          "b": OK},
         ["a.env.A", "a.env.C", "a.args[1]", "a.args[2]", "a.needs[1].on"]),
        ({"a": {"command": "no-such-command-{{item}}", "each": ["1", 2.5]}}, ["a.each[1]"]),
        ({"a": {**OK, "args": ["x" * 60_000] * 3, "queue": "x"}}, ["a.args", "a.queue"]),
    ],
    ids=["shape", "graph", "both", "host", "promises", "everything", "parts", "items", "too much together"],
)  # fmt: skip
def test_flow_when_it_has_many_mistakes_then_all_of_them_are_reported_at_once(
    bystander: stoker.Client, steps: dict[str, Any], paths: list[str]
) -> None:
    with pytest.raises(InvalidParams) as refused:
        send(bystander, flow(steps))

    assert sorted(error["path"] for error in refused.value.details["errors"]) == sorted(f"steps.{p}" for p in paths)


@untouched
@pytest.mark.parametrize(
    ("head", "paths"),
    [
        ({"parameters": {"a": 1, "b": [2]}, "defaults": {"timeout": "90s", "env": {"X": 1}}, "colour": "red"},
         ["parameters.a", "parameters.b", "defaults.timeout", "defaults.env.X", "colour", "steps.c.args[1]",
          "steps.c.queue"]),
        ({"parameters": 7, "defaults": 1},
         ["parameters", "defaults", "steps.c.args[0]", "steps.c.args[1]", "steps.c.queue"]),
        ({"parameters": {"a": "x"}, "defaults": {"queue": 7, "timeout": "90s"}, "verify": "yes"},
         ["defaults.queue", "defaults.timeout", "verify", "steps.c.args[1]", "steps.c.queue", "steps.b.command"]),
        ({"parameters": {"a": "x"}, "defaults": {"queue": 7}, "steps": {"a": 1, "b": "queue"}},
         ["defaults.queue", "steps.a", "steps.b"]),
        ({"parameters": {"a": "x", "x": "y"}, "timeout_ms": 0, "deadline_ms": "1h", "max_running": -1,
          "priority": 10**6, "labels": {"a b": "x", "c": 1}, "concurrency": {"key": "", "policy": "wait"},
          "on_failure": 7, "on_success": {"b": OK},
          "finally": {"f": {**OK, "needs": ["c"], "abort_on": [1], "width": 2}}},
         ["timeout_ms", "deadline_ms", "max_running", "priority", "labels.a b", "labels.c", "concurrency.key",
          "concurrency.policy", "on_failure", "on_success.b", "finally.f.needs[0]", "finally.f.abort_on",
          "finally.f.width", "steps.c.queue", "steps.b.command"]),
    ],
    ids=["parts", "whole", "what steps say themselves", "a step that is none", "all other words"],
)  # fmt: skip
def test_flow_when_its_head_is_wrong_then_its_steps_are_judged_anyway(
    bystander: stoker.Client, head: dict[str, Any], paths: list[str]
) -> None:
    steps = {"c": {**OK, "args": ["{{a}}", "{{x}}"], "queue": "nowhere"}, "b": {"command": "no-such-command"}}

    with pytest.raises(InvalidParams) as refused:
        send(bystander, {"name": "flow", "steps": steps, **head})

    assert sorted(error["path"] for error in refused.value.details["errors"]) == sorted(paths)


@untouched
def test_flow_when_a_command_is_a_list_then_one_mistake_says_where_arguments_go(bystander: stoker.Client) -> None:
    with pytest.raises(InvalidParams) as refused:
        send(bystander, flow({"a": {"command": ["sh", "-c", "echo hi"]}}))

    (error,) = refused.value.details["errors"]
    assert error["path"] == "steps.a.command"
    assert error["message"] == 'expected a string, got ["sh", "-c", "echo hi"]'
    assert "its arguments stand in args" in error["hint"]


@untouched
def test_flow_when_a_need_is_wrong_then_the_hint_is_for_steps(bystander: stoker.Client) -> None:
    steps = {"a": {**OK, "needs": "b"}, "b": {**OK, "needs": [{"step": "a", "on": "maybe"}]}}

    with pytest.raises(InvalidParams) as refused:
        send(bystander, flow(steps))

    hints = {error["path"]: error["hint"] for error in refused.value.details["errors"]}
    assert hints == {
        "steps.a.needs": 'steps, as in ["compile"]; { step = "a", on = "failed" }, { job = 41 } or { workflow = 12 }',
        "steps.b.needs[0].on": "one of: ok, failed, any",
    }


@untouched
def test_flow_when_a_step_stands_in_it_twice_then_the_frame_is_refused(raw: RawClient) -> None:
    steps = b'{"a":{"command":"true"},"a":{"command":"false"}}'
    raw.say(b'{"jsonrpc":"2.0","id":1,"method":"workflow.submit","params":{"flow":{"name":"x","steps":%b}}}\n' % steps)

    answer = raw.hear()

    assert "error" in answer
    assert "twice" in answer["error"]["message"]


# --- slow to refuse -------------------------------------------------------------------------------------------


def many(steps: int) -> dict[str, Any]:
    return flow({f"s{number}": OK for number in range(steps)})


def fan(items: int, times: int = 1, **more: Any) -> dict[str, Any]:
    each = ["x"] * items
    return flow(
        {f"s{number}": {**OK, "each": each, **(more if number or times == 1 else {})} for number in range(times)}
    )


HUGE = {
    "a matrix of a hundred values on each of thirty axes": flow(
        {"a": {**OK, "matrix": {f"a{n}": list(range(100)) for n in range(30)}}}
    ),
    "as many steps as a frame holds": many(30_000),
    "a list of a hundred thousand": fan(100_000),
    "twenty lists of ten thousand": fan(10_000, 20),
    "five thousand that each need five thousand": fan(5_000, 2, needs=["s0"]),
    "ten thousand that each need what is not there": flow({f"s{n}": {**OK, "needs": ["x"]} for n in range(10_000)}),
    "as many wrong steps as a frame holds": flow({f"s{n}": {"comand": "true"} for n in range(25_000)}),
    "as many wrong fields as a frame holds": flow({"a": {**OK, **{f"z{n}": 0 for n in range(90_000)}}}),
    "many steps that take many wrong defaults": flow(
        {f"s{n}": OK for n in range(12_000)}, defaults={f"z{n}": 0 for n in range(40_000)}
    ),
    "ten thousand times ten thousand arguments": fan(10_000, args=["{{item}}"] * 10_000),
    "a parameter in itself": flow({"a": {**OK, "stdin": "{{p}}" * 10_000}}, parameters={"p": "x" * 60_000}),
    "a chain that closes": flow({f"s{n}": {**OK, "needs": [f"s{(n + 1) % 9_000}"]} for n in range(9_000)}),
}


class Asking(threading.Thread):
    """Another client that sends requests meanwhile, at least one: it fails if an answer exceeds its timeout."""

    def __init__(self, client: stoker.Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._enough = threading.Event()
        self.answers = 0

    def run(self) -> None:
        while True:
            self._client.call("system.health")
            self.answers += 1
            if self._enough.is_set():
                return

    def finish(self) -> int:
        self._enough.set()
        self.join(DEADLINE_S)
        return self.answers


@untouched
@pytest.mark.parametrize("case", HUGE)
def test_flow_when_it_is_slow_to_refuse_then_others_are_answered_meanwhile(
    shared: DaemonProcess, bystander: stoker.Client, case: str
) -> None:
    with shared.client() as other:
        asking = Asking(other)
        asking.start()

        with pytest.raises(InvalidParams) as refused:
            send(bystander, HUGE[case])

        assert asking.finish() > 0
    assert refused.value.code in {"flow_invalid", "frame_too_large"}


def test_flow_when_it_has_the_most_steps_then_others_are_answered_meanwhile(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    asked = {**shell("exit 0"), "each": ["x"] * 10_000, "width": 1}
    with shared.client() as other:
        asking = Asking(other)
        asking.start()
        answer = send(bystander, flow({"all": asked}))
        assert asking.finish() > 0

    assert len(answer["steps"]) == 10_000
    bystander.call("workflow.cancel", {"id": answer["id"]})
    assert flow_end(bystander, answer["id"]) == "cancelled"
