"""The list of mutants is true to the code: each line is there once, and so are the tests that must notice.

`make test-mutants` tries whether they are caught, which takes minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.mutants.mutants import mutants

ROOT = Path(__file__).parents[1]
LISTED = mutants()
LEAST = 14


@pytest.mark.parametrize("name", LISTED)
def test_mutant_when_the_code_is_read_then_its_line_and_its_tests_exist(name: str) -> None:
    assert LISTED[name].stale(ROOT) is None


def test_mutants_when_counted_then_the_list_is_complete() -> None:
    assert len(LISTED) >= LEAST


@pytest.mark.parametrize(
    "change",
    [
        {"line": "no such line"},
        {"line": ""},
        {"sabotage": LISTED["no-tombstones"].line},
        {"tests": ()},
        {"tests": ("tests/launcher/test_contract.py::test_gone",)},
    ],
)
def test_mutant_when_it_is_stale_then_that_is_noticed(change: dict[str, str]) -> None:
    assert replace(LISTED["no-tombstones"], **change).stale(ROOT) is not None
