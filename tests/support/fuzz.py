"""Many clients that send anything: requests of every method, right and wrong, broken frames, rude clients.

Owns the random requests (`Phrases`) and the bookkeeping of each connection (`Talker`): the ids that wait for an answer,
and the answers. The content of answers is not checked, except for what no answer may ever be (`Talker.faults`).
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.core.errors import ParseError
from stoker.rpc.methods import METHODS
from stoker.rpc.table import MethodKind
from stoker.rpc.wire import parse_strict
from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOT_ASKED = frozenset({"system.drain"})  # ends the daemon, as it should
FAN_OUTS: list[dict[str, Any]] = [
    {"each": ["a", 2, {"k": "v"}]},
    {"each": {"step": "s0", "output": "list"}},
    {"matrix": {"x": [1, 2], "y": ["a"], "exclude": [{"x": 1}], "include": [{"z": True}]}},
    {"each": ["a", "a"], "needs": [{"step": "s0", "same": "item"}]},
    {"each": ["a"], "needs": ["s0[{{item}}]"]},
    {"each": ["a"], "needs": [{"job": 1}, {"workflow": 1, "on": "any"}]},
]
# The other words of a step, and those of a whole flow.
WORDS: list[dict[str, Any]] = [
    {"if": "parameters.p == 'x'"},
    {"if": "needs.s0.exit_code > 0", "needs": ["s0"]},
    {"if": "1 +"},
    {"sources": ["/etc/hosts"], "produces": ["/no/such/product"]},
    {"sources": []},
    {"abort_on": [1]},
    {"abort_on": [0]},
    {"each": ["a", "b"], "fail_fast": True, "width": 1},
    {"fail_fast": True},
]
NESTED: dict[str, Any] = {"workflow": {"name": "inner", "steps": {"i": {"command": "false"}}}}
HEADS: list[dict[str, Any]] = [
    {"concurrency": {"key": "k", "policy": "queue"}}, {"concurrency": {"key": "k", "policy": "skip"}},
    {"concurrency": {"key": "{{p}}", "policy": "supersede"}}, {"concurrency": {"key": ""}}, {"max_running": 1},
    {"timeout_ms": 1}, {"deadline_ms": 1}, {"timeout_ms": 0}, {"labels": {"a": "{{p}}"}, "priority": 3},
    {"on_failure": {"h1": {"command": "true"}}, "finally": {"h2": {"command": "sleep", "args": ["0.2"]}}},
    {"on_success": {"h1": {"command": "false", "critical": True}}, "finally": {"s0": {"command": "true"}}},
    {"finally": {"h2": {"command": "true", "needs": ["s0"]}}}, {"on_failure": []},
]  # fmt: skip
ALWAYS = {("schedule.add", "job")}  # a schedule has a job or a flow
NAMES = [name for name in METHODS if name not in NOT_ASKED]
READ_BYTES = 1 << 16
JUNK: list[Any] = [
    None, True, -1, 0, 2**63 - 1, -(2**63), 1e308, "", "\0", "x" * 300, "é\u2028", [], {}, [[]], {"": None}, [1] * 50,
    {"a": {"b": [{}]}}, "../../etc/passwd", ["ok", 5], {"step": 1},
]  # fmt: skip
BROKEN = [
    b"\n" * 5_000, b" \t\r\n" * 500, b"{\n", b"nonsense\n", b"[]\n", b"[1,2,3]\n", b"null\n", b'"text"\n',
    b"\xff\xfe\n",
    b'{"jsonrpc":"2.0","id":1,"id":2,"method":"job.get"}\n', b"[" * 40 + b"]" * 40 + b"\n", b'{"a":NaN}\n',
    b'{"jsonrpc":"2.0","id":[],"method":"job.get"}\n', b'{"method":"' + b"x" * 70_000 + b'"}\n',
    b"[" + b"1," * 1_500 + b"1]\n", b'{"a":"\\ud800"}\n',
]  # fmt: skip


def is_strict(line: bytes) -> bool:
    try:
        parse_strict(line)
    except ParseError:
        return False
    return True


class Phrases:
    """All requests and broken frames, drawn from one seed.

    `job`: one that runs, and `token` is its token. `workflow`: the first of some whose steps wait.
    """

    def __init__(self, dice: random.Random, job: int, token: str, workflow: int, backup: Path) -> None:
        self._dice = dice
        self._job = job
        self._workflow = workflow
        # The values that a method accepts in a field whose name means something else in other methods.
        self._by_method: dict[tuple[str, str], Callable[[], Any]] = {
            ("system.purge", "before"): lambda: int(time.time() * 1_000) - dice.choice([0, 0, 60_000]),
            ("system.purge", "states"): lambda: dice.choice([[], ["failed"], ["succeeded", "skipped"]]),
            ("system.backup", "to"): lambda: f"{backup}-{dice.randrange(1_000_000)}",
            ("workflow.rollback", "to"): lambda: dice.choice(["latest", "latest", self._ident()]),
            ("workflow.submit", "from"): lambda: dice.choice([[], [], ["s1"], ["nothing"]]),
            ("checkpoint.save", "token"): lambda: token,
            ("worker.get", "job"): lambda: job,
            ("job.environment", "id"): lambda: dice.choice([job, self._ident()]),
            ("checkpoint.get", "id"): lambda: dice.randint(1, 12),
            ("job.restart", "yes"): lambda: True,
            ("job.restart", "force"): lambda: dice.random() < 0.5,
            ("job.restart", "reassign"): lambda: dice.random() < 0.5,
            ("queue.set", "defaults"): lambda: {"max_attempts": 2},
            ("hook.test", "on"): lambda: dice.choice(["job.failed", "daemon.restored"]),
            ("schedule.add", "job"): lambda: {"command": "true"},
            ("schedule.add", "flow"): lambda: None,
            ("schedule.add", "target"): list,
            ("schedule.add", "from"): list,
            ("schedule.add", "reuse"): lambda: None,
            ("schedule.add", "replace"): lambda: True,
            ("schedule.list", "after"): lambda: dice.choice(["", "a", "zz"]),
            ("attempt.list", "before"): lambda: f"{dice.randrange(2**41)}/1.1.a",
            ("recovery.get", "epoch"): lambda: 1,
        }
        self._by_field: dict[str, Callable[[], Any]] = {
            "id": self._ident, "job": self._ident, "before": self._ident, "to": self._ident,
            "workflow": self._workflow_id,
            "ids": lambda: [self._ident() for _ in range(dice.randint(1, 20))],
            "command": lambda: dice.choice(["true", "false", "/no/such/program", "sh"]),
            "args": lambda: [["-c", "exit 3"], [], ["x"] * dice.randint(0, 300)][dice.randrange(3)],
            "env": lambda: {f"A{n}": "b" for n in range(dice.randint(0, 5))},
            "queue": lambda: dice.choice(["default", "q1", "no such queue"]),
            "name": lambda: dice.choice(["default", "q1", "a", "s1"]),
            "jobs": self._jobs, "flow": self._flow, "needs": lambda: [self._ident()],
            "step": self._step, "need": self._step, "from": self._step,
            "states": lambda: [dice.choice(["queued", "failed", "running"])],
            "since": lambda: int(time.time() * 1_000) - dice.randrange(3_600_000), "search": lambda: "tr%_",
            "reason": lambda: "because", "follow": lambda: dice.random() < 0.2, "limit": lambda: dice.randint(1, 1_000),
            "timeout_ms": lambda: dice.randint(1, 300), "label": lambda: "a=b", "labels": lambda: {"a": "b"},
            "token": lambda: "1.1.0:0", "data": lambda: "AAAA",
            "supersede_key": lambda: f"s{dice.randrange(3)}", "debounce_ms": lambda: dice.choice([1, 60_000]),
            "debounce_max_ms": lambda: dice.choice([1, 60_000]),
            "supersede_running": lambda: dice.choice(["finish", "stop"]),
            "secrets": lambda: {dice.choice(["A", "b_1", "1", ""]): {"base64": dice.choice(["AAAA", "", "%"])}},
            "key": lambda: dice.choice(["k1", "k2", "*"]), "rate_key": lambda: dice.choice(["k1", "k3"]),
            "rate": lambda: dice.choice(["1000/s", "5/m", "0/s"]), "burst": lambda: dice.randint(1, 9),
            "idempotency_key": lambda: f"k{dice.randrange(9)}",
            "max_attempts": lambda: dice.randint(1, 3), "base_delay_ms": lambda: 0, "after": lambda: dice.randrange(99),
            "priority": lambda: dice.randint(-9, 9), "ttl_ms": lambda: dice.choice([None, 60_000]),
            "limits": lambda: {"open_files": 99}, "capacity": lambda: dice.randint(0, 5), "stop": lambda: False,
            "timing": lambda: dice.choice(["@daily", "every 1s", "30 2 * * 1-5", "0 0 31 2 *"]),
            "zone": lambda: dice.choice(["UTC", "Europe/Berlin", "Nowhere"]),
            "misfire": lambda: dice.choice(["skip", "latest", "all"]), "count": lambda: dice.randint(1, 100),
            "overlap": lambda: dice.choice(["allow", "skip", "queue", "supersede"]),
            "strategy": lambda: dice.choice(["restart", "skip", "fail"]), "dry_run": lambda: dice.random() < 0.5,
            "reuse": lambda: dice.choice([None, "latest", self._workflow_id()]),
            "target": lambda: dice.choice([[], [], ["a"], ["s0", "nothing"]]),
        }  # fmt: skip

    def frame(self) -> tuple[bytes, list[tuple[int, str]]]:
        """A frame, and (id, method) of each request in it that must be answered."""
        kind = self._dice.random()
        if kind < 0.15:
            return self._dice.choice(BROKEN), []
        requests = [self._request() for _ in range(1 if kind < 0.85 else self._dice.randint(2, 60))]
        waits = any(METHODS[request["method"]].kind is MethodKind.WAIT for request in requests)
        # An array is answered after its last request, which a wait may hold up.
        values: list[Any] = [requests] if len(requests) > 1 and not waits else requests
        lines = [json.dumps(value).encode() for value in values]
        owed = [
            (request["id"], request["method"])
            for line, value in zip(lines, values, strict=True)
            if is_strict(line)  # else the frame is refused as a whole
            for request in (value if isinstance(value, list) else [value])
        ]
        return b"\n".join(lines) + b"\n", owed

    def _request(self) -> dict[str, Any]:
        method = self._dice.choice(NAMES)
        return {"jsonrpc": "2.0", "id": self._number(), "method": method, "params": self._params(method)}

    def _number(self) -> int:
        return self._dice.getrandbits(52)

    def _params(self, method: str) -> Any:
        if self._dice.random() < 0.03:
            return self._dice.choice(JUNK)
        most = self._dice.choice([0, 0.25])  # each field more is another that may be wrong
        params = {
            field.encode_name: self._value(method, field.encode_name)
            for field in msgspec.structs.fields(METHODS[method].params)
            if field.required or (method, field.encode_name) in ALWAYS or self._dice.random() < most
        }
        if self._dice.random() < 0.1:
            params[f"unknown_{self._dice.randrange(99)}"] = self._dice.choice(JUNK)
        return params

    def _value(self, method: str, field: str) -> Any:
        of_workflow = method.startswith("workflow.") and field == "id"
        values = self._workflow_id if of_workflow else self._by_method.get((method, field)) or self._by_field.get(field)
        return values() if values and self._dice.random() < 0.9 else self._dice.choice(JUNK)

    def _ident(self) -> int:
        return self._job + self._dice.randint(1, 60)

    def _workflow_id(self) -> int:
        return self._workflow + self._dice.randrange(12)

    def _step(self) -> str:
        return f"s{self._dice.randrange(6)}"

    def _jobs(self) -> list[Any]:
        many = self._dice.choice([1, 3, 40, 3_000])
        wrong = self._dice.random() < 0.5 or many > 100
        return [{"command": "true", **({f"no_{n}": 1} if wrong else {})} for n in range(many)]

    def _flow(self) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        for number in range(self._dice.choice([1, 4, 6, 500])):
            step: dict[str, Any] = {"command": self._dice.choice(["true", "true", "false"])}
            if number and self._dice.random() < 0.6:
                step["needs"] = [f"s{self._dice.randrange(number + 1)}"]
            if self._dice.random() < 0.2:
                step |= self._dice.choice(FAN_OUTS)
            if self._dice.random() < 0.1:
                step |= self._dice.choice(WORDS)
            elif number < 10 and self._dice.random() < 0.05:
                step = {**NESTED, "needs": step.get("needs", [])}
            if self._dice.random() < 0.05 or number > 10:
                step[f"wrong_{number}"] = self._dice.choice(JUNK)
            steps[f"s{number}"] = step
        head = self._dice.choice(HEADS) if self._dice.random() < 0.5 else {}
        return {"name": "fuzzed", "parameters": {"p": "x"}, "steps": steps, **head}


class Talker:
    """One connection: sends as fast as the daemon reads, and reads at drawn moments."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)  # noqa: FBT003 - the name of the thing
        self.owed: dict[int, str] = {}
        self.faults: list[str] = []
        self.accepted: set[str] = set()  # methods that were answered without an error
        self.hung_up = False
        self._unsent = bytearray()
        self._unread = bytearray()

    def say(self, data: bytes, owed: list[tuple[int, str]]) -> None:
        self._unsent += data
        self.owed.update(owed)
        self.push()

    def push(self) -> None:
        try:
            while self._unsent and not self.hung_up:
                del self._unsent[: self.socket.send(self._unsent)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self.hung_up = True

    def listen(self) -> None:
        try:
            while data := self.socket.recv(READ_BYTES):
                self._unread += data
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.hung_up = True
        else:
            self.hung_up = True
        *lines, rest = self._unread.split(b"\n")
        self._unread = bytearray(rest)
        for line in lines:
            self._hear(json.loads(line))

    def _hear(self, answer: Any) -> None:
        for message in answer if isinstance(answer, list) else [answer]:
            if "method" in message:
                continue
            name = self.owed.pop(message["id"], None)
            if name is not None and "result" in message:
                self.accepted.add(name)
            if message["id"] is not None and name is None and "result" in message:
                self.faults.append(f"nobody asked for {message}")
            if message.get("error", {}).get("data", {}).get("code") == "internal":
                self.faults.append(f"{name}: {message['error']}")

    def calls_owed(self) -> list[str]:
        """The methods of requests without an answer, except waits and streams."""
        return [name for name in self.owed.values() if METHODS[name].kind not in (MethodKind.WAIT, MethodKind.STREAM)]

    def settle(self) -> Iterator[str]:
        """Send and read all that is left; returns the methods of requests that were not answered."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            while not self.hung_up and (self._unsent or self.calls_owed()):
                if not selector.select(0.01 if self._unsent else DEADLINE_S) and not self._unsent:
                    break
                self.listen()
                self.push()
        yield from [] if self.hung_up else self.calls_owed()

    def close(self) -> None:
        self.socket.close()
