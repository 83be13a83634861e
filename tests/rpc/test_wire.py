"""The strict reader and the framer: accepted and refused frames, and bytes that arrive in any pieces."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import ParseError
from stoker.rpc.frames import read_frame
from stoker.rpc.wire import MAX_DEPTH, MAX_FRAME_BYTES, MAX_STRING_BYTES, Framer, encode, parse_strict

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
# Pieces of JSON in any order: they find more faults than random bytes.
PIECES = [
    *[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b'"a"',
        b'"b":',
        b"\\u0000",
        b"\\ud800",
        b"\\",
        b"NaN",
        b"Infinity",
        b"1e999",
    ],
    *[
        b"9223372036854775808",
        b"-1",
        b"0",
        b"1.5",
        b"true",
        b"null",
        b" ",
        b"\t",
        b"\xff",
        b"\xc3\xa9",
        b"\0",
        b'{"a":1}',
    ],
]
pieces = st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@given(values)
def test_parse_strict_when_the_value_is_sound_then_it_equals_json_loads(value: Any) -> None:
    raw = json.dumps(value).encode()

    assert parse_strict(raw) == json.loads(raw) == value


@given(values)
def test_encode_when_the_value_is_sound_then_it_is_one_line_that_reads_back(value: Any) -> None:
    frame = encode(value)

    assert frame.count(b"\n") == 1
    assert frame.endswith(b"\n")
    assert parse_strict(frame[:-1]) == value


@given(pieces | st.binary(max_size=40))
def test_parse_strict_when_fed_anything_then_it_agrees_with_json_loads_or_refuses(raw: bytes) -> None:
    try:
        value = parse_strict(raw)
    except ParseError:
        return

    assert value == json.loads(raw.decode())


@given(pieces | values.map(lambda value: json.dumps(value).encode()))
def test_read_frame_when_it_differs_from_parse_strict_then_the_schema_bounds_it(raw: bytes) -> None:
    try:
        strict = parse_strict(raw)
    except ParseError:
        strict = ParseError
    try:
        fast = read_frame(raw)
    except ParseError:
        fast = ParseError

    if strict is ParseError and fast is not ParseError:
        assert any(abs(number) > 2**63 - 1 for number in integers_of(fast))
    else:
        assert fast == strict


def integers_of(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in integers_of(item)]
    return [value] if isinstance(value, int) else []


@given(st.dictionaries(texts, texts, min_size=1, max_size=5), st.data())
def test_read_frame_when_a_key_is_doubled_then_it_is_refused(fields: dict[str, str], data: st.DataObject) -> None:
    doubled = data.draw(st.sampled_from(sorted(fields)))
    members = [
        f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in fields.items()
    ]
    members.append(f"{json.dumps(doubled, ensure_ascii=False)} :1")
    raw = f'{{"outer":{{{",".join(members)}}}}}'.encode()

    with pytest.raises(ParseError, match="twice"):
        read_frame(raw)


@pytest.mark.parametrize(
    ("raw", "path", "problem"),
    [
        (rb'{"params":{"jobs":[{"env":{"FOO":"a\u0000"}}]}}', "jobs[0].env.FOO", "NUL at character 1"),
        (rb'{"params":{"args":["\ud800"]}}', "args[0]", "lone surrogate U\\+D800"),
        (rb'{"params":{"\udfff":1}}', "\\udfff", "lone surrogate"),
        (b'{"params":{"x":NaN}}', "x", "nan is not a number"),
        (b'{"params":{"x":[1,-1e999]}}', "x[1]", "-inf is not a number"),
        (b'{"params":{"x":9223372036854775808}}', "x", "9223372036854775808 is out of range"),
        (b'{"params":{"x":{"k":1,"k":2}}}', "x.k", "twice"),
        (b'{"params":{"x":"' + b"x" * (MAX_STRING_BYTES + 1) + b'"}}', "x", "65537 bytes; the limit is 65536"),
        ('{"params":{"x":"' + "é" * (MAX_STRING_BYTES // 2 + 1) + '"}}', "x", "65538 bytes"),
        (b'{"a":' + deep(MAX_DEPTH) + b"}", "a" + "[0]" * (MAX_DEPTH - 1), "nested deeper than 32"),
    ],
)
def test_parse_strict_when_a_field_must_not_pass_then_its_path_is_named(
    raw: bytes | str, path: str, problem: str
) -> None:
    raw = raw.encode() if isinstance(raw, str) else raw

    with pytest.raises(ParseError, match=problem) as caught:
        parse_strict(raw)

    assert caught.value.details["path"] == path
    assert caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "raw", [deep(10_000), deep(200_000), b"1" * 5000, b"\xff", b"\xef\xbb\xbf1", b"", b"{", b"[1] 2"]
)
def test_parse_strict_when_the_whole_cannot_be_read_then_a_parse_error_says_why(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse_strict(raw)


def test_parse_strict_when_depth_is_at_the_limit_then_it_passes() -> None:
    assert parse_strict(deep(MAX_DEPTH)) == json.loads(deep(MAX_DEPTH))


@pytest.mark.parametrize("bad", ["\udcff", math.nan, math.inf])
def test_encode_when_a_value_cannot_be_sent_then_its_path_is_named(bad: object) -> None:
    with pytest.raises(ParseError) as caught:
        encode({"params": {"args": ["fine", bad]}})

    assert caught.value.details["path"] == "args[1]"


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_framer_when_bytes_arrive_in_any_pieces_then_the_frames_are_the_same(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"\n".join(lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    framer = Framer()

    read = [
        frame
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for frame in framer.feed(stream[begin:end])
    ]

    assert read + framer.finish() == [line for line in stream.split(b"\n") if line.strip()]
    assert framer.unfinished == 0


@pytest.mark.parametrize("piece", [1024, 100_000, 2 * MAX_FRAME_BYTES])
def test_framer_when_a_frame_is_too_long_then_only_earlier_frames_come_out(piece: int) -> None:
    stream = b"first\n" + b"x" * (MAX_FRAME_BYTES + 1) + b"\nlast\n"
    framer = Framer()

    read = [frame for start in range(0, len(stream), piece) for frame in framer.feed(stream[start : start + piece])]

    assert read == [b"first"]
    assert framer.overflowed


def test_framer_when_a_frame_is_as_long_as_allowed_then_it_comes_out() -> None:
    framer = Framer()

    assert framer.feed(b"x" * MAX_FRAME_BYTES + b"\n") == [b"x" * MAX_FRAME_BYTES]
    assert not framer.overflowed
