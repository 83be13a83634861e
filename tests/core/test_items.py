"""The items of a fan-out: their labels, their text, and the words that templates have for them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.workflow.items import MAX_LABEL, Item, item_text, labels, words

TEXTS = st.text(max_size=60)
TABLES = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}", fullmatch=True), TEXTS | st.integers() | st.booleans(), min_size=1
)


@pytest.mark.parametrize(
    ("item", "label"),
    [
        ("lexer", "lexer"),
        (3, "3"),
        ("a b/c\n", "a_b/c_"),
        ("naïve", "na_ve"),
        ("", "_"),
        ("/long" * 10 + "/a.c", ("/long" * 10 + "/a.c")[-MAX_LABEL:]),
        ({"os": "linux", "version": "3.12"}, "linux,3.12"),
        ({"jobs": 4, "fast": True}, "4,true"),
        ({"path": "/x", "name": "first"}, "first"),
        ({"name": 7}, "7"),
        ({"os": ""}, "_"),
    ],
)
def test_label_when_an_item_is_given_then_it_can_stand_in_a_name(item: Item, label: str) -> None:
    assert labels([item]) == [label]


def test_labels_when_items_look_alike_then_the_later_ones_are_numbered() -> None:
    assert labels(["a b", "a_b", "c", "a/b", "a?b"]) == ["a_b", "a_b#2", "c", "a/b", "a_b#3"]


@given(st.lists(TEXTS | st.integers() | TABLES, max_size=30))
def test_labels_when_items_are_random_then_all_differ_and_are_plain(items: list[Item]) -> None:
    found = labels(items)

    assert len(set(found)) == len(items)
    assert all(re.fullmatch(r"[A-Za-z0-9._/+@%=:,-]{1,48}(#[0-9]+)?", label) for label in found)


@pytest.mark.parametrize(
    ("item", "text", "of_item"),
    [
        ("a", "a", {"item": "a"}),
        (3, "3", {"item": "3"}),
        ({"os": "a b", "n": 2, "on": False}, '{"os":"a b","n":2,"on":false}',
         {"item.os": "a b", "item.n": "2", "item.on": "false"}),
    ],
)  # fmt: skip
def test_item_when_a_step_asks_for_it_then_it_is_a_text_and_words(item: Item, text: str, of_item: object) -> None:
    assert (item_text(item), words(item)) == (text, of_item)


@given(TABLES)
def test_item_when_it_is_a_table_then_its_text_is_the_table_as_json(table: dict[str, str | int | bool]) -> None:
    assert json.loads(item_text(table)) == table
