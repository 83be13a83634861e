"""The parts of the name of a step, and the steps that a typed name stands for."""

from __future__ import annotations

import pytest

from stoker.core.errors import StepNotFound
from stoker.core.workflow.step_names import (
    beside_groups,
    entries_of,
    fan_out_of,
    found_steps,
    group_of,
    outer_of,
    outers_of,
    path_of,
    steps_named,
)

NAMES = [
    "list",
    "compile[lexer]",
    "compile[parser]",
    "compile[lexer#2]",
    "compiled",
    "old:1",
    "old:12",
    "build",
    "build/link",
    "build/deep/leaf[a/b]",
    "all[x]",
    "all[x]/run",
    "all[y]/run",
]


@pytest.mark.parametrize(
    ("name", "group", "path"),
    [
        ("list", "list", ["list"]),
        ("compile[lexer]", "compile", ["compile[lexer]"]),
        ("compile[lexer#2]", "compile", ["compile[lexer#2]"]),
        ("old:12", "old", ["old:12"]),
        ("build/link", "build/link", ["build", "link"]),
        ("all[x/y]/run[1,2]", "all/run", ["all[x/y]", "run[1,2]"]),
    ],
)
def test_name_when_it_has_labels_or_slashes_then_its_parts_are_known(name: str, group: str, path: list[str]) -> None:
    assert (group_of(name), path_of(name)) == (group, path)


def test_name_when_it_leads_through_flows_then_each_entry_and_label_is_known() -> None:
    name = "build[a/b]/c:1[d]/e"

    assert entries_of(name) == [("build", "a/b"), ("c:1", "d"), ("e", None)]
    assert (outer_of(name), outer_of("e")) == ("build[a/b]/c:1[d]/", "")
    assert outers_of(name) == ["", "build[a/b]/", "build[a/b]/c:1[d]/"]
    assert (fan_out_of("build[a/b]/c[d]"), fan_out_of(name)) == ("build[a/b]/c", None)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("list", ["list"]),
        ("compile", ["compile[lexer]", "compile[parser]", "compile[lexer#2]"]),
        ("compile[lexer]", ["compile[lexer]"]),
        ("old", ["old:1", "old:12"]),
        ("old:1", ["old:1"]),
        ("build", ["build", "build/link", "build/deep/leaf[a/b]"]),
        ("build/deep", ["build/deep/leaf[a/b]"]),
        ("build/deep/leaf[a/b]", ["build/deep/leaf[a/b]"]),
        ("build/deep/leaf[a", []),
        ("all", ["all[x]", "all[x]/run", "all[y]/run"]),
        ("all[x]", ["all[x]", "all[x]/run"]),
        ("all/run", ["all[x]/run", "all[y]/run"]),
        ("nothing", []),
    ],
)
def test_typed_name_when_it_is_read_then_it_stands_for_these_steps(asked: str, meant: list[str]) -> None:
    assert steps_named(asked, NAMES) == meant
    if meant:
        assert found_steps(7, asked, NAMES) == meant


def test_typed_name_when_it_is_misspelt_then_the_nearest_step_or_group_is_named() -> None:
    with pytest.raises(StepNotFound) as of_step:
        found_steps(7, "compile[laxer]", NAMES)
    with pytest.raises(StepNotFound) as of_group:
        found_steps(7, "compi", NAMES, "from")

    assert of_step.value.hint == "did you mean compile[lexer]?"
    assert of_group.value.hint is not None
    assert of_group.value.message.startswith("from: workflow 7 has no step 'compi' (it has: all, all/run, build, ")


def test_typed_name_when_nothing_is_like_it_then_a_command_lists_the_steps() -> None:
    with pytest.raises(StepNotFound) as many:
        found_steps(7, "zzz", [f"step{number}[{label}]" for number in range(20) for label in "ab"])

    assert many.value.hint == "stoker workflow show 7 --steps"
    assert many.value.message.endswith("step14, step15, and 12 more)")


def test_order_when_lists_came_at_run_time_then_their_steps_stand_behind_their_group() -> None:
    first = ["list", "compile", "all", "link", "old[x]", "old[x]/run", "in[a]/many", "in[a]:begin"]
    later = ["compile[b]", "all[1]:begin", "all[1]/run", "all[1]", "compile[a]", "in[a]/many[1]"]

    assert beside_groups(first + later) == [
        "list",
        "compile",
        "compile[b]",
        "compile[a]",
        "all",
        "all[1]:begin",
        "all[1]/run",
        "all[1]",
        "link",
        "old[x]",
        "old[x]/run",
        "in[a]/many",
        "in[a]/many[1]",
        "in[a]:begin",
    ]
