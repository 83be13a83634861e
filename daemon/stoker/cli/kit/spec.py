"""The options that describe a job, and the spec they make.

Owns the literal SPEC (`Option.to` is the field on the wire) and what the client fills in from where it stands:
working directory, environment, PATH. Refuses to know defaults: what was not given is not sent, so a queue's
defaults and the daemon's settings apply.
"""

from __future__ import annotations

import os
import time

from stoker.cli.kit import render, values
from stoker.cli.kit.parser import Option
from stoker.core.errors import FrameTooLarge, UsageError
from stoker.rpc.client import of_any_bytes
from stoker.rpc.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.kit.parser import Given

STDIN_LIMIT_BYTES = 64 * 1024
SENT_BYTES = 1_000_000  # of a frame's 1 MiB: the rest is for the envelope and the keys
FIELDS_OF_PAIRS = ("env", "labels", "resources", "limits")
NOT_A_FIELD = ("safe", "in_process")


def variable(text: str) -> tuple[str, str]:
    """`K=V`, or `K` with the value that the caller's environment has."""
    if "=" in text:
        return values.pair(text)
    if not text:
        raise UsageError("an empty name", hint="write NAME=VALUE, or NAME for the value that it has here")
    if text not in os.environ:
        raise UsageError(f"{text} is not set here", hint=f"write {text}=VALUE")
    return text, os.environ[text]


def directory(text: str) -> str:
    if not text:
        raise UsageError("an empty path", hint="name a directory, or leave it out for this one")
    return os.path.abspath(text)  # noqa: PTH100 - pathlib costs as much as all of the client


def input_text(text: str) -> str:
    """The content of a file, or of stdin for `-`."""
    try:
        with open(0 if text == "-" else text, "rb", closefd=text != "-") as file:
            data = file.read(STDIN_LIMIT_BYTES + 1)
    except OSError as failure:
        raise UsageError(f"cannot read {text or repr(text)}: {failure.strerror}") from None
    if len(data) > STDIN_LIMIT_BYTES:
        raise UsageError("more than 64 KiB of stdin", hint="let the job open the file: sh -c 'CMD < FILE'")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{text} is not UTF-8 text", hint="let the job open the file: sh -c 'CMD < FILE'") from None


SPEC = (
    Option("--queue", "NAME", "the line to stand in (default: default)"),
    Option("--priority", "N", "higher starts first (default: 0)", convert=values.integer),
    Option("--name", "TEXT", "a name for people"),
    Option("--label", "K=V", "a label to find it by; repeatable", convert=values.pair, to="labels", many=True),
    Option("--env", "K[=V]", "a variable; without a value it is copied from here", convert=variable, many=True),
    Option("--working-dir", "DIR", "where it runs (default: here)", convert=directory),
    Option("--stdin", "FILE|-", "text for its standard input, at most 64 KiB", convert=input_text),
    Option("--max-attempts", "N", "tries before it has failed (default: 1)", convert=values.integer),
    Option("--base-delay", "DURATION", "before the second try", convert=values.duration, to="base_delay_ms"),
    Option("--backoff-factor", "X", "each further delay is X times longer", convert=values.number),
    Option("--max-delay", "DURATION", "no delay is longer", convert=values.duration, to="max_delay_ms"),
    Option("--success-exit-codes", "LIST", "exit codes that mean success: 0,3", convert=values.exit_codes),
    Option("--no-retry-exit-codes", "LIST", "exit codes that no retry helps: 64-78", convert=values.exit_codes),
    Option("--checkpoint-exit-code", "N", "exit code that means: saved, run me again", convert=values.integer),
    Option(
        "--ttl",
        "DURATION",
        "longest wait for the first start, from submit, --run-at or needs met: the last",
        convert=values.duration,
        to="ttl_ms",
    ),
    Option("--deadline", "TIME", "2026-12-01T10:00 or +2h: over by then", convert=values.moment),
    Option("--timeout", "DURATION", "limit of one attempt", convert=values.duration, to="timeout_ms"),
    Option("--grace", "DURATION", "between SIGTERM and SIGKILL", convert=values.duration, to="grace_ms"),
    Option("--warn-signal", "SIGNAL", "sent ahead of a limit: USR1", convert=values.signal_number),
    Option("--warn-before", "DURATION", "how far ahead", convert=values.duration, to="warn_before_ms"),
    Option("--notify", None, "it reports with systemd-notify: status, progress, signs of life"),
    Option("--heartbeat", "DURATION", "how often it gives a sign of life", convert=values.duration, to="heartbeat_ms"),
    Option(
        "--unresponsive-warn",
        "DURATION",
        "so long without one warns (default: 30s)",
        convert=values.duration,
        to="unresponsive_warn_ms",
    ),
    Option(
        "--unresponsive-kill",
        "DURATION",
        "so long without one stops it (default: 3m)",
        convert=values.duration,
        to="unresponsive_kill_ms",
    ),
    Option("--run-at", "TIME", "not before: 2026-12-01T10:00 or +2h", convert=values.moment),
    Option("--after", "ID[:ok|failed|any]", "after that job; repeatable", convert=values.need, to="needs", many=True),
    Option("--on-orphan", "WHAT", "after an end nobody saw", choices=("fail", "requeue", "hold")),
    Option("--safe", None, "may run again after an end nobody saw (--on-orphan requeue)"),
    Option("--survive", None, "goes on while the daemon is down"),
    Option("--idempotency-key", "KEY", "the same key gives back the same job"),
    Option(
        "--resource",
        "NAME[=N]",
        "what it holds while it runs; repeatable",
        convert=values.amount,
        to="resources",
        many=True,
    ),
    Option(
        "--limit",
        "WHAT=N",
        "memory=64M cpu=60s processes=9 open-files=99 file-size=1G; repeatable",
        convert=values.limit,
        to="limits",
        many=True,
    ),
    Option("--nice", "N", "-20 to 19: how far it steps back for others; below 0 as root only", convert=values.integer),
    Option("--umask", "MODE", "as umask(1): 022 (default: the one here)", convert=values.umask),
    Option("--max-log-bytes", "SIZE", "head and tail of the log that are kept", convert=values.size),
    Option("--in-process", None, "COMMAND names a handler that runs inside the daemon", to="in_process"),
    Option("--traceparent", "W3C", "the trace it belongs to"),
)


