"""A matrix: its combinations, what `exclude` drops and what `include` adds; as GitHub describes them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.workflow.matrix import MAX_RULES, combined, size_of, wrong_parts

AXES = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 3), max_size=4, unique=True), min_size=1)


@given(AXES)
def test_combined_when_there_are_only_axes_then_each_combination_is_made_once(axes: dict[str, list[int]]) -> None:
    made = combined(axes)

    assert [tuple(item.values()) for item in made] == list(product(*axes.values()))
    assert len(made) == size_of(axes)


def test_combined_when_values_are_excluded_then_combinations_with_them_are_dropped() -> None:
    matrix: dict[str, list[Any]] = {
        "os": ["linux", "mac"],
        "version": [1, 2],
        "exclude": [{"os": "mac", "version": 1}, {"version": 2}],
    }

    assert combined(matrix) == [{"os": "linux", "version": 1}]


def test_combined_when_entries_are_included_then_they_add_values_or_items() -> None:
    matrix: dict[str, list[Any]] = {
        "fruit": ["apple", "pear"],
        "animal": ["cat", "dog"],
        "include": [
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    }

    assert combined(matrix) == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


@pytest.mark.parametrize(
    ("matrix", "items"),
    [
        ({"include": [{"site": "a"}, {"site": "b"}]}, [{"site": "a"}, {"site": "b"}]),
        ({"a": [], "include": [{"a": 1}]}, [{"a": 1}]),
        ({"a": [True, 1], "exclude": [{"a": 1}]}, [{"a": True}]),
        ({"a": [1], "include": [{"a": True}]}, [{"a": 1}, {"a": True}]),
    ],
    ids=["no axes", "an empty axis", "true is not 1", "1 is not true"],
)
def test_combined_when_it_is_unusual_then_the_items_are_these(matrix: Any, items: list[Any]) -> None:
    assert combined(matrix) == items


def test_size_when_a_few_bytes_ask_for_millions_then_it_is_multiplied() -> None:
    assert size_of({name: [1] * 100 for name in "abcdefghij"}) == 100**10


def test_wrong_parts_when_a_matrix_is_wrong_then_each_place_is_named() -> None:
    matrix: dict[str, list[Any]] = {
        "os": ["linux", {"x": 1}],
        "include": ["mac"],
        "exclude": [{"oss": "mac", "os": "linux"}, *[{}] * MAX_RULES],
    }

    assert {one.path: one.message for one in wrong_parts(matrix, "matrix")} == {
        "matrix.os[1]": "a value of an axis is no table",
        "matrix.include[0]": "not a table",
        "matrix.exclude": f"{MAX_RULES + 1} entries; the limit is {MAX_RULES}",
        "matrix.exclude[0].oss": "there is no such axis (there are: os)",
    }
