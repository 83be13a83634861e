"""The messages for wrong settings: the key or variable, its value, and the values that are allowed.

Owns these messages, derived from the types of the settings. msgspec has already found the mistake.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import inspect

LONGEST_SHOWN: Final = 60


def unknown(where: str, noun: str, suggestion: str | None) -> str:
    """The message for an unknown name, with the nearest known one."""
    return f"{where}: unknown {noun}" + (f"; did you mean {suggestion}?" if suggestion else "")


def rejected(where: str, value: Any, type_: Any) -> str:
    """The message for a value of the wrong type or out of bounds."""
    shown = repr(value)
    if len(shown) > LONGEST_SHOWN:
        shown = shown[:LONGEST_SHOWN] + "…"
    return f"{where} = {shown}: expected {expected(type_)}"


def expected(type_: Any) -> str:
    """The allowed values in words, as in `a whole number from 1 to 100`."""
    return _words(inspect.type_info(type_))


def _words(info: inspect.Type) -> str:
    words = "a table" if isinstance(info, inspect.DictType | inspect.StructType) else "text"
    match info:
        case inspect.Metadata(extra_json_schema={"title": str(title)}):
            words = title
        case inspect.Metadata(type=inner):
            words = _words(inner)
        case inspect.UnionType(types=types):
            words = _words(next(inner for inner in types if not isinstance(inner, inspect.NoneType)))
        case inspect.IntType():
            words = "a whole number" + _range(info)
        case inspect.FloatType():
            words = "a number" + _range(info)
        case inspect.BoolType():
            words = "true or false"
        case inspect.LiteralType(values=values):
            words = "one of " + ", ".join(map(repr, values))
        case inspect.EnumType(cls=cls):
            words = "one of " + ", ".join(repr(member.value) for member in cls)
        case inspect.VarTupleType(item_type=item):
            words = "a list of " + _words(item)
    return words


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    """The bounds of a number; every setting has two. `above` excludes the bound itself."""
    assert info.le is not None, "every number among the settings has an upper bound"
    if info.gt is not None:
        return f" above {number(info.gt)} and up to {number(info.le)}"
    assert info.ge is not None, "every number among the settings has a lower bound"
    return f" from {number(info.ge)} to {number(info.le)}"


def number(value: float) -> str:
    """As TOML writes it, whole numbers with separators."""
    return f"{int(value):_}" if value == int(value) else repr(value)