def given_fields(given: Given) -> dict[str, Any]:
    """The fields of a spec that were given on the command line."""
    named = {option.to: given[option.to] for option in SPEC if option.to not in NOT_A_FIELD}
    spec = {to: value for to, value in named.items() if value is not None and value is not False and value != []}
    for field in FIELDS_OF_PAIRS:
        if field in spec:
            spec[field] = dict(spec[field])
    if given["safe"] and spec.setdefault("on_orphan", "requeue") != "requeue":
        raise UsageError("--safe and --on-orphan contradict each other")
    if given["in_process"]:
        spec["execution_mode"] = "in_process"
    return spec


def complete(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with what only the caller's side knows: where it stands, and what its PATH means by a name."""
    if "working_dir" not in spec:
        spec["working_dir"] = here()
    if spec.get("execution_mode") == "in_process":
        return spec
    spec.setdefault("umask", current_umask())
    command = spec.get("command")
    if isinstance(command, str):
        spec["command"] = found(command, spec.get("env"))
    return spec


def overdue(spec: dict[str, Any]) -> str | None:
    """The remark for a `run_at` that has passed: the job is taken all the same and may start at once."""
    run_at = spec.get("run_at")
    if not isinstance(run_at, int) or not 0 <= run_at < time.time_ns() // 1_000_000:
        return None
    return f"run_at, {render.when(run_at)}, has passed: the job starts as soon as there is room"


def sent_size(spec: dict[str, Any]) -> int:
    """The bytes that a job takes in a frame. Raises FrameTooLarge for one that no frame holds."""
    size = len(encode(of_any_bytes(spec)))
    if size > SENT_BYTES:
        raise FrameTooLarge(
            f"a job of {render.size(size)}; at most {render.size(SENT_BYTES)} can be sent",
            hint="put a long command into a script, and long arguments into a file that it reads",
        )
    return size


def current_umask() -> int:
    """The kernel tells it only to whoever sets another one."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - as in `directory`
    except OSError:
        raise UsageError("the current directory is gone", hint="name one with --working-dir") from None


def found(command: str, env: Any) -> str:
    """A name without a slash as an absolute path along the PATH it would run with; as typed when it is not there."""
    if "/" in command or not command or "\0" in command:
        return command
    own_path = env.get("PATH") if isinstance(env, dict) else None
    path = own_path if isinstance(own_path, str) else os.environ.get("PATH", os.defpath)
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", command)  # noqa: PTH118 - as in `directory`
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112
            return os.path.abspath(candidate)  # noqa: PTH100
    return command
