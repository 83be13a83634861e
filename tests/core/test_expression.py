"""The `if` of a step: the names that it may have, the mistakes that are found at submit, and the decision."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from stoker.core.job.run_if import Decision, RunIf
from stoker.core.workflow.expression import (
    MAX_EXPRESSION,
    MAX_OUTPUT_BYTES,
    EndOfNeed,
    Scope,
    decide,
    mistakes_in,
    named_needs,
    references,
    run_if,
)

NEEDS = {"test": False, "a-b": False, "compile": True}
SCOPE = Scope(parameters=["env", "tag.name"], needs=NEEDS, has_item=True, item_fields=["os"])
ENDS = (
    EndOfNeed("test", "succeeded", exit_code=0, outputs='{"rows": "12", "ok": "true"}'),
    EndOfNeed("a-b", "skipped", reason="not_needed"),
    EndOfNeed("compile[lexer]", "succeeded", exit_code=0),
    EndOfNeed("compile[parser]", "failed", reason="exit", exit_code=1),
)


def mistakes(text: str, scope: Scope = SCOPE) -> list[str]:
    return [mistake.message for mistake in mistakes_in(text, scope)]


@pytest.mark.parametrize(
    "text",
    [
        "parameters.env == 'prod' && int(needs.test.outputs.rows) > 10 && needs.test.state == 'succeeded'",
        "needs['a-b'].reason == null || needs[\"a-b\"]['exit_code'] != 0",
        "needs.compile.all(s, s.state == 'succeeded')",
        "size(needs.compile.filter(s, s.state == 'failed')) < 2",
        "has(needs.test.outputs.rows) && parameters['tag.name'].startsWith('v')",
        "item.os == 'linux' // a comment about needs.nothing",
        "'needs.nothing' != r'parameters.nothing' && \"\"\"item.x\"\"\" != ''",
        "parameters.env.matches('^(prod|stage)[0-9]*$')",
        "true",
    ],
)
def test_expression_when_it_is_sound_then_it_has_no_mistake(text: str) -> None:
    assert mistakes(text) == []


WRONG = {
    "needs.nope.state == 'failed'": "column 1: the step has no need 'nope' (there are: a-b, compile, test)",
    "true &&\n  parameters.evn == ''": "line 2, column 3: the flow has no parameter 'evn' (there are: env, tag.name)",
    "needs.test.stat == 'failed'": "column 1: a need has no 'stat': name its state, reason, exit_code or outputs",
    "needs.test == 'failed'": "column 1: a need has no value by itself: name its state, reason, exit_code or outputs",
    "size(needs) > 0": "column 6: `needs` is not a value by itself: name one need",
    "needs[item.os].state == ''": "column 1: `needs` is not a value by itself: name one need",
    "item.version > 3": "column 1: an item has no field 'version' (there are: os)",
    "1 +": "column 4: Syntax error: mismatched input '<EOF>'",
    "other == 1": "column 1: undeclared reference to 'other'",
    "needs.test.state > 3": "column 18: > does not take string, int",
    "needs.test.outputs.rows > 10": "column 25: > does not take string, int",
    "true &&\n1 == ''": "line 2, column 3: == does not take int, string",
    "parameters.env": "its value is of type string, and it must be true or false",
    "[1].map(x, x + x) == [2]": "column 5: map is not available here",
    r"'''\''' ''' == '' || [1].map(x, x) == [] || '''''' == ''": "column 26: map is not available here",
    "['a'].exists(a, [a + a].exists(b, size(b) > 1))": "column 25: exists stands in another macro",
    f"{'(' * 40}true{')' * 40}": "it is nested more deeply than 32 levels",
    f"{'!' * MAX_EXPRESSION}true": f"it has {MAX_EXPRESSION + 4} characters; the limit is {MAX_EXPRESSION}",
}


@pytest.mark.parametrize(("text", "expected"), WRONG.items(), ids=[text[:30] for text in WRONG])
def test_expression_when_it_has_a_mistake_then_it_is_named_with_its_place(text: str, expected: str) -> None:
    assert expected in mistakes(text)


def test_expression_when_it_has_several_mistakes_then_all_are_named() -> None:
    assert len(mistakes("needs.nope.state == '' && parameters.nope == '' && 1 == ''")) == 3


def test_item_when_the_step_has_none_then_it_is_refused() -> None:
    assert "column 1: only a step with `each` has an item" in mistakes("item == 'a'", Scope())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [((), ["column 1: an item has no field 'os' (there are: none: an item is no table)"]), (None, [])],
    ids=["texts", "known later"],
)
def test_item_when_a_field_is_named_then_it_is_checked_as_far_as_known(fields: Any, expected: list[str]) -> None:
    assert mistakes("item.os == 'a'", Scope(has_item=True, item_fields=fields)) == expected


def test_item_when_it_is_a_text_then_its_methods_are_no_fields() -> None:
    assert mistakes("item.startsWith('a')", Scope(has_item=True, item_fields=())) == []


def test_mistake_when_a_name_is_misspelt_then_the_nearest_is_suggested() -> None:
    (mistake,) = mistakes_in("needs.tset.state == ''", SCOPE)

    assert mistake.hint == "did you mean test?"


def test_references_when_read_then_texts_comments_and_members_are_none() -> None:
    text = "a.needs.x == 'needs.y' && needs.z.state == '' // needs.w"

    assert references(text)["needs"] == {"z"}


def test_run_if_when_it_is_made_then_it_keeps_only_the_values_that_it_names() -> None:
    given = {"env": "prod", "unused": "x" * 1_000}

    asked = run_if("parameters.env == item && size(needs.compile) > 0", given, "prod", ["compile", "others"])

    assert asked == RunIf(text=asked.text, parameters={"env": "prod"}, item="prod", groups=("compile",))
    assert run_if("true", given, "prod", ["compile"]) == RunIf(text="true")
    assert asked.size == len(asked.text) + len("prod")


TEN = "[0,1,2,3,4,5,6,7,8,9]"
NESTED = f"{TEN}.all(a, {TEN}.all(b, {TEN}.all(c, {TEN}.all(d, {TEN}.all(e, true)))))"
DECIDED = [
    ("int(needs.test.outputs.rows) > 10", Decision.RUN, "is true"),
    ("needs.test.outputs.ok == 'false'", Decision.SKIP, "is false"),
    ("needs['a-b'].reason == 'not_needed' && needs['a-b'].exit_code == null", Decision.RUN, "is true"),
    ("needs.compile.exists(s, s.name == 'compile[parser]' && s.exit_code == 1)", Decision.RUN, "is true"),
    ("size(needs.none) == 0", Decision.RUN, "is true"),
    ("parameters.env == 'prod' && item.os == 'linux'", Decision.RUN, "is true"),
    ("needs.test.outputs.nope == ''", Decision.FAIL, "has no value: there is no 'nope'"),
    ("int(parameters.env) == 1", Decision.FAIL, "has no value: "),
    ("needs.compile.all(s, s.state)", Decision.FAIL, "has no value: "),
    ("needs.compile[0].outputs", Decision.FAIL, "has no value: it is of type map"),
    (NESTED, Decision.FAIL, "has no value: it looks at too many values"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "words"), DECIDED, ids=[text[:30] for text, *_ in DECIDED])
def test_decision_when_the_needs_have_ended_then_it_follows_from_them(
    text: str, expected: Decision, words: str
) -> None:
    asked = RunIf(text=text, parameters={"env": "prod"}, item={"os": "linux"}, groups=("compile", "none"))

    decision, note = decide(asked, ENDS)

    assert decision is expected
    assert note.startswith(f"if: {text} {words}")


def test_decision_when_the_outputs_are_too_large_then_it_has_no_value() -> None:
    decision, note = decide(RunIf(text="true"), [EndOfNeed("a", "succeeded", outputs="x" * (MAX_OUTPUT_BYTES + 1))])

    assert (decision, str(MAX_OUTPUT_BYTES) in note) == (Decision.FAIL, True)


LONG = EndOfNeed("long", "succeeded", outputs=f'{{"notes": "{"a" * 60_000}", "tag": "v1"}}')
MANY = [EndOfNeed(f"many[{number}]", "succeeded", outputs='{"tag": "v1"}') for number in range(100)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("needs.long.outputs.tag.matches('v1')", "is true"),
        ("needs.many.all(s, s.outputs.tag.matches('v1'))", "is true"),
        ("needs.many.all(s, s.outputs.tag != needs.long.outputs.tag)", "is false"),
        ("needs.long.outputs.notes.matches('a[ab]{900}c')", "has no value: its regular expressions look at 60000"),
        ("needs.many.all(s, needs.long.outputs.notes != '')", "has no value: its macros look at texts of 6000000"),
    ],
)
def test_decision_when_it_would_compute_for_long_then_it_has_no_value(text: str, words: str) -> None:
    _, note = decide(RunIf(text=text, groups=("many",)), [LONG, *MANY])

    assert note.startswith(f"if: {text} {words}")


def test_needs_when_some_are_named_then_only_these_are_read() -> None:
    steps = {1: "test", 2: "other", 3: "compile", 4: "compile[lexer]", 5: "align[x]"}
    text = "needs.test.state == '' && size(needs.compile) > 0 && needs.align.state == ''"
    asked = run_if(text, {}, None, ["compile"])

    assert named_needs(asked, steps) == {1: "test", 4: "compile[lexer]", 5: "align[x]"}


def test_needs_when_the_flow_is_nested_then_its_names_are_without_the_prefix() -> None:
    asked = RunIf(text="needs.test.state == 'succeeded'", prefix="build/")

    assert named_needs(asked, {1: "test", 2: "build/test"}) == {2: "test"}


def test_need_of_the_same_item_when_it_is_named_then_it_is_one_step() -> None:
    decision, _ = decide(RunIf(text="needs.align.state == 'failed'"), [EndOfNeed("align[x]", "failed")])

    assert decision is Decision.RUN


def test_library_when_it_is_not_installed_then_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *args: Any, **kw: Any) -> Any:
        if name == "cel_expr_python":
            raise ImportError(name)
        return usual(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", without)

    assert mistakes("true") == ["an expression needs the package cel-expr-python"]
    decision, note = decide(RunIf(text="false || true"), [])
    assert (decision, "the package cel-expr-python is not installed" in note) == (Decision.FAIL, True)
