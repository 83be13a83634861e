"""The grammar of options, and the completeness of the table of commands."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest

from stoker.cli import main
from stoker.cli.kit import values
from stoker.cli.kit.parser import Command, Option
from stoker.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def sample(*, greedy: bool = False) -> Command:
    @Command(
        words="WORD [WORD]",
        greedy=greedy,
        options=(
            Option("-n --lines", "N", "how many", convert=values.integer),
            Option("-f --follow", None, "go on"),
            Option("--label", "K=V", "a label", convert=values.pair, to="labels", many=True),
            Option("--class", "CLASS", "which", choices=("high", "low")),
        ),
        examples=("stoker sample 1",),
    )
    def run(given: dict[str, object]) -> int:
        return 0

    return run


@pytest.mark.parametrize(
    "arguments", [["-n", "5", "a"], ["-n5", "a"], ["--lines", "5", "a"], ["--lines=5", "a"], ["a", "-n", "5"]]
)
def test_parse_when_a_value_is_spelled_in_any_way_then_it_is_the_same(arguments: list[str]) -> None:
    given = sample().parse(arguments)

    assert given["lines"] == 5
    assert given["words"] == ["a"]
    assert given["follow"] is False
    assert given["labels"] == []


def test_parse_when_an_option_repeats_then_values_collect() -> None:
    assert sample().parse(["--label", "a=1", "--label=b=x=y"])["labels"] == [("a", "1"), ("b", "x=y")]


def test_parse_when_two_dashes_stand_then_all_behind_them_are_words() -> None:
    assert sample().parse(["--follow", "--", "-n", "--x"])["words"] == ["-n", "--x"]


def test_parse_when_greedy_then_the_first_word_ends_the_options() -> None:
    assert sample(greedy=True).parse(["-f", "make", "-n", "--help"])["words"] == ["make", "-n", "--help"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--lines"], "--lines needs a value: --lines N", None),
        (["--lines", "x"], "--lines: 'x' is not a whole number", None),
        (["--folow"], "unknown option --folow", "did you mean --follow?"),
        (["--qqqqq"], "unknown option --qqqqq", None),
        (["--follow=yes"], "--follow takes no value", None),
        (["--class", "mid"], "--class: 'mid' is not one of high, low", None),
        (["--line", "5"], "unknown option --line", "did you mean --lines?"),
    ],
)
def test_parse_when_an_option_is_wrong_then_the_error_names_it(
    arguments: list[str], message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError) as caught:
        sample().parse(arguments)

    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_check_words_when_too_few_or_many_then_the_error_names_what() -> None:
    loaded = sample()

    with pytest.raises(UsageError, match=r"missing WORD \[WORD\]"):
        loaded.check_words(loaded.parse([]))
    with pytest.raises(UsageError, match="unexpected argument 'c'"):
        loaded.check_words(loaded.parse(["a", "b", "c"]))


def commands_in(examples: Sequence[str]) -> list[str]:
    """The commands of stoker in lines of shell; an id takes the place of variables, of `$()`, and of words by xargs."""
    inner = [line for example in examples for line in re.findall(r"\$\(([^)]*)\)", example)]
    outer = [re.sub(r"\$\([^)]*\)", "42", example) for example in examples]
    plain = [re.sub(r'"?\$\w+"?', "42", line) for line in (*inner, *outer)]
    plain = [f"{line} 42" if "xargs" in line else line for line in plain]
    return [match for line in plain for match in re.findall(r"stoker ((?:'[^']*'|[^|;&<>#'])*)", line)]


def parsed(line: str) -> None:
    """Raises UsageError for a command line that would be refused."""
    name, rest = main._named(shlex.split(line))
    loaded = main.load(ROWS[name][0])
    loaded.check_words(loaded.parse(rest))


ROWS = {name: row for rows in main.COMMANDS.values() for name, row in rows.items()}


@pytest.mark.parametrize("name", ROWS)
def test_explain_when_a_command_is_listed_then_it_exists_with_examples_that_parse(name: str) -> None:
    target, summary = ROWS[name]

    loaded = main.load(target)

    text = loaded.explain(name, summary)
    assert text.startswith(f"usage: stoker {name}")
    assert summary in text
    assert any(f"stoker {name.split(maxsplit=1)[0]}" in example for example in loaded.examples)
    for line in commands_in(loaded.examples):
        parsed(line)
    assert len({option.to for option in loaded.options}) == len(loaded.options)
    assert len({spelling for option in loaded.options for spelling in option.names}) == sum(
        len(option.names) for option in loaded.options
    )


def test_explain_when_a_command_says_more_of_itself_then_that_is_in_its_help() -> None:
    loaded = main.load(ROWS["wait"][0])

    assert "124 for a time limit" in loaded.explain("wait", "")


@pytest.mark.parametrize("name", ROWS)
def test_explain_when_the_terminal_is_narrow_then_options_are_wrapped_to_it(name: str) -> None:
    options = main.load(ROWS[name][0]).explain(name, "", 80).partition("options:")[2].partition("examples:")[0]

    assert max(map(len, options.splitlines())) <= 80


def test_overview_when_printed_then_every_command_has_its_line() -> None:
    lines = main.overview().splitlines()
    narrow = main.overview(60).splitlines()

    for name, (_, summary) in ROWS.items():
        assert f"  {name:<22} {summary}" in lines
    assert max(map(len, lines)) <= 100
    assert max(map(len, narrow)) <= 60
