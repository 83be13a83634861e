"""The limits of a command: its arguments, directory and environment, also where these are bytes.

Owns the names of variables that a client may not set, and the size of what the kernel takes at a start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import UnsetType

from stoker.core.errors import InvalidParams
from stoker.core.job.model import ExecutionMode
from stoker.core.raw_bytes import AnyText, RawBytes, encoded

MAX_PATH = 4096
MAX_ARGV_BYTES = 128 * 1024
MAX_VARIABLES = 256
# By default the kernel accepts 2 MiB of arguments and environment. This leaves room for what Stoker adds.
MAX_ENV_BYTES = 1024 * 1024
MAX_SHOWN = 80  # of a value or a name in a message: it goes to terminals and logs

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
RESERVED_PREFIXES = ("STOKER_", "LISTEN_")
RESERVED_ENV = frozenset({"TRACEPARENT", "NOTIFY_SOCKET"})
DANGEROUS_ENV = frozenset({"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONSTARTUP", "BASH_ENV", "ENV", "IFS"})
REFUSED_ENV = RESERVED_ENV | DANGEROUS_ENV


def check_raw_command(command: RawBytes, mode: ExecutionMode | UnsetType) -> None:
    if not 1 <= len(command) <= MAX_PATH:
        raise _beyond("command", f"1 to {MAX_PATH} bytes")
    if mode is ExecutionMode.IN_PROCESS:
        raise InvalidParams("command: the name of a handler is text", path="command")


def check_raw_directory(directory: RawBytes) -> None:
    if len(directory) > MAX_PATH:
        raise _beyond("working_dir", f"at most {MAX_PATH} bytes")
    if not directory.data.startswith(b"/"):
        raise InvalidParams("working_dir: not an absolute path", path="working_dir", hint="begin it with /")


def _beyond(path: str, limit: str) -> InvalidParams:
    return InvalidParams(f"{path}: a path has {limit}", path=path)


def check_argv(command: AnyText, args: tuple[AnyText, ...]) -> None:
    if 4 * (len(command) + sum(map(len, args)) + len(args)) <= MAX_ARGV_BYTES:
        return  # a character has at most four bytes, so the usual command need not be encoded
    size = len(encoded(command)) + sum(len(encoded(arg)) + 1 for arg in args)
    if size > MAX_ARGV_BYTES:
        raise InvalidParams(
            f"args: command and arguments take {size} bytes; the limit is {MAX_ARGV_BYTES}",
            hint="pass large data by a file or by stdin",
            path="args",
        )


def check_env(env: Mapping[str, AnyText]) -> None:
    if len(env) > MAX_VARIABLES:
        raise InvalidParams(f"env: {len(env)} variables; the limit is {MAX_VARIABLES}", path="env")
    for name in env:
        if name in REFUSED_ENV or name.startswith(RESERVED_PREFIXES) or not ENV_NAME.match(name):
            raise _bad_variable(name)
    if 4 * sum(map(len, env.values())) > MAX_ENV_BYTES:  # as above
        _check_env_size(env)


def _check_env_size(env: Mapping[str, AnyText]) -> None:
    size = sum(len(name) + len(encoded(value)) + 2 for name, value in env.items())
    if size > MAX_ENV_BYTES:
        largest = max(env, key=lambda name: len(env[name]))
        raise InvalidParams(
            f"env: all variables together take {size} bytes, most of them {largest[:MAX_SHOWN]}; the limit is "
            f"{MAX_ENV_BYTES}",
            hint="pass large data by a file or by stdin",
            path="env",
        )


def _bad_variable(name: str) -> InvalidParams:
    path = f"env.{name[:MAX_SHOWN]}"
    if not ENV_NAME.match(name):
        return InvalidParams(
            f"{path}: not a name of a variable",
            hint="a name has letters, digits and _ and starts with no digit; the value goes behind it, without =",
            path=path,
        )
    if name in DANGEROUS_ENV:
        return InvalidParams(
            f"{path}: refused, it changes what the command itself runs",
            hint=f"set it inside the job: sh -c '{name}=... command'",
            path=path,
        )
    return InvalidParams(f"{path}: reserved for Stoker and systemd", hint="choose another name", path=path)
