"""W3C trace context: the identity by which the spans of a job join those of its submitter.

Owns the `traceparent` format and the ids of Stoker's own spans. A job may outlive the daemon that accepted it, so span
ids are derived from what is on disk and not kept in memory.

Invariants: `make_traceparent` writes what `parse_traceparent` has read; an id of zeros is never valid
(W3C Trace Context, https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import hashlib
import re

from msgspec import Struct

from stoker.core.job.run_id import RunId

TRACE_ID_BYTES = 16
SAMPLED = 0x01
_FORMAT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)


class TraceParent(Struct, frozen=True):
    """The caller's trace id (32 hex digits), span id (16 hex digits), and whether its spans are being recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True


def new_trace_id(entropy: bytes) -> str:
    assert len(entropy) == TRACE_ID_BYTES, "a trace id has 128 bits"
    return entropy.hex() if any(entropy) else "0" * 31 + "1"


def parse_traceparent(text: str) -> TraceParent | None:
    """The context in a `traceparent` header, or None if it is not one."""
    match = _FORMAT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & SAMPLED))


def make_traceparent(parent: TraceParent) -> str:
    """The `traceparent` header of a context, in version 00."""
    return f"00-{parent.trace_id}-{parent.span_id}-{'01' if parent.sampled else '00'}"


def derived_span_id(*parts: object) -> str:
    """The id of a span for something on disk: the same parts always give the same id."""
    name = "\0".join(map(str, parts))
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def attempt_span_id(run_id: str) -> str:
    """The span of one attempt: the random part of its run id."""
    return RunId.parse(run_id).nonce
