"""The options that describe a job, and the spec made from them.

Owns the literal SPEC (`Option.to` is the field in the protocol), and the values that only the caller knows: directory,
umask, environment, PATH. An option that was not given is not sent, so that the defaults of the queue and the settings
apply.
"""

from __future__ import annotations

import os
import time

from stoker.cli.kit import render, secret_sources, values
from stoker.cli.kit.addresses import address, jobs_to_need
from stoker.cli.kit.parser import Option
from stoker.core.errors import FrameTooLarge, UsageError
from stoker.rpc.client import of_any_bytes
from stoker.rpc.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.kit.parser import Given

STDIN_LIMIT_BYTES = 64 * 1024
SENT_BYTES = 1_000_000  # of the 1 MiB of a frame; the rest is for the envelope and the keys
FIELDS_OF_PAIRS = ("env", "labels", "resources", "limits", "secrets")
NOT_A_FIELD = ("safe", "in_process", "wait_any")


def variable(text: str) -> tuple[str, str]:
    """`K=V`, or `K` with its value in the caller's environment."""
    if "=" in text:
        return values.pair(text)
    if not text:
        raise UsageError("an empty name", hint="write NAME=VALUE, or NAME to copy its value from here")
    if text not in os.environ:
        raise UsageError(f"{text} is not set here", hint=f"write {text}=VALUE")
    return text, os.environ[text]


def directory(text: str) -> str:
    if not text:
        raise UsageError("an empty path", hint="name a directory, or leave the option out for this one")
    return os.path.abspath(text)


def input_text(text: str) -> str:
    """The content of a file, or of stdin for `-`."""
    try:
        with open(0 if text == "-" else text, "rb", closefd=text != "-") as file:
            data = file.read(STDIN_LIMIT_BYTES + 1)
    except OSError as failure:
        raise UsageError(f"cannot read {text or repr(text)}: {failure.strerror}") from None
    if len(data) > STDIN_LIMIT_BYTES:
        raise UsageError("more than 64 KiB of stdin", hint="let the job read the file: sh -c 'CMD < FILE'")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{text} is not UTF-8 text", hint="let the job read the file: sh -c 'CMD < FILE'") from None


def need(text: str) -> dict[str, Any]:
    """`42`, `42:failed`, `7/compile:any`: the job or the steps to wait for, and how they must end."""
    word, colon, end = text.rpartition(":")
    if end in ("ok", "failed", "any"):
        return {"job": address(word), "on": end}
    if colon and "/" not in text:  # in the name of a step a colon may stand
        raise UsageError(f"{text!r}: {end!r} is not one of ok, failed, any")
    return {"job": address(text), "on": "ok"}


def condition(text: str) -> str:
    """A condition with the full path of its file."""
    kind, colon, path = text.partition(":")
    if kind not in ("file", "file-changed") or not path:
        return text
    return f"{kind}{colon}{os.path.join(here(), path)}"


SPEC = (
    Option("--queue", "NAME", "the queue (default: default)"),
    Option("--priority", "N", "jobs with a higher priority start first (default: 0)", convert=values.integer),
    Option("--name", "TEXT", "a name for people"),
    Option("--label", "K=V", "a label to find it by; repeatable", convert=values.pair, to="labels", many=True),
    Option(
        "--env",
        "K[=V]",
        "an environment variable; without a value it is copied from here; repeatable",
        convert=variable,
        many=True,
    ),
    Option(
        "--secret",
        "NAME=FILE|-|env:VAR",
        "a value that the job reads from $STOKER_SECRETS_DIR/NAME, and nothing shows; repeatable",
        convert=secret_sources.secret,
        to="secrets",
        many=True,
    ),
    Option("--working-dir", "DIR", "the directory to run in (default: here)", convert=directory),
    Option("--stdin", "FILE|-", "text for its standard input, at most 64 KiB", convert=input_text),
    Option("--max-attempts", "N", "attempts before the job has failed (default: 1)", convert=values.integer),
    values.duration_option("--base-delay", "wait before the second attempt (default: 1s)"),
    Option("--backoff-factor", "X", "each further wait is X times longer (default: 2)", convert=values.number),
    values.duration_option("--max-delay", "the longest wait between attempts (default: 1h)"),
    Option("--success-exit-codes", "LIST", "exit codes that mean success: 0,3 (default: 0)", convert=values.exit_codes),
    Option(
        "--no-retry-exit-codes",
        "LIST",
        "exit codes after which the job is not retried: 64-78",
        convert=values.exit_codes,
    ),
    Option("--checkpoint-exit-code", "N", "exit code that means: state saved, run me again", convert=values.integer),
    values.duration_option("--ttl", "expires if not started in this time after submit, --run-at and met needs"),
    Option("--deadline", "TIME", "2026-12-01T10:00 or +2h: the job must have ended by then", convert=values.moment),
    values.duration_option("--timeout", "time limit of an attempt"),
    values.duration_option("--grace", "time between SIGTERM and SIGKILL (default: 10s)"),
    Option("--warn-signal", "SIGNAL", "signal to send before a time limit: USR1", convert=values.signal_number),
    values.duration_option("--warn-before", "how long before the time limit to send it"),
    Option("--notify", None, "the job may report status, progress and signs of life with systemd-notify"),
    values.duration_option("--heartbeat", "how often the job must give a sign of life"),
    values.duration_option("--unresponsive-warn", "warn after this time without a sign of life (default: 30s)"),
    values.duration_option("--unresponsive-kill", "stop the job after this time without a sign of life (default: 3m)"),
    Option("--run-at", "TIME", "do not start before: 2026-12-01T10:00 or +2h", convert=values.moment),
    Option(
        "--after",
        "ID[:ok|failed|any]",
        "start after this job, step or group of steps has ended (default: ok); repeatable",
        convert=need,
        to="needs",
        many=True,
    ),
    Option(
        "--wait-for",
        "CONDITION",
        "start after event:NAME, the end of job:ID or workflow:ID, once file:PATH is there or file-changed:PATH is"
        " written or replaced, or while the host is idle or charging; repeatable: after all of them",
        convert=condition,
        many=True,
    ),
    Option(
        "--wait-any",
        "CONDITION",
        "as --wait-for; repeatable: after the first of them",
        convert=condition,
        many=True,
    ),
    Option(
        "--on-orphan",
        "WHAT",
        "what to do after an end that was not seen (default: fail)",
        choices=("fail", "requeue", "hold"),
    ),
    Option("--safe", None, "safe to run again after an end that was not seen (--on-orphan requeue)"),
    Option("--survive", None, "the job goes on while the daemon is down"),
    Option("--idempotency-key", "KEY", "a second submit with the same key returns the same job"),
    Option("--supersede-key", "KEY", "replace your older jobs with this key that have not started"),
    Option(
        "--supersede-running",
        "WHAT",
        "what an older job that runs does first: finish or stop (default: finish)",
        choices=("finish", "stop"),
    ),
    values.duration_option("--debounce", "start only after this time without a newer job of its key"),
    values.duration_option("--debounce-max", "start after this time however many newer ones came (default: 10 x)"),
    Option(
        "--resource",
        "NAME[=N]",
        "a resource that the job holds while it runs; repeatable",
        convert=values.amount,
        to="resources",
        many=True,
    ),
    Option("--rate-key", "KEY", "start at the rate of this key (stoker rate set), shared with all jobs that have it"),
    Option(
        "--limit",
        "WHAT=N",
        "memory=64M cpu=60s processes=9 open-files=99 file-size=1G; repeatable",
        convert=values.limit,
        to="limits",
        many=True,
    ),
    Option(
        "--nice",
        "N",
        "-20 to 19: a higher number gives way to other processes; below 0 needs root",
        convert=values.integer,
    ),
    Option("--umask", "MODE", "file mode mask, such as 022 (default: that of the shell)", convert=values.umask),
    Option(
        "--max-log-bytes", "SIZE", "how much of the log is kept: its head and tail (default: 64M)", convert=values.size
    ),
    Option("--in-process", None, "COMMAND is a handler that runs inside the daemon", to="in_process"),
    Option("--traceparent", "W3C", "the W3C trace context that the job belongs to"),
)


