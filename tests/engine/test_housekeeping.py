"""Reports about a full disk. tests/faults/test_storage_errors.py shows that the daemon survives one."""

from __future__ import annotations

import pytest

from stoker.upkeep.housekeeping import shortage


@pytest.mark.parametrize(
    ("free", "least", "message"),
    [
        (1_978_368, 64 << 20, "1.9M are free, less than the 64.0M that are kept free ([disk] min_free_bytes)"),
        (1_978_368, 1_000_000, "a commit found no room, though 1.9M are free"),
        (0, 0, "a commit found no room, though 0B are free"),
    ],
)
def test_shortage_when_it_is_shown_then_it_does_not_contradict_itself(free: int, least: int, message: str) -> None:
    assert shortage(free, least) == message
