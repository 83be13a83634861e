"""Errors of the daemon in the words of the command line: `--timeout 0s` instead of `timeout_ms`.

Owns the mapping from a field of the protocol to the option that was typed for it. Hints get the state directory that
the command works on. Loaded only after an error.
"""

from __future__ import annotations

import os
import re
import shlex

from stoker import paths
from stoker.cli.kit.parser import Command, Given
from stoker.cli.kit.spec import SPEC
from stoker.core.errors import StokerError

MOST_SHOWN = 80  # characters of a value in a message
TEMPLATE = "job."  # the fields of the job that a schedule submits, which are typed like those of `submit`


def as_typed(error: StokerError, command: Command, given: Given) -> StokerError:
    """The same error, with the options as they were typed in place of fields of the protocol."""
    path, message = str(error.details.get("path", "")), error.message
    if path.startswith(TEMPLATE) and message.startswith(path):
        path, message = path.removeprefix(TEMPLATE), message.removeprefix(TEMPLATE)
    place = _place(path, command, given)
    if path and place is not None and message.startswith(f"{path}: "):
        problem = message[len(path) + 2 :]
        quoted = place == path.upper() and any(repr(word) in problem for word in given["words"])
        message = problem if quoted else f"{place}: {problem}"
    options = {option.to: option.names[-1] for option in command.options if "_" in option.to}
    options.pop(error.details.get("quota", ""), None)  # a limit of [quotas], which may have the name of a field
    if "defaults" in given["typed"]:  # defaults of a queue are typed without dashes
        options |= {option.to: option.names[-1].removeprefix("--") for option in SPEC}

    def in_words(text: str) -> str:
        return re.sub(r"\w+", lambda word: options.get(word[0], word[0]), text)

    error.message = in_words(message)
    error.hint = error.hint and in_words(error.hint)
    if error.hint and given.get("state_dir"):
        root = paths.state_dir(given["state_dir"], os.environ, os.getuid())
        error.hint = paths.with_state_dir(error.hint, root, os.environ, os.getuid())
    return error


def _place(path: str, command: Command, given: Given) -> str | None:
    """The option that was typed for a path, or the name of a positional argument; None if it was not typed."""
    root, *inner = re.split(r"(?=[.\[])", path, maxsplit=1)
    typed: list[tuple[str, str]] | None = given["typed"].get(root)
    values = given.get(root)
    if typed is None:
        return path.upper() if path.upper() in re.findall(r"\w+", command.words) else None
    if not inner or not isinstance(values, list) or len(values) != len(typed):
        return _shown(typed[-1])
    for number, (option, value) in enumerate(zip(typed, values, strict=True)):
        if inner == [f"[{number}]"] or (isinstance(value, tuple) and inner == [f".{value[0]}"]):
            return _shown(option)
    return None


def _shown(option: tuple[str, str]) -> str:
    name, value = option
    return shlex.join([name, value[:MOST_SHOWN]]) + ("…" if len(value) > MOST_SHOWN else "")
