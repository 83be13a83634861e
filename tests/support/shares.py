"""The order of tests for several workers: each begins with its share of the long ones.

Owns the sizes of shares, which are those of `--dist worksteal`: the tests in a row, cut into equal parts. Without this
all of a folder's long tests are one worker's, and the last one that another steals runs alone at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def long_first(tests: Sequence[T], is_long: Callable[[T], bool], workers: int) -> list[T]:
    """The same tests: in each worker's part first some long ones, then others in the order in which they stood."""
    long, others = [test for test in tests if is_long(test)], [test for test in tests if not is_long(test)]
    ordered: list[T] = []
    for worker in range(workers):
        share = long[worker::workers]
        size = (len(tests) - len(ordered)) // (workers - worker)
        ordered += share + others[: max(0, size - len(share))]
        del others[: max(0, size - len(share))]
    return ordered + others
