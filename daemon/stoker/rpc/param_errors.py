"""The message for a wrong parameter: path, problem, value, limit and hint.

Owns the way from msgspec's message to one that a person can act on. msgspec names fields and indexes, but writes
`[...]` for an entry of a mapping and knows neither hints nor units. So this module follows the path again, through the
value and its type. It runs only after msgspec has refused a request.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from functools import cache, lru_cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from stoker.core.command_limits import MAX_SHOWN
from stoker.core.errors import InvalidParams
from stoker.core.job.conditions import FORMS
from stoker.core.job.secret_values import NAME_RULE, NOT_KEPT
from stoker.core.requests import MAX_INT, JobWork, RateSettings
from stoker.core.similar_names import did_you_mean
from stoker.core.units import spoken
from stoker.core.workflow.definition import StepParams

_WHERE = re.compile(r"(?P<key>`key(?: in .*)?` in )?`\$(?P<path>[^`]*)`", re.DOTALL)
_TOKEN = re.compile(r"\.(\w+)|\[(\d+)\]|\[(\.\.\.)\]")
_FIELD = re.compile(r"(?P<what>unknown|required) field `(?P<name>.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected (`(?!str` matching).*?)(?:, got .*?)?(?: - at .*)?$", re.DOTALL)
_UNITS = {"ms": "milliseconds", "bytes": "bytes", "seconds": "seconds"}
_OUT_OF_RANGE = re.compile(r"Expected `(int|float)` [<>]=")
_TOO_LONG = re.compile(r"Expected `str` of length <= (\d+)")
SHORTER = "shorten it; large data and long scripts go into a file that the job reads"
# msgspec's names of types in words. The object beside a string stands for raw bytes, which few users know.
_TYPES = {
    "str | object": "a string",
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_TYPE = re.compile(r"\b(" + "|".join(map(re.escape, _TYPES)) + r")\b")
_SAFE_KEY = re.compile(r"[!-~]+")

_RATE_KEY_HINT = "letters, digits and . _ : @ / -, at most 128, the first a letter or digit"
_HINTS = {
    "command": "the program alone, such as sha256sum; its arguments stand in args",
    "args": 'a list of strings, as in ["-c", "echo hi"]',
    "working_dir": "an absolute path of a directory",
    "deadline": "on the wire in UTC milliseconds since 1970, as `date +%s%3N` prints",
    "run_at": "on the wire in UTC milliseconds since 1970, as `date +%s%3N` prints",
    "needs": 'ids of jobs, or {"job": 42, "on": "any"}',
    "traceparent": "a W3C trace context: 00-<32 hex digits>-<16 hex digits>-01",
    "label": "as in team=blue",
    "rate_key": _RATE_KEY_HINT,
    "secrets": f'as in {{"TOKEN": {{"base64": "c2VjcmV0"}}}}; the name has {NAME_RULE}',
    "wait_for": FORMS + ', or a group: {"all": ["event:a", "idle"]}, {"any": [...]}',
}
_NAMES_ELSEWHERE = {  # what other tools call a field
    "retries": "max_attempts",
    "retry": "max_attempts",
    "depends": "needs",
    "depends_on": "needs",
    "run": "command",
    "cmd": "command",
    "shell": "command",
    "script": "command",
    "cwd": "working_dir",
    "dir": "working_dir",
    "input": "sources",
    "output": "produces",
    "continue_on_error": "critical",
    "max_parallel": "width",
}
# Fields of a step that have another meaning in a job.
_HINTS_OF: dict[type[Struct], dict[str, str]] = {
    RateSettings: {"key": f"{_RATE_KEY_HINT}; * for each key without a rate of its own"},
    StepParams: {
        "needs": 'steps, as in ["compile"]; { step = "a", on = "failed" }, { job = 41 } or { workflow = 12 }',
        "matrix": 'lists by name, as in { os = ["linux", "mac"], version = ["3.12"] }, with include and exclude',
        "each": 'a list of texts, whole numbers or tables, as in ["a", 3, { os = "linux" }]; write 3.10 as "3.10"',
    },
}
_NAME_HINT = "letters, digits and . _ : -, at most 64, the first a letter or digit"


class Place(NamedTuple):
    """A place in the request: the path to it, its value, and its expected type."""

    steps: tuple[str, ...]
    value: Any
    kind: Any


def invalid_params(message: str, value: object, params: type[Struct], within: str) -> InvalidParams:
    """The error for `message`, by which msgspec refused `value`. `within` is the path of the value in its request."""
    place = Place((), value, params)
    unknown = _FIELD.search(message)
    if unknown and isinstance(value, dict) and unknown["name"] in value:  # a name that may itself look like a path
        return _about_field(place, within, unknown["what"], unknown["name"])
    problem, _, where = message.rpartition(" - at ")
    match = _WHERE.fullmatch(where)
    for token in _TOKEN.findall(match["path"]) if match else ():
        place = _step(place, *token)
    if match and match["key"]:
        return _about_key(place, within)
    field = _FIELD.search(problem if match else message)
    return (
        _about_field(place, within, field["what"], field["name"])
        if field
        else _about_value(place, within, message, params)
    )


def short_error(message: str, within: str) -> InvalidParams:
    """The same with msgspec's own message: only the first mistakes in a request get the full text."""
    place = within or "params"
    return InvalidParams(f"{place}: {message.encode('unicode_escape').decode()[:MAX_SHOWN]}", path=place)


