"""Named events: the request to emit one, and the row that is stored.

An event reaches the jobs of its owner that wait for its name when it is emitted; an event of root reaches the jobs of
every user. A kept event also reaches jobs that are submitted later, until `keep_until`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from stoker.core.errors import InvalidParams
from stoker.core.requests import MAX_INT, Duration, Name, PageLimit, Params, Title
from stoker.core.sorted_json import encode_sorted

MAX_DATA_BYTES = 64 * 1024
KEPT_OF_A_NAME = 1_000  # events of one user and name that are kept for later jobs
KEPT_OF_A_USER = 10_000


def condition_of(name: str) -> str:
    """The condition that an event of this name meets."""
    return f"event:{name}"


class EmitParams(Params, frozen=True, kw_only=True):
    """`one`: only one job gets it, the one that waits longest. `keep_ms`: how long it reaches later submits, too."""

    name: Name
    data: Any = None
    one: bool = False
    keep_ms: Duration | None = None
    idempotency_key: Title | None = None

    def __post_init__(self) -> None:
        if (size := len(self.encoded)) > MAX_DATA_BYTES:
            raise InvalidParams(
                f"data: {size} bytes as JSON; the limit is {MAX_DATA_BYTES}",
                path="data",
                hint="put large data into a file, and its path into the event",
            )

    @property
    def encoded(self) -> bytes:
        return msgspec.json.encode(self.data)

    @property
    def digest(self) -> bytes:
        """The hash of what was asked for: an idempotency key stands for one request."""
        request = encode_sorted((self.name, self.data, self.one, self.keep_ms))
        return hashlib.blake2b(request, digest_size=16).digest()


class EventListParams(Params, frozen=True, kw_only=True):
    """Newest first; `before`: only events with a smaller id."""

    name: Name | None = None
    limit: PageLimit = 100
    before: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None


class NamedEvent(Struct, frozen=True, kw_only=True):
    """One row of `events`. Its id is the number of the change that records it.

    `reached`: the jobs that got it. While jobs with ids up to `last_job` are still to get it, `next_after` is the id of
    the last one that was done. `data` is empty if no job can get it any more. `keep_until` is 0 for an event that is
    not kept: it reaches no later job even if the wall clock is set back.
    """

    id: int
    owner_uid: int
    name: str
    data: str
    emitted_at: int
    one: bool
    keep_until: int
    reached: int = 0
    next_after: int | None = None
    last_job: int = 0
    key: str | None = None
    digest: bytes = b""

    @property
    def condition(self) -> str:
        return condition_of(self.name)

    @property
    def used_up(self) -> bool:
        return self.one and self.reached > 0

    def kept(self, now: int) -> bool:
        """Whether it reaches a job that begins to wait now."""
        return now < self.keep_until and not self.used_up
