"""Templates: filled in every text of a step, and never beyond the limit of its field."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.command_limits import MAX_ARGV_BYTES
from stoker.core.requests import MAX_TEXT, JobWork
from stoker.core.workflow.definition import StepParams
from stoker.core.workflow.template import _WORD, MOST_NAMED, Filled, Template, TemplateNames, filled_items, named


def filled(parameters: dict[str, str], item: str | None = None, **fields: Any) -> Filled[JobWork]:
    sent = JobWork(**{"command": "true", **fields})
    return Template(sent, TemplateNames(parameters), of_items=item is not None).fill(item)


def texts_of(result: Filled[JobWork]) -> dict[str, str]:
    return {mistake.path: mistake.message for mistake in result.mistakes}


@pytest.mark.timeout(60)
def test_names_when_a_million_spaces_follow_open_braces_then_the_text_is_read_once() -> None:
    text = "{{" + " " * 1_000_000

    assert _WORD.split(text) == [text]


def test_fill_when_every_text_is_a_template_then_each_is_replaced_and_no_other() -> None:
    result = filled(
        {"a": "1", "b": ""},
        "x",
        command="/{{a}}",
        args=("-{{ item }}", "{{b}}", "${HOME}", "{{"),
        env={"A": "{{a}}{{item}}", "B": "b"},
        working_dir="/{{a}}",
        stdin="{{b}}.",
        name="n {{a}}",
    )

    assert result.mistakes == []
    assert (result.step.command, result.step.args, result.step.env) == (
        "/1",
        ("-x", "", "${HOME}", "{{"),
        {"A": "1x", "B": "b"},
    )
    assert (result.step.working_dir, result.step.stdin, result.step.name) == ("/1", ".", "n 1")
    assert result.locatable


def test_fill_when_a_name_is_unknown_then_its_text_stays_and_the_names_are_listed() -> None:
    result = filled({"known": "1"}, command="{{nope}}", args=("{{item}}{{item}}", "{{known}}"), env={"A": "{{nope}}"})

    assert texts_of(result) == {
        "command": "{{nope}}: no such parameter (there are: known)",
        "args[0]": "{{item}}: no such parameter (there are: known)",
        "env.A": "{{nope}}: no such parameter (there are: known)",
    }
    assert len(result.mistakes) == 3
    assert (result.step.command, result.step.args) == ("{{nope}}", ("{{item}}{{item}}", "1"))


@pytest.mark.parametrize(
    ("fields", "locatable"),
    [({"command": "{{x}}"}, False), ({"working_dir": "/{{x}}"}, False), ({"env": {"PATH": "{{x}}"}}, False),
     ({"env": {"A": "{{x}}"}}, True), ({"args": ("{{x}}",)}, True)],
)  # fmt: skip
def test_fill_when_a_word_is_missing_then_it_matters_for_the_program_where_it_stands(
    fields: dict[str, Any],
    locatable: bool,  # noqa: FBT001
) -> None:
    assert filled({}, **fields).locatable is locatable


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"name": "{{long}}"}, {"name": "filled in, it is not valid: Expected str of length <= 200"}),
        ({"command": "{{none}}"}, {"command": "filled in, it is not valid: Expected str of length >= 1"}),
        (
            {"stdin": "{{long}}{{long}}"},
            {"stdin": f"filled in, it has {MAX_TEXT + 2} characters; the limit is {MAX_TEXT}"},
        ),
        ({"args": ("{{long}}",) * 5}, {"args": f"filled in, they take more than {MAX_ARGV_BYTES} bytes"}),
        (
            {"args": ("{{wide}}",) * 3},
            {"args": f"command and arguments take 180007 bytes; the limit is {MAX_ARGV_BYTES}"},
        ),
    ],
    ids=["too long", "empty", "beyond any text", "too many", "too many bytes"],
)  # fmt: skip
def test_fill_when_a_text_outgrows_its_field_then_that_is_a_mistake(
    fields: dict[str, Any], texts: dict[str, str]
) -> None:
    result = filled({"long": "x" * (MAX_TEXT // 2 + 1), "wide": "é" * 30_000, "none": ""}, **fields)

    assert texts_of(result) == texts


def test_fill_when_texts_are_small_and_many_then_their_number_counts() -> None:
    assert filled({}, args=("",) * 1_000).size > 10_000
    assert filled({"p": "x" * 10_000}, stdin="{{p}}").size > 9_000


def test_names_when_there_are_many_then_the_first_are_shown() -> None:
    assert named([]) == "none"
    assert named(["b", "a"]) == "a, b"
    assert named(f"p{number:02}" for number in range(MOST_NAMED + 2)).endswith("p19, and 2 more")


def test_fill_when_a_label_is_a_template_then_it_is_filled_within_its_limit() -> None:
    result = filled({"a": "1", "long": "x" * 201}, "i", labels={"k": "{{a}}-{{item}}", "l": "{{long}}", "m": "plain"})

    assert result.step.labels == {"k": "1-i", "l": "{{long}}", "m": "plain"}
    assert texts_of(result) == {"labels.l": "filled in, it is not valid: Expected str of length <= 200"}


@pytest.mark.parametrize("text", ["{{json .}}", "x {{a b}} {{a}}", "{{{{ {{a b}}"])
def test_fill_when_braces_hold_no_name_then_the_text_is_refused(text: str) -> None:
    result = filled({"a": "1"}, args=(text,), stdin=text)
    _, wrong = filled_items([text], TemplateNames({"a": "1"}))

    message = f"{'{{json .}}' if 'json' in text else '{{a b}}'}: this is not a name"
    assert texts_of(result) == {"args[0]": message, "stdin": message}
    assert [(one.path, one.message) for one in wrong] == [("each[0]", message)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{{{.Names}}", "{{.Names}}"),
        ("{{{{ {{a}} {{{{", "{{ 1 {{"),
        ("{{a}}{{{{a}}", "1{{a}}"),
        ("{{ {", "{{ {"),
    ],
)
def test_fill_when_braces_are_doubled_then_they_stand_for_themselves(text: str, expected: str) -> None:
    assert filled({"a": "1"}, args=(text,)).step.args == (expected,)


def test_items_when_they_have_parameters_then_wrong_ones_are_named() -> None:
    names = TemplateNames({"a": "1", "long": "x" * MAX_TEXT})

    values, mistakes = filled_items(["{{a}}.c", "plain", "{{b}}", "{{long}}{{a}}", "{{{{"], names)

    assert values == ["1.c", "plain", "{{b}}", "{{long}}{{a}}", "{{"]
    assert {one.path: one.message for one in mistakes} == {
        "each[2]": "{{b}}: no such parameter (there are: a, long)",
        "each[3]": f"filled in, it has {MAX_TEXT + 1} characters; the limit is {MAX_TEXT}",
    }


def test_fill_when_patterns_of_files_have_names_then_they_are_replaced() -> None:
    sent = StepParams(command="cc", sources=("src/{{item}}.c", "all.h"), produces=("{{dir}}/{{item}}.o",))

    made = Template(sent, TemplateNames({"dir": "build"}), of_items=True).fill("lexer")

    assert (made.step.sources, made.step.produces) == (("src/lexer.c", "all.h"), ("build/lexer.o",))
    assert made.mistakes == []


def test_fill_when_a_pattern_is_too_long_then_that_is_a_mistake() -> None:
    sent = StepParams(command="cc", sources=("{{name}}",))

    made = Template(sent, TemplateNames({"name": "x" * 5_000}), of_items=False).fill()

    assert [one.path for one in made.mistakes] == ["sources[0]"]