def moved(error: InvalidParams, within: str) -> InvalidParams:
    """The same error, with its path from the request instead of from the job."""
    if not within:
        return error
    return InvalidParams(f"{within}.{error.message}", hint=error.hint, path=f"{within}.{error.details['path']}")


def takes_list(params: type[Struct], field: str) -> bool:
    """Whether a field may be a list."""
    return any(get_origin(kind) in {tuple, list} for kind in _alternatives(_fields(params).get(field)))


# --- following the path -------------------------------------------------------------------------------------


def _step(place: Place, field: str, index: str, _entry: str) -> Place:
    """The place one step further into the value and its type."""
    for kind in _alternatives(place.kind):
        origin = get_origin(kind)
        if field and isinstance(kind, type) and issubclass(kind, Struct):
            inner = _fields(kind)[field]
            return Place((*place.steps, f".{field}"), place.value[field], inner)
        if index and origin in {tuple, list}:
            return Place((*place.steps, f"[{index}]"), place.value[int(index)], get_args(kind)[0])
        if not field and not index and origin is dict:
            key = _first_refused(place.value, kind)
            return Place((*place.steps, f".{_shown_key(key)}"), place.value[key], get_args(kind)[1])
    raise AssertionError(f"no step {field or index} in {place.kind}")


def _alternatives(kind: Any) -> list[Any]:
    """The types of a union, without their annotations."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) is dict or get_origin(kind) in {tuple, list} or not get_args(kind):
        return [kind]
    return [inner for member in get_args(kind) for inner in _alternatives(member)]


@cache
def _fields(struct: type[Struct]) -> dict[str, Any]:
    """The types of the fields by the names that clients use."""
    hints = get_type_hints(struct, include_extras=True)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}


def _first_refused(mapping: dict[str, Any], kind: Any) -> str:
    for key, item in mapping.items():
        try:
            msgspec.convert({key: item}, kind)
        except msgspec.ValidationError:
            return key
    raise AssertionError("a mapping was refused, but each of its entries is valid")


# --- messages -------------------------------------------------------------------------------------------------


def _about_key(place: Place, within: str) -> InvalidParams:
    (mapping,) = [kind for kind in _alternatives(place.kind) if get_origin(kind) is dict]
    key = _first_refused(place.value, mapping)
    hint = _HINTS["secrets"] if place.steps[-1:] == (".secrets",) else _NAME_HINT
    return _error(place._replace(steps=(*place.steps, f".{_shown_key(key)}")), within, "not a valid name", hint)


def _about_field(place: Place, within: str, what: str, name: str) -> InvalidParams:
    place = place._replace(steps=(*place.steps, f".{_shown_key(name)}"))
    if what == "required":
        return _error(place, within, "this field is missing", _HINTS.get(name))
    (struct,) = [kind for kind in _alternatives(place.kind) if isinstance(kind, type) and issubclass(kind, Struct)]
    return _error(place, within, "no such field", _meant(name[:MAX_SHOWN], struct))


@lru_cache
def _meant(name: str, struct: type[Struct]) -> str:
    fields = list(_fields(struct))
    if (name, struct) == ("secrets", JobWork):
        return NOT_KEPT
    if _NAMES_ELSEWHERE.get(name) in fields:
        return f"did you mean {_NAMES_ELSEWHERE[name]}?"
    return did_you_mean(name, fields) or f"known: {', '.join(fields)}"


def _about_value(place: Place, within: str, message: str, params: type[Struct]) -> InvalidParams:
    limit = _limit(place, params)
    beyond = _beyond(place) if _OUT_OF_RANGE.match(message) else None
    if beyond is not None:
        return _error(place, within, beyond, limit)
    if message.startswith("base64: "):
        return _error(place, within, message.partition(" - at ")[0].removeprefix("base64: "), None)
    if ".secrets" in place.steps:
        return _error(place, within, "not allowed here, and not shown as it may be a secret", limit)
    too_long = _TOO_LONG.match(message)
    if too_long:
        return _error(place, within, f"{len(place.value)} characters; the limit is {too_long[1]}", SHORTER)
    shown = json.dumps(place.value)
    if len(shown) > MAX_SHOWN:
        shown = f"{shown[:MAX_SHOWN]}..."
    expected = _EXPECTED.match(message)
    problem = f"expected {_in_words(expected[1])}, got {shown}" if expected else f"not allowed: {shown}"
    unit = _UNITS.get(_field_of(place).rpartition("_")[2])
    return _error(place, within, problem, f"a whole number of {unit}, {limit}" if unit and limit else limit)


def _in_words(expected: str) -> str:
    """`int | null` in backticks → `a whole number or null`."""
    words = _TYPE.sub(lambda name: _TYPES[name[0]], expected.replace("`", ""))
    return words.replace(" | ", " or ").replace("of length >= 1", "that is not empty")


def _beyond(place: Place) -> str | None:
    """The bound that a number exceeds, in the unit of its field; None without a bound."""
    field = _field_of(place)
    for meta in _metas(place.kind):
        if meta.ge is not None and place.value < meta.ge:
            return f"{spoken(field, place.value)} is less than {spoken(field, meta.ge)}, the minimum"
        if meta.le is not None and place.value > meta.le:
            return f"{spoken(field, place.value)} is more than {spoken(field, meta.le)}, the maximum"
    return None


def _field_of(place: Place) -> str:
    return next((step.lstrip(".") for step in reversed(place.steps) if step.startswith(".")), "")


def _limit(place: Place, params: type[Struct]) -> str | None:
    """The hint for a place: its own text if it has one, else the limits of its type."""
    enums = [kind for kind in _alternatives(place.kind) if isinstance(kind, type) and issubclass(kind, Enum)]
    if enums:
        return f"one of: {', '.join(str(member.value) for kind in enums for member in kind)}"
    field = place.steps[0].lstrip(".") if place.steps else ""
    hint = _HINTS_OF.get(params, {}).get(field) or _HINTS.get(field)
    if hint is not None:
        return hint
    metas = _metas(place.kind)
    if any(meta.pattern for meta in metas):
        return _NAME_HINT
    if any(meta.min_length for meta in metas):
        counted = (
            "items" if any(get_origin(kind) in {tuple, list} for kind in _alternatives(place.kind)) else "characters"
        )
        return next((f"1 to {meta.max_length} {counted}" for meta in metas if meta.max_length), None)
    return next((_range(_field_of(place), meta) for meta in metas if meta.ge is not None and meta.le is not None), None)


def _range(field: str, meta: Meta) -> str:
    assert meta.ge is not None
    assert meta.le is not None
    least = spoken(field, meta.ge)
    return f"at least {least}" if meta.le == MAX_INT else f"{least} to {spoken(field, meta.le)}"


def _metas(kind: Any) -> list[Meta]:
    own = [extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Meta)]
    members = () if get_origin(kind) in {dict, tuple, list} else get_args(kind)
    return own + [meta for member in members for meta in _metas(member)]


def _error(place: Place, within: str, problem: str, hint: str | None) -> InvalidParams:
    path = f"{within}{''.join(place.steps)}".lstrip(".") or "params"
    return InvalidParams(f"{path}: {problem}", hint=hint, path=path)


def _shown_key(key: str) -> str:
    """A key that is safe to print on terminals and in logs."""
    return (key if _SAFE_KEY.fullmatch(key) else key.encode("unicode_escape").decode())[:MAX_SHOWN]
