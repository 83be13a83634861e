"""The leaves of a document, with their paths."""

from __future__ import annotations

from datetime import UTC, datetime

from stoker.core.leaves import leaves, nul_problem

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


def test_leaves_when_a_document_is_nested_then_each_has_its_path() -> None:
    document = {"a": {"b": [1, {"c": "x"}]}, "at": NOON}

    assert list(leaves(document)) == [
        ("", "a"),
        ("a", "b"),
        ("a.b[0]", 1),
        ("a.b[1]", "c"),
        ("a.b[1].c", "x"),
        ("", "at"),
        ("at", NOON),
    ]


def test_nul_problem_when_a_text_has_a_nul_then_its_place_is_named() -> None:
    assert (nul_problem("ab\0") or "").startswith("NUL at character 2")
    assert nul_problem("ab") is None
    assert nul_problem(0) is None
