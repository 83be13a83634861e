"""The `stoker` command: the table of all commands, dispatch, exit codes, and errors as people see them.

Owns COMMANDS: a command without a row does not exist. Only the module of the one that was asked for is
imported. Refuses tracebacks: an error of the world is `stoker: message` and `hint: next command`, a bug of
ours one line (the traceback with --debug).
"""

from __future__ import annotations

import io
import os
import sys

from stoker.cli.kit import render
from stoker.cli.kit.parser import COMMON, Command, Option, command, nearest
from stoker.core.errors import EX_IOERR, StokerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from stoker.cli.kit.parser import Given

EX_SOFTWARE = 70
STDOUT, STDERR = 1, 2
INTERRUPTED = 130
BROKEN_PIPE = 141

# Group → command → (module:function, what it does). Two words: a command of a command.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "hand work over": {
        "submit": ("submit:submit", "store a job and print its id"),
        "run": ("submit:run", "submit, follow the log, exit with the job's code"),
        "wait": ("follow:wait", "wait for jobs to end; of one job pass its code on"),
        "logs": ("follow:logs", "print or follow what a job wrote"),
    },
    "look": {
        "ls": ("jobs:ls", "list jobs: running first, then what waits, then what ended"),
        "show": ("jobs:show", "everything about a job"),
        "why": ("jobs:why", "the one thing a job is waiting for, and the next command"),
        "history": ("history:history", "every change of a job and each of its attempts"),
        "watch": ("follow:watch", "changes as they happen"),
        "status": ("admin:status", "the daemon, its queues, pressure and launchers"),
        "worker": ("workers:worker", "what the worker of a job does: CPU, memory, files, signs of life"),
        "debug": ("workers:debug", "a shell in a job's directory and environment"),
        "top": ("top:top", "status and running jobs, refreshed"),
    },
    "step in": {
        "cancel": ("control:cancel", "stop a job, or take it out of its queue"),
        "retry": ("control:retry", "queue an ended job again with a fresh budget"),
        "restart": ("control:restart", "begin a job anew; one that runs is stopped first"),
        "hold": ("control:hold", "keep a job from starting until it is released"),
        "release": ("control:release", "let a held job go on"),
        "edit": ("control:edit", "change the queue, priority, name or limits of a job that has not started"),
        "skip": ("control:skip", "call a job done so that those that need it go on"),
    },
    "many steps": {
        "workflow": ("workflows:ls", "list workflows"),
        "workflow submit": ("workflows:submit", "store a flow of steps from a file and print its id"),
        "workflow ls": ("workflows:ls", "list workflows"),
        "workflow show": ("workflows:show", "a workflow and every step of it"),
        "workflow graph": ("graph:graph", "draw what needs what: in the terminal, Mermaid, DOT, SVG"),
        "workflow wait": ("workflow_wait:wait", "wait for workflows to end"),
        "workflow pause": ("workflow_control:pause", "start nothing more of a workflow"),
        "workflow resume": ("workflow_control:resume", "go on with a workflow, also from a chosen step"),
        "workflow cancel": ("workflow_control:cancel", "stop all of a workflow"),
        "workflow retry": ("workflow_control:retry", "take steps again: those that failed, one, or all"),
        "workflow skip": ("workflow_control:skip", "call a step done so that those behind it go on"),
        "workflow rollback": ("workflow_control:rollback", "put a workflow back to one of its checkpoints"),
        "workflow add-need": ("workflow_control:add_need", "let a step wait for one more"),
        "workflow remove-need": ("workflow_control:remove_need", "let a step wait for one less"),
        "checkpoint": ("checkpoints:ls", "list the checkpoints of a workflow or a job"),
        "checkpoint save": ("checkpoints:save", "inside a job: keep stdin as its newest checkpoint"),
        "checkpoint ls": ("checkpoints:ls", "list the checkpoints of a workflow or a job"),
        "checkpoint show": ("checkpoints:show", "what a checkpoint holds, or the whole workflow at it"),
        "checkpoint export": ("checkpoints:export", "the bytes of a checkpoint, or a whole chain as JSON lines"),
        "checkpoint diff": ("checkpoints:diff", "what differs between two checkpoints"),
    },
    "administer": {
        "queue": ("queues:ls", "list queues"),
        "queue ls": ("queues:ls", "list queues"),
        "queue pause": ("queues:pause", "start nothing more from a queue"),
        "queue resume": ("queues:resume", "start from a queue again"),
        "queue set": ("queues:set_queue", "make or change a queue: class, bounds, defaults"),
        "resource": ("queues:resource_ls", "list resources and who holds them"),
        "resource ls": ("queues:resource_ls", "list resources and who holds them"),
        "resource set": ("queues:resource_set", "set the capacity of a resource"),
        "drain": ("admin:drain", "start nothing more, let running jobs end, stop the daemon"),
        "recover": ("recovery:recover", "what a start would do with jobs left running (--dry-run)"),
        "config": ("settings:show", "the settings in force, with defaults"),
        "config check": ("settings:check", "check a configuration; say every mistake at once"),
        "config show": ("settings:show", "the settings in force, with defaults"),
        "config reload": ("settings:reload", "let the running daemon read its settings again (as SIGHUP does)"),
        "config path": ("settings:path", "which files and directories are used"),
        "completion": ("completion:completion", "print completions for bash, zsh or fish"),
    },
}