def given_fields(given: Given) -> dict[str, Any]:
    """The fields of a spec that were given on the command line."""
    named = {option.to: given[option.to] for option in SPEC if option.to not in NOT_A_FIELD}
    spec = {to: value for to, value in named.items() if value is not None and value is not False and value != []}
    for field in FIELDS_OF_PAIRS:
        if field in spec:
            spec[field] = dict(spec[field])
    if len(given["secrets"] or ()) > len(spec.get("secrets", ())):
        raise UsageError("--secret: a name is given twice", hint="give each secret a name of its own")
    if "needs" in spec:
        spec["needs"] = [{**one, "job": job} for one in spec["needs"] for job in jobs_to_need(given, one["job"])]
    if given["wait_any"]:
        spec["wait_for"] = [*spec.get("wait_for", ()), {"any": given["wait_any"]}]
    if "wait_for" in spec:
        first, *others = spec["wait_for"]
        spec["wait_for"] = {"all": [first, *others]} if others else first
    if given["safe"] and spec.setdefault("on_orphan", "requeue") != "requeue":
        raise UsageError("--safe and --on-orphan contradict each other")
    if given["in_process"]:
        spec["execution_mode"] = "in_process"
    return spec


def complete(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the caller's directory and umask, and the command found on the caller's PATH."""
    if "working_dir" not in spec:
        spec["working_dir"] = here()
    if spec.get("execution_mode") == "in_process":
        return spec
    spec.setdefault("umask", current_umask())
    command = spec.get("command")
    if isinstance(command, str):
        spec["command"] = resolve(command, spec.get("env"))
    return spec


def overdue(spec: dict[str, Any]) -> str | None:
    """A remark if `run_at` has passed. The job is accepted nevertheless."""
    run_at = spec.get("run_at")
    if not isinstance(run_at, int) or not 0 <= run_at < time.time_ns() // 1_000_000:
        return None
    return f"the start time {render.when(run_at)} has passed: the job starts as soon as there is room"


def sent_size(spec: dict[str, Any]) -> int:
    """The bytes of a job in a request. Raises FrameTooLarge if it does not fit one."""
    size = len(encode(of_any_bytes(spec)))
    if size > SENT_BYTES:
        raise FrameTooLarge(
            f"the job takes {render.size(size)}; at most {render.size(SENT_BYTES)} can be sent",
            hint="put a long command into a script, and long arguments into a file that it reads",
        )
    return size


def current_umask() -> int:
    """Sets another umask and restores it: the kernel has no call that only reads it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def here() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise UsageError("the current directory is gone", hint="name one with --working-dir") from None


def resolve(command: str, env: Any) -> str:
    """The absolute path of a name without a slash, by the job's PATH; the name itself if it is not found."""
    if "/" in command or not command or "\0" in command:
        return command
    own_path = env.get("PATH") if isinstance(env, dict) else None
    path = own_path if isinstance(own_path, str) else os.environ.get("PATH", os.defpath)
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", command)
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return os.path.abspath(candidate)
    return command
