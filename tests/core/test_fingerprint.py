"""Fingerprints of completed steps: equal parts give equal ones, and each changed part is named."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.job.model import Spec
from stoker.core.workflow.fingerprint import difference, digest, proof

SPEC = Spec(command="cc", working_dir="/src", args=("-c", "a.c"), env={"B": "2", "A": "1"})
THEN = proof(SPEC, "base", {"a": "x", "b": None})


def test_proof_when_made_again_of_equal_parts_then_nothing_has_changed() -> None:
    again = replace(SPEC, env={"A": "1", "B": "2"}, priority=9, timeout_ms=5)

    assert difference(THEN, proof(again, "base", {"b": None, "a": "x"})) is None


@pytest.mark.parametrize(
    ("change", "surroundings", "outputs", "part"),
    [
        ({"command": "gcc"}, "base", {"a": "x", "b": None}, "command"),
        ({"args": ("-c", "b.c")}, "base", {"a": "x", "b": None}, "arguments"),
        ({"stdin": "words"}, "base", {"a": "x", "b": None}, "standard input"),
        ({"working_dir": "/other"}, "base", {"a": "x", "b": None}, "working directory"),
        ({"env": {"A": "1"}}, "base", {"a": "x", "b": None}, "environment"),
        ({}, "another", {"a": "x", "b": None}, "environment"),
        ({}, "base", {"a": "y", "b": None}, "the outputs of its needs"),
        ({}, "base", {"a": "x"}, "the outputs of its needs"),
    ],
)
def test_proof_when_a_part_has_changed_then_it_is_named(
    change: dict[str, Any], surroundings: str, outputs: dict[str, str | None], part: str
) -> None:
    text = difference(THEN, proof(replace(SPEC, **change), surroundings, outputs))

    assert text is not None
    assert part in text
    assert ";" not in text


def test_proof_when_several_parts_have_changed_then_all_are_named() -> None:
    text = difference(THEN, proof(replace(SPEC, stdin="words"), "another", {}))

    assert text is not None
    assert text.count(";") == 2


def test_proof_when_the_fingerprint_is_missing_then_that_is_the_difference() -> None:
    assert difference(None, THEN) == "its fingerprint is missing or damaged"


def test_digest_when_keys_come_in_another_order_then_it_is_the_same() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1})
