"""Bytes that are not a valid request: each gets one clear error, and nothing is stored.

Owns the mistakes below the level of a job: JSON, its limits, frames, the request object.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.bad_input.conftest import FRAME_TIMEOUT_MS
from tests.support.rpc import request

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.rpc import RawClient

pytestmark = pytest.mark.usefixtures("untouched")
MIB = 1024 * 1024


def submit_with(field: str) -> bytes:
    """A submit with one more field, as raw JSON text: `"name":"x"`."""
    return b'{"jsonrpc":"2.0","id":1,"method":"job.submit","params":{"command":"true",%s}}\n' % field.encode()


@pytest.mark.parametrize(
    "frame",
    [
        b"hello\n",
        b"{\n",
        b'{"jsonrpc":"2.0","id":1,"method":"job.submit","params":{"command":"true"}\n',
        b"{'jsonrpc':'2.0'}\n",
        b"\xff\xfe\n",
        b"GET / HTTP/1.1\r\n",
        b'{"a":1} {"b":2}\n',
    ],
)
def test_frame_when_it_is_not_json_then_parse_error(raw: RawClient, frame: bytes) -> None:
    raw.say(frame)

    answer = raw.hear()

    assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (-32700, "parse_error")


@pytest.mark.parametrize(
    ("field", "path", "words"),
    [
        (r'"name":"a\u0000b"', "name", "NUL"),
        (r'"args":["ok","a\u0000b"]', "args[1]", "NUL"),
        (r'"env":{"A":"\u0000"}', "env.A", "NUL"),
        (r'"name":"\ud800"', "name", "surrogate"),
        (r'"labels":{"team":"\udfff"}', "labels.team", "surrogate"),
        ('"priority":NaN', "priority", "not a number"),
        ('"backoff_factor":Infinity', "backoff_factor", "not a number"),
        ('"backoff_factor":1e999', "backoff_factor", "not a number"),
        ('"priority":9223372036854775808', "priority", "9223372036854775808"),
        ('"timeout_ms":-9223372036854775809', "timeout_ms", "-9223372036854775809"),
        ('"command":"false"', "command", "twice"),
        ('"env":{"A":"1","A":"2"}', "env.A", "twice"),
        (f'"stdin":"{"x" * 65_537}"', "stdin", "65536"),
    ],
)
def test_value_when_no_command_could_hold_it_then_its_path_is_named(
    raw: RawClient, field: str, path: str, words: str
) -> None:
    raw.say(submit_with(field))

    answer = raw.hear()

    assert answer["id"] in (None, 1)  # an id that cannot be read safely is null (JSON-RPC 2.0, section 5)
    assert answer["error"]["data"]["path"] == path
    assert words in answer["error"]["message"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_frame_when_it_is_nested_ten_thousand_deep_then_it_is_refused(raw: RawClient, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    raw.say(submit_with(f'"labels":{(opening * 10_000 + b"1" + closing * 10_000).decode()}'))

    answer = raw.hear()

    assert answer["error"]["data"]["code"] == "parse_error"
    assert "deep" in answer["error"]["message"]


def test_frame_when_an_integer_has_ten_thousand_digits_then_it_is_refused(raw: RawClient) -> None:
    raw.say(submit_with('"priority":' + "9" * 10_000))

    assert raw.hear()["error"]["data"]["code"] == "parse_error"


def test_frame_when_it_is_over_a_mebibyte_then_it_is_refused_and_the_connection_ends(raw: RawClient) -> None:
    raw.say(submit_with(f'"args":{json.dumps(["x"] * (MIB // 4 + 100))}'))

    answer = raw.hear()

    assert answer["error"]["data"]["code"] == "frame_too_large"
    assert raw.hear() is None


def test_frame_when_it_never_ends_then_it_is_refused_in_time(raw: RawClient) -> None:
    raw.say(b'{"jsonrpc":"2.0","id":1,"method":"job.submit","params":{"command":"tr')

    answer = raw.hear()

    assert answer["error"]["data"]["code"] == "frame_timeout"
    assert f"{FRAME_TIMEOUT_MS / 1000:g} s" in answer["error"]["message"]
    assert raw.hear() is None


def test_frame_when_it_breaks_off_with_the_connection_then_nothing_of_it_is_stored(raw: RawClient) -> None:
    raw.say(b'{"jsonrpc":"2.0","id":1,"method":"job.submit","params":{"command":"tr')

    answers = raw.hear_all()

    assert [answer["error"]["data"]["code"] for answer in answers] == ["parse_error"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, "invalid_request"),
        ([], "invalid_request"),
        ("job.submit", "invalid_request"),
        (7, "invalid_request"),
        (None, "invalid_request"),
        ({"jsonrpc": "1.0", "id": 1, "method": "job.submit", "params": {"command": "true"}}, "invalid_request"),
        ({"jsonrpc": "2.0", "id": {}, "method": "job.submit", "params": {"command": "true"}}, "invalid_request"),
        ({"jsonrpc": "2.0", "id": 1, "method": 7, "params": {"command": "true"}}, "invalid_request"),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.submit", "params": "true"}, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.submit", "params": ["true"]}, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.explode", "params": {}}, "method_not_found"),
        ({"jsonrpc": "2.0", "id": 1, "method": "__init__", "params": {}}, "method_not_found"),
    ],
)
def test_request_when_it_has_the_wrong_shape_then_the_error_says_which(
    raw: RawClient, value: object, code: str | None
) -> None:
    raw.say(json.dumps(value).encode() + b"\n")

    actual = raw.hear()["error"]["data"]["code"]

    assert actual == code if code else actual in ("invalid_request", "invalid_params")


def test_connection_when_one_frame_was_wrong_then_the_next_is_served(raw: RawClient) -> None:
    raw.say(b"nonsense\n" + request("system.health", 2))

    assert raw.hear()["error"]["data"]["code"] == "parse_error"
    assert raw.hear()["result"]["ok"]


def test_batch_when_one_request_in_it_is_wrong_then_the_others_are_answered(raw: RawClient) -> None:
    health = {"jsonrpc": "2.0", "id": 1, "method": "system.health"}
    raw.say(json.dumps([health, 7, {**health, "id": 2, "params": {"x": 1}}]).encode() + b"\n")

    answers = raw.hear()

    assert sum("result" in answer for answer in answers) == 1
    assert sorted(answer["error"]["data"]["code"] for answer in answers if "error" in answer) == [
        "invalid_params", "invalid_request"
    ]  # fmt: skip


def test_garbage_when_ten_clients_send_it_for_a_while_then_a_bystander_is_served(
    shared: DaemonProcess, raw: RawClient
) -> None:
    noise = bytes(range(256)) * 40
    for _ in range(10):
        with type(raw)(shared.socket) as other:
            other.say(noise.replace(b"\n", b" ") + b"\n")
            assert other.hear()["error"]["data"]["code"] == "parse_error"

    assert raw.ask("system.health")["result"]["ok"]
