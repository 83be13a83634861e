"""The `if` of a step: an expression in CEL about parameters, the item and the ends of needs.

Owns what such an expression may name, and the only use of the library behind it. A mistake is found at submit: in the
syntax, in a name, or in the type of an operand as far as it is known. Invariant: the cost is bounded, because the
library keeps the interpreter lock. The text is short, and the library bounds nesting and the iterations of macros;
`map`, and a macro in another, whose values could double at each use, are refused; `expression_cost` bounds the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from stoker.core.job.run_if import Decision, RunIf
from stoker.core.similar_names import did_you_mean
from stoker.core.workflow.expression_cost import too_much
from stoker.core.workflow.expression_words import Word, inner_macros, words_of

if TYPE_CHECKING:
    from cel_expr_python import cel

MAX_EXPRESSION = 1_000  # characters
MAX_OUTPUT_BYTES = 256 * 1024  # of all needs that one expression names: to convert more would hold up the daemon
FIELDS = ("state", "reason", "exit_code", "outputs")
_PLAIN_TEXT = re.compile(r"""(["'])([^"'\\\n]*)\1\Z""")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ROOTS = {"parameters": "one parameter", "needs": "one need"}
_LIBRARY = "cel-expr-python"
# By a word in a message of the library.
_HINTS = {
    "undeclared": "an expression may name parameters.NAME, needs.STEP.FIELD, and item in a step with `each`",
    "(string, ": "parameters and outputs are texts: int(needs.test.outputs.rows) > 10",
}


class Scope(Struct, frozen=True):
    """The names that an expression may have. `needs`: by name, whether the need is a group of steps.

    `item_fields`: those of each item, none if it is no table; None if they are not known.
    """

    parameters: Collection[str] = ()
    needs: Mapping[str, bool] = {}
    has_item: bool = False
    item_fields: Collection[str] | None = None


class ExpressionMistake(NamedTuple):
    message: str
    hint: str | None = None


class EndOfNeed(Struct, frozen=True):
    """How a needed step ended; `outputs`: its output as JSON."""

    step: str
    state: str
    reason: str | None = None
    exit_code: int | None = None
    outputs: str | None = None

    @property
    def values(self) -> dict[str, Any]:
        outputs = {} if self.outputs is None else json.loads(self.outputs)
        return {
            "name": self.step,
            "state": self.state,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "outputs": outputs,
        }


class _Reference(NamedTuple):
    """A root and what follows it: `needs.test.state` or `needs['test']['state']`; None where no name follows."""

    root: str
    name: str | None
    field: str | None
    at: int


# --- at submit ------------------------------------------------------------------------------------------------


def run_if(text: str, parameters: Mapping[str, str], item: Any, groups: Collection[str]) -> RunIf:
    """The expression with the values that are known at submit, of the names that it has."""
    named = references(text)
    return RunIf(
        text=text,
        parameters={name: parameters[name] for name in sorted(named["parameters"]) if name in parameters},
        item=item if named["item"] else None,
        groups=tuple(sorted(named["needs"] & set(groups))),
    )


@lru_cache(maxsize=256)
def references(text: str) -> dict[str, frozenset[str]]:
    """The names in an expression, by their roots; of `item` the root itself."""
    found: dict[str, set[str]] = {"parameters": set(), "needs": set(), "item": set()}
    for one in _references(words_of(text)):
        if one.root == "item" or one.name is not None:
            found[one.root].add(one.name or one.root)
    return {root: frozenset(names) for root, names in found.items()}


def mistakes_in(text: str, scope: Scope) -> Iterator[ExpressionMistake]:
    """All mistakes of an expression, each with its place in it."""
    if len(text) > MAX_EXPRESSION:
        yield ExpressionMistake(
            f"it has {len(text)} characters; the limit is {MAX_EXPRESSION}",
            "let a step compute the result, and name its output",
        )
        return
    words = words_of(text)
    for word, following in pairwise(words):
        if word.text == "map" and following.text == "(":
            hint = "use all, exists, exists_one, filter or size"
            yield ExpressionMistake(f"{_place(text, word.at)}: map is not available here", hint)
    for word in inner_macros(words):
        hint = "join two expressions with && or ||, or compare with `in`: s.state in ['failed', 'expired']"
        yield ExpressionMistake(f"{_place(text, word.at)}: {word.text} stands in another macro", hint)
    for one in _references(words):
        mistake = _wrong_name(one, scope)
        if mistake is not None:
            yield mistake._replace(message=f"{_place(text, one.at)}: {mistake.message}")
    yield from _refused(text, scope)


def _references(words: list[Word]) -> Iterator[_Reference]:
    for index, word in enumerate(words):
        is_member = index > 0 and words[index - 1].text == "."
        if word.kind != "name" or is_member or word.text not in (*_ROOTS, "item"):
            continue
        name, after = _member(words, index + 1)
        field, _ = _member(words, after) if name is not None else (None, after)
        yield _Reference(word.text, name, field, word.at)


def _member(words: list[Word], index: int) -> tuple[str | None, int]:
    """The name that follows, as `.name` or `['name']`, and the index of the word behind it. A call is no name."""
    following = [*words[index : index + 3], *[Word("", "", 0)] * 3]
    first, second, third = following[:3]
    if first.text == "." and second.kind == "name" and third.text != "(":
        return second.text, index + 2
    if first.text == "[" and third.text == "]" and (plain := _PLAIN_TEXT.match(second.text)):
        return plain[2], index + 3
    return None, index


def _wrong_name(one: _Reference, scope: Scope) -> ExpressionMistake | None:
    if one.root == "item":
        return _wrong_item(one, scope)
    known: Collection[str] = scope.parameters if one.root == "parameters" else scope.needs
    if one.name is None:
        example = f"{one.root}.NAME or {one.root}['NAME']"
        return ExpressionMistake(f"`{one.root}` is not a value by itself: name {_ROOTS[one.root]}", example)
    if one.name not in known:
        names = ", ".join(sorted(known)[:20]) or "none"
        what = "the flow has no parameter" if one.root == "parameters" else "the step has no need"
        return ExpressionMistake(f"{what} {one.name!r} (there are: {names})", did_you_mean(one.name, known))
    if one.root == "needs" and not scope.needs[one.name] and one.field not in FIELDS:
        problem = "a need has no value by itself" if one.field is None else f"a need has no {one.field!r}"
        return ExpressionMistake(f"{problem}: name its {', '.join(FIELDS[:-1])} or {FIELDS[-1]}")
    return None


def _wrong_item(one: _Reference, scope: Scope) -> ExpressionMistake | None:
    if not scope.has_item:
        return ExpressionMistake("only a step with `each` has an item")
    if one.name is not None and scope.item_fields is not None and one.name not in scope.item_fields:
        fields = ", ".join(sorted(scope.item_fields)) or "none: an item is no table"
        return ExpressionMistake(f"an item has no field {one.name!r} (there are: {fields})")
    return None


def _place(text: str, at: int) -> str:
    line = text.count("\n", 0, at) + 1
    return _position(line, at - text.rfind("\n", 0, at), "\n" in text)


def _position(line: int, column: int, several: bool) -> str:  # noqa: FBT001 - whether the text has several lines
    return f"line {line}, column {column}" if several else f"column {column}"


# --- the library ----------------------------------------------------------------------------------------------

_ERROR = re.compile(r"ERROR: <input>:(-?[0-9]+):(-?[0-9]+): (.*)")
_STATUS = re.compile(r"(?:[A-Z_]+: )?(.*?)(?: \[[A-Z_]+\])?\Z", re.DOTALL)
# Its messages in our words.
_REWORDED = (
    (re.compile(r"(undeclared reference to '.*?') \(in container ''\)"), r"\1"),
    (re.compile(r"(Syntax error: .*?) expecting .*", re.DOTALL), r"\1"),
    (re.compile(r"found no matching overload for '_?(.*?)_?' applied to '\((.*)\)'"), r"\1 does not take \2"),
    (re.compile(r'Key not found in map : "(.*)"'), r"there is no '\1'"),
    (re.compile(r"(?:Expression recursion limit exceeded. limit:|Exceeded max recursion depth of) (\d+).*"),
     r"it is nested more deeply than \1 levels"),
    (re.compile(r"Iteration budget exceeded"), "it looks at too many values"),
)  # fmt: skip


def _refused(text: str, scope: Scope) -> Iterator[ExpressionMistake]:
    """The mistakes that the library finds: wrong syntax, unknown names, wrong types."""
    try:
        checked = _environment(_types(text, scope)).compile(text)
    except ImportError:
        yield ExpressionMistake(f"an expression needs the package {_LIBRARY}", f"pip install {_LIBRARY}")
        return
    except RuntimeError as error:
        for line, column, message in _ERROR.findall(str(error)) or [("-1", "-1", str(error))]:
            place = "" if int(line) < 1 else f"{_position(int(line), int(column), chr(10) in text)}: "
            hint = next((words for word, words in _HINTS.items() if word in message), None)
            yield ExpressionMistake(f"{place}{_reworded(message)}", hint)
        return
    kind = checked.return_type().name()
    if kind not in ("BOOL", "DYN"):
        yield ExpressionMistake(f"its value is of type {kind.lower()}, and it must be true or false")


def _types(text: str, scope: Scope) -> dict[str, str]:
    """The type of each name, as far as it is known."""
    types = {"parameters": "map(string, string)", "needs": "map(string, dyn)"}
    types["item"] = "map(string, dyn)" if scope.item_fields else "dyn"
    for name in references(text)["needs"] & scope.needs.keys():
        if not _PLAIN_NAME.match(name):
            continue
        if scope.needs[name]:
            types[f"needs.{name}"] = "list(map(string, dyn))"
        else:
            types |= {f"needs.{name}.state": "string", f"needs.{name}.outputs": "map(string, string)"}
    return types


def _environment(types: Mapping[str, str]) -> cel.Env:
    """Raises ImportError where the library is missing."""
    from cel_expr_python import cel  # noqa: PLC0415 - only a flow with an `if` pays for it

    kinds = {
        "string": cel.Type.STRING,
        "dyn": cel.Type.DYN,
        "map(string, string)": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
        "map(string, dyn)": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
        "list(map(string, dyn))": cel.Type.List(cel.Type.Map(cel.Type.STRING, cel.Type.DYN)),
    }
    return cel.NewEnv(variables={name: kinds[kind] for name, kind in types.items()})


@lru_cache(maxsize=256)
def _compiled(text: str) -> cel.Expression:
    names = {"parameters": "map(string, string)", "needs": "map(string, dyn)", "item": "dyn"}
    return _environment(names).compile(text)


def _reworded(message: str) -> str:
    status = _STATUS.match(message)
    text = status[1] if status else message
    for pattern, words in _REWORDED:
        text = pattern.sub(words, text)
    return text


# --- once the needs have ended ----------------------------------------------------------------------------------


def decide(asked: RunIf, ends: Iterable[EndOfNeed]) -> tuple[Decision, str]:
    """Whether the step runs, and why in a few words. `ends`: of the needs that it names."""
    value = _value(asked, list(ends))
    if isinstance(value, str):
        return Decision.FAIL, f"if: {asked.text} has no value: {value}"
    return (Decision.RUN if value else Decision.SKIP), f"if: {asked.text} is {'true' if value else 'false'}"


def _value(asked: RunIf, ends: Collection[EndOfNeed]) -> bool | str:
    """The value of an expression, or why it has none."""
    if sum(len(end.outputs or "") for end in ends) > MAX_OUTPUT_BYTES:
        return f"the outputs of the needs that it names have more than {MAX_OUTPUT_BYTES} bytes, the limit"
    values = _values(asked, ends)
    if (refusal := too_much(asked.text, values)) is not None:
        return refusal
    try:
        result = _compiled(asked.text).eval(data=values)
        value, kind = result.value(), result.type().name()
    except ImportError:
        return f"the package {_LIBRARY} is not installed"
    except RuntimeError as error:
        return _reworded(str(error))
    if kind == "ERROR":
        return _reworded(str(value))
    return bool(value) if kind == "BOOL" else f"it is of type {kind.lower()}, and not true or false"


def named_needs(asked: RunIf, steps: Mapping[int, str]) -> dict[int, str]:
    """Of these needed steps those that the expression names, each as it is named there."""
    named = references(asked.text)["needs"]
    own = {job: name.removeprefix(asked.prefix) for job, name in steps.items() if name.startswith(asked.prefix)}
    return {job: name for job, name in own.items() if _base(name) in named and name not in asked.groups}


def _values(asked: RunIf, ends: Iterable[EndOfNeed]) -> dict[str, Any]:
    needs: dict[str, Any] = {name: [] for name in asked.groups}
    for end in ends:
        name = _base(end.step)
        if name in asked.groups:
            needs[name].append(end.values)
        else:
            needs[name] = end.values
    return {"parameters": asked.parameters, "item": asked.item, "needs": needs}


def _base(step: str) -> str:
    """The name by which an expression names a step; `compile[lexer]` is one of `compile`."""
    return step.partition("[")[0]
