"""Waiting for facts: check, and check again until a deadline.

Owns the only sleep in the tests, the pause between two checks of something that cannot be waited for (a row, a foreign
process, a line in a file). If the fact does not come, the error shows the last value that was seen.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import IO, TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")
# Between two checks passes a tenth of the time waited so far: what comes at once is seen at once, and a long wait
# leaves the processor to those it waits for.
SHARE, SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 0.002, 0.05
# Of every wait in the tests. Long, because a busy machine must not fail a test; one that passes never waits so long.
DEADLINE_S = 60.0


class NeverCame(AssertionError):
    """The fact did not come before its deadline."""


def until(fact: Callable[[], T], timeout_s: float = DEADLINE_S, why: str = "") -> T:
    """Call `fact` until its result is true; returns that result."""
    began = time.monotonic()
    while not (seen := fact()):
        pause_s = _pause_s(began, timeout_s, seen, why)
        time.sleep(pause_s)
    return seen


def until_empty(fact: Callable[[], Sequence[object]], why: str = "") -> None:
    """Call `fact` until it gives nothing; the error shows what was left."""
    began = time.monotonic()
    while left := fact():
        pause_s = _pause_s(began, DEADLINE_S, left, why)
        time.sleep(pause_s)


async def until_async(fact: Callable[[], T], timeout_s: float = DEADLINE_S, why: str = "") -> T:
    """`until` for a test that runs in the same event loop as the watched code."""
    began = time.monotonic()
    while not (seen := fact()):
        pause_s = _pause_s(began, timeout_s, seen, why)
        await asyncio.sleep(pause_s)
    return seen


def line_with(process: subprocess.Popen[str], stream: IO[str] | None, words: str) -> str:
    """The next line with these words that the process writes to `stream`; the process is killed if none comes."""
    assert stream is not None
    deadline = threading.Timer(DEADLINE_S, process.kill)
    deadline.start()
    try:
        line = next((line for line in stream if words in line), None)
    finally:
        deadline.cancel()
    if line is None:
        raise NeverCame(f"a line with {words!r} did not come within {DEADLINE_S:g} s, or before the end of the output")
    return line


def scales(first_ms: int) -> Iterator[int]:
    """Limits for a test to try, each four times the last, until the worker to be limited started in time.

    A busy machine may need longer to start a worker than a short limit lasts. The test leaves the loop with what it
    prepared; it fails when even a limit of a minute was too short.
    """
    limit_ms = first_ms
    while limit_ms < 4 * DEADLINE_S * 1_000:
        yield limit_ms
        limit_ms *= 4
    raise NeverCame("the worker to be limited never started in time")


def _pause_s(began: float, timeout_s: float, seen: object, why: str) -> float:
    """How long to wait until the next check; NeverCame if the time is over."""
    waited_s = time.monotonic() - began
    if waited_s > timeout_s:
        raise NeverCame(f"{why or 'the fact'} did not come within {timeout_s:g} s; seen last: {seen!r}")
    return min(max(SHARE * waited_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
