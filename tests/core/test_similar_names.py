"""The known name that a misspelt one resembles."""

from __future__ import annotations

import pytest

from stoker.core.similar_names import MOST_SEARCHED, did_you_mean, nearest

OPTIONS = ("--reason", "--debounce", "--priority", "--env", "-q")


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("--prority", "--priority"),
        ("--evn", "--env"),
        ("-priority", "--priority"),
        ("--cron", None),
        ("--verbose", None),
    ],
)
def test_nearest_when_an_option_is_misspelt_then_only_one_like_it_is_named(typed: str, near: str | None) -> None:
    assert nearest(typed, OPTIONS) == near


def test_nearest_when_there_are_too_many_names_then_none_is_named() -> None:
    assert did_you_mean("name1", [f"name{number}" for number in range(MOST_SEARCHED + 1)]) is None
