"""Flow files: TOML or JSON, read into the flow that `workflow.submit` takes.

Owns reading the file, filling in what only the caller knows (PATH, directory, umask), and naming file and path of every
mistake. The daemon checks the flow.
"""

from __future__ import annotations

import json
import os.path
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Any

from stoker.cli import item_files, nested_flows
from stoker.cli.flow_places import FlowPlace, FlowPlaces
from stoker.cli.kit import render, secret_sources, values
from stoker.cli.kit.spec import current_umask, here, overdue, resolve
from stoker.core.errors import FlowInvalid, FrameTooLarge, ParseError, StokerError, UsageError
from stoker.core.leaves import leaves, nul_problem
from stoker.core.units import counted
from stoker.rpc.wire import MAX_FRAME_BYTES, encode, parse_strict, raw_text

ENVELOPE_BYTES = 4096
SHELLS = frozenset({"sh", "bash", "dash", "ksh", "zsh"})
_SCRIPT_OPTION = re.compile(r"-[a-z]*c")  # as in `sh -ec`
_VALUE = re.compile(r"(?<!\{\{)\{\{\s*[^{}\s]+\s*\}\}")
_AS_VARIABLE = 'give it as a variable, as in env = { V = "{{v}}" }; the item of `each` is in $STOKER_ITEM'
_AT = re.compile(r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL)


