"""Outputs of jobs: lines, blocks and JSON objects, read completely or refused with the line that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.outputs import MAX_BYTES, OutputRefused, add, entry, read

READ: list[tuple[bytes, dict[str, str]]] = [
    (b"", {}),
    (b" \n\t\r\n", {}),
    (b"path=/tmp/x\nname = a=b\n\n", {"path": "/tmp/x", "name": " a=b"}),
    (b"key=", {"key": ""}),
    (b"a=1\r\nb=2\r\n", {"a": "1", "b": "2"}),
    (b"a=1\na=2\n", {"a": "2"}),
    (b"a=b<<c\n", {"a": "b<<c"}),
    (b"a<<END\none\ntwo\nEND\nb=1", {"a": "one\ntwo", "b": "1"}),
    (b"a<<END\r\none\r\ntwo\r\nEND\r\n", {"a": "one\r\ntwo"}),
    (b"a<<END\nEND\n", {"a": ""}),
    (b"a<<END\n\nEND", {"a": ""}),
    (b"a<<b=c\nx=1\nb=c\n", {"a": "x=1"}),
    (b'a<<END\n{"b": 1}\nENDE\nEND\n', {"a": '{"b": 1}\nENDE'}),
    (b'{"path": "/tmp/x", "count": 3, "list": [1, 2]}', {"path": "/tmp/x", "count": "3", "list": "[1, 2]"}),
    (b'{\n "version": 1.10, "big": 1e999,\n "none": null\n}\n', {"version": "1.10", "big": "1e999", "none": "null"}),
    (b'{"a": 1}\n{"b": 2}\nc=3\n', {"a": "1", "b": "2", "c": "3"}),
    (b'{"a": "\\ud83d\\ude00", "b": {"c": [{}]}}', {"a": "\U0001f600", "b": '{"c": [{}]}'}),
]

REFUSED: list[tuple[bytes, str]] = [
    (b"a=1\nnonsense\n", "line 2: not key=value: 'nonsense'"),
    (b"=1\n", "line 1: not key=value"),
    (b"[1, 2]", "line 1: not key=value"),
    (b"\na<<END\nx\n", "line 2: the block of 'a' has no line 'END' that ends it"),
    (b"<<END\nEND\n", "line 1: a block begins with key<<END"),
    (b"a<<\n\n", "line 1: a block begins with key<<END"),
    (b'{"a": ', "line 1: not a JSON object"),
    (b'a=1\n{"a": NaN}', "line 2: not a JSON object: NaN"),
    (b'{"a": 1} b=2', "line 1: behind the JSON object: ' b=2'"),
    (b'{"": 1}', "line 1: a key is empty"),
    (b'{"a": "\\ud800"}', "line 1: not text"),
    (b'{"a\\ud800": 1}', "line 1: not text"),
    (b"\xff=1", "not UTF-8: invalid start byte at byte 0"),
    (b"a=" + b"x" * MAX_BYTES, f"{MAX_BYTES + 2} bytes; the limit is {MAX_BYTES}: hand on the path of a file"),
    (b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "line 1: nested too deeply"),
]


@pytest.mark.parametrize(("written", "values"), READ)
def test_output_when_it_can_be_read_then_it_is_an_object_of_strings(written: bytes, values: dict[str, str]) -> None:
    assert read(written) == values


@pytest.mark.parametrize(("written", "complaint"), REFUSED, ids=lambda value: str(value)[:24])
def test_output_when_it_cannot_be_read_whole_then_the_refusal_says_where(written: bytes, complaint: str) -> None:
    with pytest.raises(OutputRefused) as refused:
        read(written)

    assert complaint in str(refused.value)


@pytest.mark.parametrize("mark", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_line_when_data_has_another_break_in_it_then_that_begins_no_line(mark: str) -> None:
    data = f"harmless{mark}admin=yes"

    assert read(f"title={data}\n".encode()) == {"title": data}


VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"a": object()}, "not JSON serializable"),
    "not a number": ({"a": float("nan")}, "not JSON compliant"),
    "no text": ({"a": "\ud800"}, "not text"),
    "no key": ({"": 1}, "a key is empty"),
    "too large": ({"a": "x" * MAX_BYTES}, "the limit is"),
}


@pytest.mark.parametrize("name", VALUES)
def test_entry_when_a_value_would_not_be_taken_then_it_is_refused_at_once(name: str) -> None:
    values, complaint = VALUES[name]

    with pytest.raises(OutputRefused, match=complaint):
        entry(values)


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=3), st.text(max_size=20) | st.integers()), max_size=5))
def test_entries_when_added_one_after_another_then_all_of_them_are_read_back(added: list[dict[str, Any]]) -> None:
    text = b"first<<END\nx\nEND"
    expected = {"first": "x"}
    for values in added:
        text = add(text, entry(values))
        expected |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}

    assert read(text) == expected


def test_entries_when_the_same_keys_come_again_and_again_then_they_take_bounded_room() -> None:
    text = b""
    for number in range(3_000):
        text = add(text, entry({"best": "x" * 100, "number": number}))

    assert len(text) <= MAX_BYTES
    assert read(text) == {"best": "x" * 100, "number": "2999"}
