"""W3C trace context, against the rules and examples of the recommendation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.trace import (
    TraceParent,
    attempt_span_id,
    derived_span_id,
    make_traceparent,
    new_trace_id,
    parse_traceparent,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", TraceParent(TRACE, SPAN, sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", TraceParent(TRACE, SPAN, sampled=False)),
        (f"00-{TRACE}-{SPAN}-03", TraceParent(TRACE, SPAN, sampled=True)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", TraceParent(TRACE, SPAN, sampled=True)),
    ],
)
def test_parse_traceparent_when_valid_then_its_parts_come_out(text: str, expected: TraceParent) -> None:
    assert parse_traceparent(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-\u0661\u0661",
    ],
)
def test_parse_traceparent_when_invalid_then_it_is_ignored(text: str) -> None:
    assert parse_traceparent(text) is None


def test_make_traceparent_when_made_then_it_is_the_header_in_version_00() -> None:
    assert make_traceparent(TraceParent(TRACE, SPAN, sampled=True)) == f"00-{TRACE}-{SPAN}-01"
    assert make_traceparent(TraceParent(TRACE, SPAN, sampled=False)) == f"00-{TRACE}-{SPAN}-00"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_make_traceparent_when_parsed_again_then_nothing_is_lost(
    trace: int,
    span: int,
    sampled: bool,  # noqa: FBT001 - drawn, not passed
) -> None:
    context = TraceParent(f"{trace:032x}", f"{span:016x}", sampled)
    assert parse_traceparent(make_traceparent(context)) == context


def test_new_trace_id_when_entropy_is_zero_then_the_id_is_valid_anyway() -> None:
    assert new_trace_id(bytes(range(16))) == "000102030405060708090a0b0c0d0e0f"
    assert parse_traceparent(f"00-{new_trace_id(bytes(16))}-{SPAN}-01") is not None


def test_new_trace_id_when_entropy_is_short_then_it_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        new_trace_id(b"short")


def test_span_ids_when_derived_again_then_they_are_the_same() -> None:
    assert derived_span_id("job", TRACE, 42) == derived_span_id("job", TRACE, 42)
    assert derived_span_id("job", TRACE, 42) != derived_span_id("job", TRACE, 43)
    assert derived_span_id("a", "bc") != derived_span_id("ab", "c")
    assert parse_traceparent(f"00-{TRACE}-{derived_span_id('wait', 'x')}-01") is not None


def test_attempt_span_id_when_made_then_it_is_the_random_part_of_the_run_id() -> None:
    assert attempt_span_id(f"42.1.{SPAN}") == SPAN
