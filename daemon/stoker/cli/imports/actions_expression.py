"""Expressions of GitHub Actions: read into a tree, and written as conditions of a flow.

Owns the grammar (literals, contexts, calls, operators) and what of it a condition can say.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeGuard

from stoker.core.errors import ParseError

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<word>[A-Za-z_][\w-]*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[!<>()\[\],.*]))"
)
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">="))
STATUS_CHECKS = {"always": "always", "failure": "any_failed", "success": None}
_RESULTS = {"success": "succeeded", "failure": "failed", "cancelled": "cancelled", "skipped": "skipped"}
_METHODS = {"contains": "contains", "startswith": "startsWith", "endswith": "endsWith"}


@dataclass(frozen=True)
class Constant:
    value: str | float | bool | None


@dataclass(frozen=True)
class ContextValue:
    """`needs.build.outputs.path` as its parts."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class FunctionCall:
    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True)
class Operation:
    """`!` has one operand, every other operator two."""

    sign: str
    operands: tuple[Expression, ...]


Expression = Constant | ContextValue | FunctionCall | Operation


class NotMapped(Exception):
    """A part of an expression that no flow can say."""


class Condition(NamedTuple):
    """The `when` and `if` of a step; None: the default."""

    when: str | None
    text: str | None


class FlowNames(Protocol):
    """The values of contexts as expressions of a flow. Each raises NotMapped for one that a flow does not have."""

    def value(self, path: tuple[str, ...]) -> str:
        """A text."""

    def has_ended(self, path: tuple[str, ...], state: str) -> str:
        """Whether the need of `needs.JOB.result` has ended in a state."""


def parsed(text: str) -> Expression:
    """The tree of an expression. Raises ParseError."""
    try:
        return _ExpressionParser(text).whole()
    except RecursionError:
        raise ParseError(f"an expression of {len(text)} characters is nested too deeply") from None


def condition(expression: Expression, names: FlowNames) -> Condition:
    """The condition of a job. Raises NotMapped."""
    parts = _conjuncts(expression)
    checks = [part.name.lower() for part in parts if _is_check(part)]
    unknown = [name for name in checks if name not in STATUS_CHECKS]
    if unknown or len(checks) > 1:
        raise NotMapped(f"{(unknown or checks)[0]}()")
    rest = [part for part in parts if not _is_check(part) and part != Constant(value=True)]
    when = STATUS_CHECKS[checks[0]] if checks else None
    written = [_boolean(part, names) for part in rest]
    if len(written) > 1:
        written = [f"({text})" if " || " in text or " ? " in text else text for text in written]
    return Condition(when, " && ".join(written) or None)


def _conjuncts(expression: Expression) -> list[Expression]:
    if isinstance(expression, Operation) and expression.sign == "&&":
        return [part for operand in expression.operands for part in _conjuncts(operand)]
    return [expression]


def _is_check(part: Expression) -> TypeGuard[FunctionCall]:
    return isinstance(part, FunctionCall) and not part.arguments


def _boolean(expression: Expression, names: FlowNames) -> str:
    """An expression where true or false is asked for: a text is true if it is not empty."""
    match expression:
        case ContextValue(path):
            return f"{names.value(path)} != ''"
        case Constant(value):
            return "true" if value else "false"
        case Operation("!", (operand,)):
            return f"!({_boolean(operand, names)})"
        case Operation("&&" | "||" as sign, (left, right)):
            return f"({_boolean(left, names)}) {sign} ({_boolean(right, names)})"
        case Operation(sign, (left, right)):
            return _result(sign, left, right, names) or f"{_text(left, names)} {sign} {_text(right, names)}"
        case FunctionCall(name, (subject, argument)) if name.lower() in _METHODS:
            return f"{_text(subject, names)}.{_METHODS[name.lower()]}({_text(argument, names)})"
        case FunctionCall(name, _):
            raise NotMapped(f"{name}()")
    raise NotMapped(str(expression))


def _text(expression: Expression, names: FlowNames) -> str:
    """An expression where a text is asked for: all values of a flow are texts."""
    match expression:
        case ContextValue(path):
            return names.value(path)
        case Constant(value):
            return _literal(value)
    raise NotMapped("an operation within a comparison")


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "'true'" if value else "'false'"
    text = json.dumps("" if value is None else str(value), ensure_ascii=False)[1:-1]
    return "'" + text.replace('\\"', '"').replace("'", "\\'") + "'"


def _result(sign: str, left: Expression, right: Expression, names: FlowNames) -> str | None:
    """`needs.x.result == 'success'` asks for a state, which has another name here."""
    for of, other in ((left, right), (right, left)):
        if isinstance(of, ContextValue) and of.path[-1:] == ("result",) and isinstance(other, Constant):
            if other.value not in _RESULTS or sign not in ("==", "!="):
                raise NotMapped(f"{sign} {other.value!r}")
            asked = names.has_ended(of.path, _RESULTS[str(other.value)])
            return asked if sign == "==" else f"!({asked})"
    return None


class _ExpressionParser:
    """By recursive descent; `||` binds the least."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            token = _TOKEN.match(text, at)
            if token is None or token.lastgroup is None:
                raise self._wrong(text[at:].strip())
            self._tokens.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()
        self._at = 0

    def whole(self) -> Expression:
        expression = self._operation(0)
        if self._at < len(self._tokens):
            raise self._wrong(self._tokens[self._at][1])
        return expression

    def _wrong(self, at: str) -> ParseError:
        return ParseError(f"{self._text.strip()!r} is not an expression: {at[:40]!r} is unexpected")

    def _next_is(self, *signs: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at][0] == "sign" and self._sign() in signs

    def _sign(self) -> str:
        return self._tokens[self._at][1]

    def _take(self) -> tuple[str, str]:
        if self._at == len(self._tokens):
            raise self._wrong("its end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, sign: str) -> None:
        if self._take() != ("sign", sign):
            raise self._wrong(self._tokens[self._at - 1][1])

    def _operation(self, level: int) -> Expression:
        if level == len(_LEVELS):
            return self._operand()
        left = self._operation(level + 1)
        while self._next_is(*_LEVELS[level]):
            _, sign = self._take()
            left = Operation(sign, (left, self._operation(level + 1)))
        return left

    def _operand(self) -> Expression:
        if self._next_is("!"):
            self._take()
            return Operation("!", (self._operand(),))
        kind, token = self._take()
        if (kind, token) == ("sign", "("):
            inner = self._operation(0)
            self._expect(")")
            return inner
        if kind == "text":
            return Constant(token[1:-1].replace("''", "'"))
        if kind == "number":
            return Constant(float(token) if "." in token else int(token))
        if kind == "word":
            return self._named(token)
        raise self._wrong(token)

    def _named(self, word: str) -> Expression:
        if word in ("true", "false", "null"):
            return Constant({"true": True, "false": False, "null": None}[word])
        if self._next_is("("):
            return FunctionCall(word, self._arguments())
        path = [word]
        while self._next_is(".", "["):
            _, sign = self._take()
            kind, token = self._take()
            path.append(token[1:-1] if kind == "text" else token)
            if sign == "[":
                self._expect("]")
        return ContextValue(tuple(path))

    def _arguments(self) -> tuple[Expression, ...]:
        self._expect("(")
        arguments: list[Expression] = []
        while not self._next_is(")"):
            if arguments:
                self._expect(",")
            arguments.append(self._operation(0))
        self._expect(")")
        return tuple(arguments)
