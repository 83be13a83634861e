"""What the daemon says of a field, in the words of the command line: `--timeout 0s` for `timeout_ms`.

Owns the way back from a field to the option that was typed for it. Refuses to judge: sentence, hint and exit status are
the daemon's. Loaded after a failure only.
"""

from __future__ import annotations

import re
import shlex

from stoker.cli.kit.parser import Command, Given
from stoker.cli.kit.spec import SPEC
from stoker.core.errors import StokerError

MOST_SHOWN = 80  # characters of a value in a message


def as_typed(failure: StokerError, asked: Command, given: Given) -> StokerError:
    """The same error; its place and the fields that it names are those that a person typed."""
    path = str(failure.details.get("path", ""))
    message = failure.message
    place = _place(path, asked, given)
    if path and place is not None and message.startswith(f"{path}: "):
        message = f"{place}{message[len(path) :]}" if place else message[len(path) + 2 :]
    options = {option.to: option.names[-1] for option in asked.options if "_" in option.to}
    if "defaults" in given["typed"]:  # of a queue: options of submit without their dashes
        options |= {option.to: option.names[-1].removeprefix("--") for option in SPEC}

    def in_words(text: str) -> str:
        return re.sub(r"\w+", lambda word: options.get(word[0], word[0]), text)

    failure.message = in_words(message)
    failure.hint = failure.hint and in_words(failure.hint)
    return failure


def _place(path: str, asked: Command, given: Given) -> str | None:
    """What was typed for a path; "" for the words of the command, None for what nobody typed."""
    root, *inner = re.split(r"(?=[.\[])", path, maxsplit=1)
    typed: list[tuple[str, str]] | None = given["typed"].get(root)
    values = given.get(root)
    if typed is None:
        return "" if path.upper() in re.findall(r"\w+", asked.words) else None
    if not inner or not isinstance(values, list) or len(values) != len(typed):
        return _shown(typed[-1])
    for number, (option, value) in enumerate(zip(typed, values, strict=True)):
        if inner == [f"[{number}]"] or (isinstance(value, tuple) and inner == [f".{value[0]}"]):
            return _shown(option)
    return None


def _shown(option: tuple[str, str]) -> str:
    name, value = option
    return shlex.join([name, value[:MOST_SHOWN]]) + ("…" if len(value) > MOST_SHOWN else "")
