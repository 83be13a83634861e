"""The order of tests for several workers: nothing is lost, and each worker's part begins with long ones."""

from __future__ import annotations

import pytest

from tests.support.shares import long_first

TESTS = [*"abcdefg", *"LMNOP"]  # capitals are long


@pytest.mark.parametrize(
    ("workers", "expected"),
    [(1, "LMNOPabcdefg"), (2, "LNPabcMOdefg"), (3, "LOabMPcdNefg"), (20, "LMNOPabcdefg")],
)
def test_order_when_there_are_long_tests_then_each_workers_part_begins_with_them(workers: int, expected: str) -> None:
    assert "".join(long_first(TESTS, str.isupper, workers)) == expected


def test_order_when_no_test_is_long_then_it_stays() -> None:
    assert long_first(TESTS, lambda _: False, 6) == TESTS