def read(source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The flow of a file, or of stdin (`-`), with all that it includes. Raises ParseError or FlowInvalid.

    With it the file of each flow in it, by the path before its fields.
    """
    flow = _read_file(source)
    return flow, nested_flows.embed(source, flow, _read_file)


def _read_file(source: str) -> dict[str, Any]:
    """The flow of one file. Raises ParseError with file and line, or FlowInvalid."""
    raw = _bytes(source)
    is_json = source.endswith(".json") or (not source.endswith(".toml") and raw.lstrip()[:1] == b"{")
    source = shown(source)
    flow = _json(source, raw) if is_json else _toml(source, raw)
    secret_sources.place(os.path.dirname(source), flow)
    mistakes = [f"{source}: {mistake}" for mistake in (*item_files.put_in(source, flow), *_unusable(flow))]
    if mistakes:
        raise FlowInvalid(f"{source} has {counted(len(mistakes), 'mistake')}", errors=mistakes)
    return flow


def complete(flow: dict[str, Any]) -> dict[str, Any]:
    """The flow with the caller's umask, directory and PATH filled in, as for a single job; nested ones, too."""
    for _, one in nested_flows.flows(flow):
        _complete(one)
    return flow


def _complete(flow: dict[str, Any]) -> None:
    defaults = flow.get("defaults", {})
    if isinstance(defaults, dict):
        flow["defaults"] = {"umask": current_umask(), **defaults}
        if "working_dir" not in defaults:
            flow["defaults"]["working_dir"] = raw_text(here())
    for _, step in nested_flows.steps_of(flow):
        command = step.get("command")
        if isinstance(command, str) and "{{" not in command and step.get("execution_mode") != "in_process":
            step["command"] = raw_text(resolve(command, {**_env(defaults), **_env(step)}))


def secrets(flow: dict[str, Any]) -> dict[str, Any]:
    """The values of the secrets of a flow and of those that are nested in it, as they are sent. Raises UsageError."""
    sources: dict[str, str] = {}
    for path, one in nested_flows.flows(flow):
        for name, source in secret_sources.declared(one).items():
            if sources.setdefault(name, source) != source:
                hint = "give one of them another name"
                raise UsageError(f"{path}secrets.{name}: an outer or earlier flow has another source for it", hint=hint)
    return {name: secret_sources.sent(name, source) for name, source in sources.items()}


def overdue_steps(flow: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each step whose `run_at` has passed, with a remark."""
    for path, one in nested_flows.flows(flow):
        for place, step in [("defaults", one.get("defaults")), *nested_flows.steps_of(one)]:
            remark = overdue(step) if isinstance(step, dict) else None
            if remark:
                yield path + (place.partition(".")[2] or place), remark


def values_in_scripts(flow: dict[str, Any]) -> Iterator[str]:
    """A remark for each text of a shell that has a value inside, which the shell would read as a part of its script."""
    for path, one in nested_flows.flows(flow):
        for within, step in nested_flows.steps_of(one):
            if PurePath(str(step.get("command"))).name not in SHELLS:
                continue
            args = [arg if isinstance(arg, str) else "" for arg in step.get("args", ())]  # others are bytes
            for index, option in enumerate(args[:-1], 1):
                if _SCRIPT_OPTION.fullmatch(option) and _VALUE.search(args[index]):
                    place = f"{path}{within}.args[{index}]"
                    yield f"{place}: a value inside a script is read as a part of it; {_AS_VARIABLE}"


def shown(source: str) -> str:
    """The name of the file in messages."""
    return "stdin" if source == "-" else source or "''"


def check_size(source: str, flow: dict[str, Any]) -> None:
    """Raises FrameTooLarge if the flow does not fit a request."""
    size = len(encode(flow))
    if size > MAX_FRAME_BYTES - ENVELOPE_BYTES:
        most = render.size(MAX_FRAME_BYTES - ENVELOPE_BYTES)
        raise FrameTooLarge(
            f"{shown(source)}: a flow of {render.size(size)}; at most {most} can be sent",
            hint="use `each` to make many steps of one entry, and [defaults] for what all steps share",
        )


def located(
    source: str, flow: dict[str, Any], error: StokerError, then: str = "", files: Mapping[str, str] | None = None
) -> StokerError:
    """The error with the place of every mistake, one per line; `then` follows its first line.

    `files`: those that the flow was read from, as `read` gives them; None if it was not read from one.
    """
    mistakes = error.details.get("errors")
    if not isinstance(error, FlowInvalid) or not mistakes:
        return error
    place_of = partial(FlowPlace, source, line=None) if files is None else FlowPlaces(files).of
    lines = []
    for path, message, hint in in_order(source, flow, error):
        place = place_of(path)
        line = "" if place.line is None else f":{place.line}"
        where = f"{place.path}: " if place.path and not message.startswith((place.path, path)) else ""
        lines.append(f"{shown(place.file)}{line}: {where}{message}" + (f" ({hint})" if hint else ""))
    head = error.message.partition(": ")[0].removeprefix("the flow ")
    return FlowInvalid(f"{shown(source)} {head}{then}", errors=lines)


def in_order(source: str, flow: dict[str, Any], error: StokerError) -> Iterator[tuple[str, str, str | None]]:
    """Path, message and hint of every mistake, in the order of the file and in the words of its language."""
    mistakes = error.details.get("errors", ())
    for mistake in sorted(mistakes, key=lambda mistake: _position(flow, str(mistake["path"]))):
        path, message = str(mistake["path"]), str(mistake["message"])
        if not source.endswith(".json"):
            message = _of_toml(message)
        yield path, message, _duration_hint(flow, path) or mistake.get("hint")


# --- reading ------------------------------------------------------------------------------------------------


def _bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read {shown(source)}: {error.strerror}") from None


def _json(source: str, raw: bytes) -> dict[str, Any]:
    try:
        json.loads(raw)
    except json.JSONDecodeError as error:
        raise ParseError(f"{source}:{error.lineno}:{error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        pass  # parse_strict has better messages for these
    try:
        flow = parse_strict(raw)
    except ParseError as error:
        raise ParseError(f"{source}: {error.message}", hint=error.hint) from None
    if not isinstance(flow, dict):
        raise ParseError(f"{source}: not a JSON object", hint='{"name": "build", "steps": {"compile": {…}}}')
    return flow


def _toml(source: str, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ParseError(f"{source}:{line}: not UTF-8: byte {raw[error.start]:#04x}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT.match(str(error))
        what = at["what"] if at else str(error)
        where = f"{at['line']}:{at['column']}" if at and at["line"] else str(text.count("\n") + 1)
        raise ParseError(f"{source}:{where}: {what}") from None
    except ValueError:  # of int(), which takes no more than some thousand digits
        raise ParseError(f"{source}: an integer is beyond 64 bits") from None
    except RecursionError:
        raise ParseError(f"{source}: nested too deeply") from None


def _unusable(flow: dict[str, Any]) -> Iterator[str]:
    """Values that TOML allows and no job can have, each with its path."""
    for path, leaf in leaves(flow):
        if problem := nul_problem(leaf):
            yield f"{path}: {problem}"
        elif not isinstance(leaf, str | int | float):
            yield f"{path}: a flow cannot hold the {type(leaf).__name__} {leaf}: write text, or milliseconds since 1970"


def _env(table: object) -> dict[str, Any]:
    env = table.get("env") if isinstance(table, dict) else None
    return env if isinstance(env, dict) else {}


# --- mistakes -----------------------------------------------------------------------------------------------


def _duration_hint(flow: dict[str, Any], path: str) -> str | None:
    """For `timeout = "90s"`: the field and the number to write instead."""
    value = _at(flow, path)
    if not isinstance(value, str):
        return None
    try:
        milliseconds = values.duration(value)
    except UsageError:
        return None
    name = path.rpartition(".")[2].removesuffix("_ms")
    return f"durations in a flow are whole milliseconds: {name}_ms = {milliseconds}"


def _of_toml(message: str) -> str:
    """TOML has tables where JSON has objects, and no null."""
    expected, got, value = message.partition(", got ")
    return expected.replace("an object", "a table").replace(" or null", "") + got + value


def _at(flow: dict[str, Any], path: str) -> Any:
    """The value at `path`."""
    for _, value, rest in _along(flow, path):
        if not rest:
            return value
    return None


def _position(flow: dict[str, Any], path: str) -> list[int]:
    """A sort key: mistakes are reported in the order of the file."""
    return [index for index, _, _ in _along(flow, path)]


def _along(flow: dict[str, Any], path: str) -> Iterator[tuple[int, Any, str]]:
    """Number and value of each key along the path, and the rest of it. Names of steps may contain dots."""
    value: Any = flow
    while path and isinstance(value, dict):
        matches = (key for key in value if path == key or path.startswith((f"{key}.", f"{key}[")))
        key = max(matches, key=len, default=None)
        if key is None:
            return
        number = list(value).index(key)
        value, path = value[key], path[len(key) :].removeprefix(".")
        yield number, value, path
