"""Where the value of a secret comes from: a file, standard input or a variable, never the command line itself.

Owns the checks of that source. A value is not shown in any message. Nothing here waits for a FIFO or a device.
"""

from __future__ import annotations

import os.path
import stat
from binascii import b2a_base64

from stoker.core.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT_BYTES = 64 * 1024
OTHERS_READ = 0o004
HINT = "write NAME=FILE, NAME=- for standard input, or NAME=env:VARIABLE"


def secret(text: str) -> tuple[str, dict[str, str]]:
    """`TOKEN=FILE`, `TOKEN=-` or `TOKEN=env:VARIABLE`: the name, and the value as it is sent."""
    name, equals, source = text.partition("=")
    if not equals or not source:
        raise UsageError(f"{name or repr(name)} has no source", hint=HINT)
    if not name:
        raise UsageError("a secret without a name", hint=HINT)
    return name, sent(name, source)


def sent(name: str, source: str) -> dict[str, str]:
    """The value as it is sent. Raises UsageError."""
    return {"base64": b2a_base64(value_of(name, source), newline=False).decode()}


def declared(flow: dict[str, Any]) -> dict[str, str]:
    """The sources in the table `secrets` of a flow. The daemon refuses a table or an entry of another type."""
    table = flow.get("secrets")
    entries = table.items() if isinstance(table, dict) else ()
    return {name: source for name, source in entries if isinstance(source, str)}


def place(folder: str, flow: dict[str, Any]) -> None:
    """Files of secrets are named as seen from the flow file."""
    for name, source in declared(flow).items():
        if source != "-" and not source.startswith("env:"):
            flow["secrets"][name] = os.path.join(folder, source)


def value_of(name: str, source: str) -> bytes:
    """The bytes of a secret, as they are: also a newline at their end. Raises UsageError."""
    kind, colon, variable = source.partition(":")
    if kind == "env" and colon:
        value, where = _variable(variable), f"the variable {variable}"
    elif source == "-":
        value, where = _all_of(0, "standard input"), "standard input"
    else:
        value, where = _file(source), source
    if not value:
        raise UsageError(f"{name}: {where} is empty", hint="a secret has at least one byte")
    if len(value) > LIMIT_BYTES:
        raise UsageError(
            f"{name}: {where} has more than 64 KiB", hint="give the key of a large file as the secret, not the file"
        )
    return value


def _variable(name: str) -> bytes:
    if name not in os.environ:
        raise UsageError(f"{name or repr(name)} is not set here", hint="export it, or name a file: NAME=FILE")
    return os.fsencode(os.environ[name])


def _file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as failure:
        raise UsageError(f"cannot read {path}: {failure.strerror}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path} is not a file", hint="what comes through a pipe: COMMAND | stoker submit --secret NAME=-"
            )
        if mode & OTHERS_READ:
            import shlex  # noqa: PLC0415 - every submit loads this module, and shlex loads regular expressions

            raise UsageError(
                f"{path} can be read by everybody (mode {stat.S_IMODE(mode):o})", hint=f"chmod 600 {shlex.quote(path)}"
            )
        return _all_of(descriptor, path)
    finally:
        os.close(descriptor)


def _all_of(descriptor: int, name: str) -> bytes:
    """All that comes, or a little more than a secret may have."""
    data = b""
    try:
        while len(data) <= LIMIT_BYTES and (piece := os.read(descriptor, LIMIT_BYTES + 1)):
            data += piece
    except OSError as failure:
        raise UsageError(f"cannot read {name}: {failure.strerror}") from None
    return data
