"""Flow files: TOML or JSON, read into what `workflow.submit` takes, with every mistake told by file and path.

Owns the way from a file to the flow on the wire, the completion that only the caller's side can make (PATH, the current
directory), and the words for what the daemon refused. Refuses to judge a flow: the daemon does.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

from stoker.cli.kit import render, values
from stoker.cli.kit.spec import current_umask, found, here, overdue
from stoker.cli.kit.steps import counted
from stoker.core.errors import FlowInvalid, FrameTooLarge, ParseError, StokerError, UsageError
from stoker.rpc.wire import MAX_FRAME_BYTES, carried, encode, parse_strict

ENVELOPE_BYTES = 4096
_AT = re.compile(r"^(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$", re.DOTALL)


def read(source: str) -> dict[str, Any]:
    """The flow of a file, or of stdin (`-`). Raises ParseError with file and line, or FlowInvalid."""
    raw = _bytes(source)
    is_json = source.endswith(".json") or (not source.endswith(".toml") and raw.lstrip()[:1] == b"{")
    source = shown(source)
    flow = _json(source, raw) if is_json else _toml(source, raw)
    foreign = [f"{source}: {path}: {problem}" for path, problem in _foreign(flow, "")]
    if foreign:
        raise FlowInvalid(f"{source} has {counted(len(foreign), 'mistake')}", errors=foreign)
    return flow


def complete(flow: dict[str, Any]) -> dict[str, Any]:
    """The flow with what only the caller's side knows, as for a single job: where it stands, and its PATH."""
    defaults = flow.get("defaults", {})
    if isinstance(defaults, dict):
        flow["defaults"] = {"umask": current_umask(), **defaults}
        if "working_dir" not in defaults:
            flow["defaults"]["working_dir"] = carried(here())
    steps = flow.get("steps")
    for step in steps.values() if isinstance(steps, dict) else ():
        command = step.get("command") if isinstance(step, dict) else None
        if isinstance(command, str) and "{{" not in command and step.get("execution_mode") != "in_process":
            step["command"] = carried(found(command, {**_env(defaults), **_env(step)}))
    return flow


def overdue_steps(flow: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The steps whose `run_at` has passed, each with the remark for a person."""
    steps = flow.get("steps")
    for name, step in {"defaults": flow.get("defaults"), **(steps if isinstance(steps, dict) else {})}.items():
        remark = overdue(step) if isinstance(step, dict) else None
        if remark:
            yield name, remark


def shown(source: str) -> str:
    """The name of a source in messages."""
    return "stdin" if source == "-" else source or "''"


def check_size(source: str, flow: dict[str, Any]) -> None:
    """Raises FrameTooLarge for what no frame holds."""
    size = len(encode(flow))
    if size > MAX_FRAME_BYTES - ENVELOPE_BYTES:
        most = render.size(MAX_FRAME_BYTES - ENVELOPE_BYTES)
        raise FrameTooLarge(
            f"{shown(source)}: a flow of {render.size(size)}; at most {most} can be sent",
            hint="`each` makes many steps of one entry, and [defaults] says once what all have in common",
        )


def told(source: str, flow: dict[str, Any], refusal: StokerError, then: str = "") -> StokerError:
    """A refusal in the words of the file, every mistake on a line of its own; and what follows from it."""
    mistakes = refusal.details.get("errors")
    if not isinstance(refusal, FlowInvalid) or not mistakes:
        return refusal
    source, lines = shown(source), []
    for mistake in sorted(mistakes, key=lambda mistake: _position(flow, str(mistake["path"]))):
        path, message = str(mistake["path"]), str(mistake["message"])
        hint = _duration_hint(flow, path) or mistake.get("hint")
        where = f"{source}: {path}: " if path and not message.startswith(path) else f"{source}: "
        lines.append(where + message + (f" ({hint})" if hint else ""))
    head = refusal.message.partition(": ")[0].removeprefix("the flow ")
    return FlowInvalid(f"{source} {head}{then}", errors=lines)


# --- reading ------------------------------------------------------------------------------------------------


def _bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - pathlib only to open a file
            return file.read()
    except OSError as failure:
        raise UsageError(f"cannot read {shown(source)}: {failure.strerror}") from None


def _json(source: str, raw: bytes) -> dict[str, Any]:
    try:
        json.loads(raw)
    except json.JSONDecodeError as wrong:
        raise ParseError(f"{source}:{wrong.lineno}:{wrong.colno}: {wrong.msg}") from None
    except (ValueError, RecursionError):
        pass  # the strict reader has the words for these
    try:
        flow = parse_strict(raw)
    except ParseError as failure:
        raise ParseError(f"{source}: {failure.message}", hint=failure.hint) from None
    if not isinstance(flow, dict):
        raise ParseError(f"{source}: not a JSON object", hint='{"name": "build", "steps": {"compile": {…}}}')
    return flow


def _toml(source: str, raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as failure:
        line = raw.count(b"\n", 0, failure.start) + 1
        raise ParseError(f"{source}:{line}: not UTF-8: byte {raw[failure.start]:#04x}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as failure:
        at = _AT.match(str(failure))
        what = at["what"] if at else str(failure)
        where = f"{at['line']}:{at['column']}" if at and at["line"] else str(text.count("\n") + 1)
        raise ParseError(f"{source}:{where}: {what}") from None
    except RecursionError:
        raise ParseError(f"{source}: nested too deeply") from None


def _foreign(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """What TOML has and no job can have."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _foreign(key, path)
            yield from _foreign(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _foreign(inner, f"{path}[{index}]")
    elif isinstance(value, str) and "\0" in value:
        yield path, f"NUL at character {value.index(chr(0))}: no command or file name can hold one"
    elif not isinstance(value, str | int | float):
        yield path, f"{type(value).__name__} {value} is nothing a flow can hold: write text, or milliseconds since 1970"


def _env(said: object) -> dict[str, Any]:
    env = said.get("env") if isinstance(said, dict) else None
    return env if isinstance(env, dict) else {}


# --- mistakes -----------------------------------------------------------------------------------------------


def _duration_hint(flow: dict[str, Any], path: str) -> str | None:
    """For `timeout = "90s"`: the field and the number that mean the same."""
    value = _at(flow, path)
    if not isinstance(value, str):
        return None
    try:
        milliseconds = values.duration(value)
    except UsageError:
        return None
    name = path.rpartition(".")[2].removesuffix("_ms")
    return f"durations in a flow are whole milliseconds: {name}_ms = {milliseconds}"


def _at(flow: dict[str, Any], path: str) -> Any:
    """What stands at `path`."""
    for _, value, rest in _along(flow, path):
        if not rest:
            return value
    return None


def _position(flow: dict[str, Any], path: str) -> list[int]:
    """Where `path` stands in its file: mistakes are told from the top to the end."""
    return [index for index, _, _ in _along(flow, path)]


def _along(flow: dict[str, Any], path: str) -> Iterator[tuple[int, Any, str]]:
    """The number and the value of each key on the way, and what is left of the path; names of steps may have dots."""
    value: Any = flow
    while path and isinstance(value, dict):
        known = (key for key in value if path == key or path.startswith((f"{key}.", f"{key}[")))
        key = max(known, key=len, default=None)
        if key is None:
            return
        number = list(value).index(key)
        value, path = value[key], path[len(key) :].removeprefix(".")
        yield number, value, path