def main() -> NoReturn:
    """Entry point of the `stoker` script."""
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the locale cannot spell is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    status = guarded(sys.argv[1:])
    # Everything is flushed, and nothing else needs Python's own tear-down: a seventh of a submit.
    os._exit(status)


def _open_standard_streams() -> None:
    """What the caller closed (`>&-`) leads to nowhere, not to the socket that would be opened next."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def guarded(arguments: Sequence[str]) -> int:
    """The exit status, with every exception turned into one and told."""
    try:
        status = dispatch(arguments)
        render.flush()
    except StokerError as failure:
        _flush_quietly()
        render.error(failure)
        return failure.exit_status
    except KeyboardInterrupt:
        _flush_quietly()
        return INTERRUPTED
    except BrokenPipeError:
        _flush_quietly()
        return BROKEN_PIPE
    except OSError as failure:
        _flush_quietly()
        render.note(f"{failure.filename or 'input or output'}: {failure.strerror or failure}")
        return EX_IOERR
    except Exception as bug:  # noqa: BLE001 - the boundary: no traceback ever reaches a user unasked
        _flush_quietly()
        return _report(bug, arguments)
    return status


def dispatch(arguments: Sequence[str]) -> int:
    """Find the command, import its module, parse, run."""
    given = program.parse(arguments)
    words = given["words"]
    if not words:
        return program.run(given)
    name, rest = _named(words)
    target, summary = _rows()[name]
    asked = load(target)
    options = asked.parse(rest)
    if options["help"]:
        render.line(_help(asked, name, summary))
        return 0
    asked.check_words(options)
    options["socket"] = options["socket"] or given["socket"]
    try:
        return asked.run(options)
    except StokerError as failure:
        from stoker.cli.kit.error_words import as_typed  # noqa: PLC0415 - only after a failure

        raise as_typed(failure, asked, options) from None


def load(target: str) -> Command:
    module, _, function = target.partition(":")
    # Not importlib: it would be one more module to load.
    loaded = getattr(__import__(f"stoker.cli.{module}", fromlist=[function]), function)
    assert isinstance(loaded, Command)
    return loaded


@command(
    words="COMMAND …",
    most=None,
    greedy=True,
    options=(Option("--version", None, "print the version"),),
    examples=("stoker run -- make test", "stoker ls", "stoker submit --help"),
)
def program(given: Given) -> int:
    """`stoker` itself: what stands ahead of the command, and what happens without one."""
    if given["version"]:
        from stoker import __version__  # noqa: PLC0415 - needed only here

        render.line(f"stoker {__version__}")
        return 0
    render.line(overview())
    return 0 if given["help"] else UsageError.exit_status


def overview() -> str:
    lines = ["usage: stoker [OPTION…] COMMAND …", "", "A durable job daemon for one Linux host.", ""]
    for group, rows in COMMANDS.items():
        lines.append(f"{group}:")
        lines += [f"  {name:<20} {summary}" for name, (_, summary) in rows.items()]
        lines.append("")
    lines += [
        "`stoker COMMAND --help` explains one command with examples.",
        f"Every command takes {', '.join(option.names[-1] for option in COMMON)}.",
    ]
    return "\n".join(lines)


def _rows() -> dict[str, tuple[str, str]]:
    return {name: row for rows in COMMANDS.values() for name, row in rows.items()}


def _named(words: list[str]) -> tuple[str, list[str]]:
    """The command that `words` begin with, and what is left for it."""
    rows = _rows()
    first, two = words[0], " ".join(words[:2])
    if two in rows:
        return two, words[2:]
    below = [name for name in rows if name.startswith(f"{first} ")]
    if below and len(words) > 1 and not words[1].startswith("-"):
        raise UsageError(f"no command {two!r}", hint=f"there are: {', '.join(below)}")
    if first not in rows:
        raise UsageError(f"no command {first!r}", hint=nearest(first, rows) or "stoker --help lists the commands")
    return first, words[1:]


def _help(asked: Command, name: str, summary: str) -> str:
    below = [other for other in _rows() if other.startswith(f"{name} ")]
    return asked.explain(name, summary) + (f"\n\nsee also: {', '.join(below)}" if below else "")


def _flush_quietly() -> None:
    """What was printed before a failure comes before its message; a reader that left is no second failure."""
    try:
        render.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(bug: Exception, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        import traceback  # noqa: PLC0415 - only for a bug

        render.trace(traceback.format_exc())
    what = f"{type(bug).__name__}: {bug}"
    hint = "report it with the output of the same command and --debug, and of: stoker --version"
    render.error(StokerError(f"internal error, a bug of stoker itself: {what}", hint=hint))
    return EX_SOFTWARE


if __name__ == "__main__":
    main()
