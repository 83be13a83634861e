"""The `stoker` command: the table of all commands, dispatch, exit codes, and how errors are printed.

Owns COMMANDS: a command without a row does not exist, and only the module of the command that was typed is imported.
Modules that `submit` loads avoid slow imports (tests/cli/test_startup.py lists them); all others import as usual.

A user never sees a traceback: an error prints `stoker: message` and `hint: next command`; a bug of Stoker itself prints
one line (with --debug the traceback).
"""

from __future__ import annotations

import io
import os
import sys

from stoker import encoding
from stoker.cli.kit import render
from stoker.cli.kit.parser import COMMON, HELP_COLUMNS, Command, Option, described
from stoker.core.errors import EX_SOFTWARE, InputOutputFailed, StokerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from stoker.cli.kit.parser import Given

STDOUT, STDERR = 1, 2
INTERRUPTED = 130
BROKEN_PIPE = 141
SUMMARY_COLUMN = 25  # of the overview, where the summaries of commands begin

# Group → command → (module:function, summary). A name of two words is a subcommand.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "submit": {
        "submit": ("submit:submit", "store a job and print its id"),
        "run": ("submit:run", "submit a job, follow its log, exit with its exit code"),
        "wait": ("follow:wait", "wait until jobs have ended; for one job, exit with its exit code"),
        "logs": ("logs:logs", "print or follow what a job wrote"),
    },
    "inspect": {
        "ls": ("jobs:ls", "list jobs: running, held, waiting, then ended"),
        "show": ("jobs:show", "everything about one job"),
        "why": ("why:why", "why a job is not running, or how it ended, and the next command"),
        "history": ("history:history", "every change of a job, and its attempts"),
        "watch": ("follow:watch", "print changes as they happen"),
        "status": ("status:status", "the daemon, its queues, load and launchers"),
        "limits": ("limits:limits", "your limits, and how much of each is in use"),
        "worker": ("workers:worker", "the processes of a running job: CPU, memory, open files"),
        "debug": ("workers:debug", "open a shell in a job's directory and environment"),
        "top": ("top:top", "status and live jobs, refreshed"),
    },
    "control": {
        "cancel": ("control:cancel", "stop a running job, or take a job out of its queue"),
        "retry": ("control:retry", "queue an ended job again, with a fresh retry budget"),
        "restart": ("control:restart", "run a job from the start; a running one is stopped first"),
        "hold": ("control:hold", "keep a job from starting until it is released"),
        "release": ("control:release", "let a held job start"),
        "edit": ("control:edit", "change queue, priority, name or limits of a job that has not started"),
        "skip": ("control:skip", "mark a job as done, so that the jobs that need it start"),
    },
    "workflows and checkpoints": {
        "workflow": ("workflows:ls", "list workflows"),
        "workflow submit": ("workflows:submit", "store a workflow from a flow file and print its id"),
        "workflow ls": ("workflows:ls", "list workflows"),
        "workflow show": ("workflow_show:show", "a workflow, how far it has come, and its steps"),
        "workflow graph": ("graph:graph", "draw the steps and their needs: terminal, Mermaid, DOT, SVG"),
        "workflow lint": ("lint:lint", "check flow files without a daemon: mistakes and warnings"),
        "workflow import": (
            "workflow_import:import_workflow",
            "write a flow file from a file of another tool",
        ),
        "workflow wait": ("workflow_wait:wait", "wait until workflows have ended"),
        "workflow pause": ("workflow_control:pause", "start no further steps of a workflow"),
        "workflow resume": ("workflow_control:resume", "continue a workflow, also from a chosen step"),
        "workflow cancel": ("workflow_control:cancel", "stop all steps of a workflow"),
        "workflow retry": ("workflow_control:retry", "run steps again: the failed ones, one, or all"),
        "workflow skip": ("workflow_control:skip", "mark a step as done, so that the steps that need it start"),
        "workflow rollback": ("workflow_control:rollback", "set a workflow back to one of its checkpoints"),
        "workflow add-need": ("workflow_control:add_need", "make a step wait for another step"),
        "workflow remove-need": ("workflow_control:remove_need", "make a step no longer wait for another step"),
        "checkpoint": ("checkpoints:ls", "list the checkpoints of a workflow or a job"),
        "checkpoint save": ("checkpoints:save", "inside a job: save stdin as its newest checkpoint"),
        "checkpoint ls": ("checkpoints:ls", "list the checkpoints of a workflow or a job"),
        "checkpoint show": ("checkpoints:show", "the data of a checkpoint, or the workflow at that time"),
        "checkpoint export": ("checkpoints:export", "the bytes of a checkpoint, or a whole chain as JSON lines"),
        "checkpoint diff": ("checkpoints:diff", "the differences between two checkpoints"),
    },
    "schedules": {
        "schedule": ("schedules:ls", "list schedules"),
        "schedule add": ("schedules:add", "submit a command or a workflow again and again, at given times"),
        "schedule ls": ("schedules:ls", "list schedules"),
        "schedule show": ("schedules:show", "a schedule, its template and its last runs"),
        "schedule next": ("schedules:coming", "the times of the next runs of a schedule"),
        "schedule run": ("schedules:run", "submit a run of a schedule now"),
        "schedule pause": ("schedules:pause", "submit no further runs of a schedule"),
        "schedule resume": ("schedules:resume", "submit runs of a paused schedule again"),
        "schedule rm": ("schedules:remove", "remove schedules"),
        "schedule import": ("crontabs:import_crontab", "make schedules of the lines of a crontab"),
    },
    "events": {
        "event": ("events:ls", "list named events"),
        "event emit": ("events:emit", "emit a named event: jobs that wait for it start"),
        "event ls": ("events:ls", "list named events"),
    },
    "hooks": {
        "hook": ("hooks:ls", "list hooks: commands that changes run"),
        "hook ls": ("hooks:ls", "list hooks: commands that changes run"),
        "hook show": ("hooks:show", "a hook and its last runs"),
        "hook test": ("hooks:test", "run a hook now, for a change that is made up"),
    },
    "administer": {
        "queue": ("queues:ls", "list queues"),
        "queue ls": ("queues:ls", "list queues"),
        "queue drain-to": ("queues:drain_to", "move the queued jobs of other queues to this one"),
        "queue pause": ("queues:pause", "start no further jobs of a queue"),
        "queue resume": ("queues:resume", "start jobs of a paused queue again"),
        "queue set": ("queues:set_queue", "create or change a queue: class, bounds, defaults"),
        "resource": ("queues:resource_ls", "list resources and the jobs that hold them"),
        "resource ls": ("queues:resource_ls", "list resources and the jobs that hold them"),
        "resource set": ("queues:resource_set", "set the capacity of a resource"),
        "rate": ("rates:ls", "list the rates of keys, and how many jobs may start now"),
        "rate ls": ("rates:ls", "list the rates of keys, and how many jobs may start now"),
        "rate set": ("rates:set_rate", "set how many jobs with a key may start in a time"),
        "rate rm": ("rates:remove", "remove the rates of keys"),
        "purge": ("purge:purge", "remove jobs and workflows that ended long ago, with logs and checkpoints"),
        "backup": ("backup:backup", "make a backup of the daemon's database"),
        "backup ls": ("backup:ls", "list the backups in the state directory"),
        "restore": ("restore:restore", "put a backup in the place of the database, while no daemon runs"),
        "doctor": ("doctor:doctor", "check state and host by named checks, and say what to do"),
        "audit verify": ("audit:verify", "verify the hash chain of the log of changes"),
        "drain": ("status:drain", "start no further jobs, let running jobs end, then stop the daemon"),
        "recover": ("recovery:recover", "what a daemon start would do with unfinished attempts (--dry-run)"),
        "config": ("settings:show", "the settings in force, with defaults"),
        "config check": ("settings:check", "check a settings file and report every mistake"),
        "config show": ("settings:show", "the settings in force, with defaults"),
        "config reload": ("settings:reload", "make the running daemon read its settings again (as SIGHUP does)"),
        "config path": ("settings:path", "the files and directories in use"),
        "web": ("web:web", "a web page of jobs, workflows and queues, on this host only"),
        "mcp": ("agents:mcp", "a server for agents, on stdin and stdout (Model Context Protocol)"),
        "schema": ("schemas:schema", "print a JSON Schema: of jobs, flow files, settings or the protocol"),
        "completion": ("completion:completion", "print shell completions for bash, zsh or fish"),
    },
}

# The names of commands in other tools, and the next command to type here.
NAMES_ELSEWHERE = {
    "add": "stoker submit -- COMMAND",
    "enqueue": "stoker submit -- COMMAND",
    "kill": "stoker cancel ID",
    "stop": "stoker cancel ID",
    "delete": "stoker cancel ID; ended jobs: stoker purge --help",
    "remove": "stoker cancel ID; ended jobs: stoker purge --help",
    "rm": "stoker cancel ID; ended jobs: stoker purge --help",
    "clean": "stoker purge --before 7d --dry-run",
    "list": "stoker ls",
    "jobs": "stoker ls",
    "ps": "stoker ls",
    "info": "stoker show ID",
    "output": "stoker logs ID",
    "tail": "stoker logs -f ID",
    "follow": "stoker logs -f ID",
    "requeue": "stoker retry ID",
    "rerun": "stoker retry ID",
    "start": "stoker release ID; a queue: stoker queue resume NAME",
    "pause": "stoker hold ID; a queue: stoker queue pause NAME",
    "resume": "stoker release ID; a queue: stoker queue resume NAME",
    "help": "stoker --help, or stoker COMMAND --help",
    "version": "stoker --version",
}


def main() -> NoReturn:
    """Entry point of the `stoker` script."""
    encoding.use_utf8()
    _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Do not fail on a character that the locale cannot encode.
        sys.stdout.reconfigure(errors="backslashreplace")
    status = guarded(sys.argv[1:])
    # Everything is flushed: skip Python's own tear-down, a seventh of the time of a submit.
    os._exit(status)


def _open_standard_streams() -> None:
    """Open descriptors that the caller closed (`>&-`) on /dev/null: else the socket would get their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", closefd=False)


def guarded(arguments: Sequence[str]) -> int:
    """The exit status; every exception is printed and becomes one."""
    render.messages_as_json(on="--json" in _before_dashes(arguments))
    render.hints_name(None)
    try:
        status = dispatch(arguments)
        render.flush()
    except StokerError as error:
        _flush_quietly()
        render.error(error)
        return error.exit_status
    except KeyboardInterrupt:
        _flush_quietly()
        return INTERRUPTED
    except BrokenPipeError:
        _flush_quietly()
        return BROKEN_PIPE
    except OSError as error:
        _flush_quietly()
        failure = InputOutputFailed(f"{error.filename or 'input or output'}: {error.strerror or error}")
        render.error(failure)
        return failure.exit_status
    except Exception as bug:  # noqa: BLE001 - the boundary: users see a traceback only with --debug
        _flush_quietly()
        return _report(bug, arguments)
    return status


def dispatch(arguments: Sequence[str]) -> int:
    """Find the command, import its module, parse, run."""
    given = _parsed(program, arguments)
    words = given["words"]
    if not words:
        return program.run(given) or 0
    name, rest = _named(words)
    target, summary = _rows()[name]
    selected = load(target)
    options = _parsed(selected, rest, name)
    if options["help"]:
        render.line(_help(selected, name, summary))
        return 0
    options["socket"] = options["socket"] or given["socket"]
    render.hints_name(options["socket"])
    render.messages_as_json(on=bool(options.get("json")))
    try:
        return selected.run(options) or 0
    except StokerError as error:
        from stoker.cli.kit.error_words import as_typed  # noqa: PLC0415 - only after an error

        raise as_typed(error, selected, options) from None


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """The part of a command line in which an option may stand: what follows `--` belongs to a job."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _parsed(selected: Command, arguments: Sequence[str], name: str = "") -> Given:
    """Raises UsageError. Its hint, unless there is a better one, is the command that explains the usage."""
    try:
        given = selected.parse(arguments)
        if name and not given["help"]:  # without a command, `stoker` prints its overview
            _check_order(name, given["words"])
            selected.check_words(given)
    except UsageError as error:
        error.hint = error.hint or " ".join(filter(None, ("stoker", name, "--help")))
        raise
    return given


def _check_order(name: str, words: Sequence[str]) -> None:
    """Refuse `stoker queue --json ls`: the options belong to the command that would run, which is `queue`."""
    if words and f"{name} {words[0]}" in _rows():
        raise UsageError(f"{words[0]!r} stands behind an option", hint=f"stoker {name} {words[0]} [OPTION…]")


def load(target: str) -> Command:
    module, _, function = target.partition(":")
    # importlib would be one more module to load.
    loaded = getattr(__import__(f"stoker.cli.{module}", fromlist=[function]), function)
    assert isinstance(loaded, Command)
    return loaded


@Command(
    words="COMMAND …",
    greedy=True,
    options=(Option("--version", None, "print the version"),),
    examples=("stoker run -- make test", "stoker ls", "stoker submit --help"),
)
def program(given: Given) -> int:
    """`stoker` itself: the options before the command, and the overview when no command is given."""
    if given["version"]:
        from stoker import __version__  # noqa: PLC0415 - needed only here

        render.line(f"stoker {__version__}")
        return 0
    render.line(overview(render.terminal_size()[0]))
    return 0 if given["help"] else UsageError.exit_status


def overview(columns: int = HELP_COLUMNS) -> str:
    """Every command with its summary, wrapped to `columns`."""
    lines = ["usage: stoker [OPTION…] COMMAND …", "", "A durable job daemon for one Linux host.", ""]
    for group, rows in COMMANDS.items():
        lines.append(f"{group}:")
        for name, (_, summary) in rows.items():
            lines += described(name, summary, SUMMARY_COLUMN, columns)
        lines.append("")
    lines += [
        "`stoker COMMAND --help` explains a command, with examples.",
        f"Every command takes {', '.join(option.names[-1] for option in COMMON)}.",
    ]
    return "\n".join(lines)


def _rows() -> dict[str, tuple[str, str]]:
    return {name: row for rows in COMMANDS.values() for name, row in rows.items()}


def _named(words: list[str]) -> tuple[str, list[str]]:
    """The name of the command at the start of `words`, and the words that follow it."""
    rows = _rows()
    first, two = words[0], " ".join(words[:2])
    if two in rows:
        return two, words[2:]
    subcommands = [name.removeprefix(f"{first} ") for name in rows if name.startswith(f"{first} ")]
    if subcommands and (first not in rows or (len(words) > 1 and not words[1].startswith("-"))):
        raise UsageError(f"no command {two!r}", hint=f"the commands of {first} are: {', '.join(subcommands)}")
    if first not in rows:
        from stoker.core.similar_names import did_you_mean  # noqa: PLC0415 - only after a misspelt name

        hint = NAMES_ELSEWHERE.get(first) or did_you_mean(first, rows)
        raise UsageError(f"no command {first!r}", hint=hint or "stoker --help lists the commands")
    return first, words[1:]


def _help(selected: Command, name: str, summary: str) -> str:
    return selected.explain(name, summary, render.terminal_size()[0]) + _see_also(name)


def _see_also(name: str) -> str:
    subcommands = [other.removeprefix(f"{name} ") for other in _rows() if other.startswith(f"{name} ")]
    return f"\n\nsubcommands: {', '.join(subcommands)}" if subcommands else ""


def _flush_quietly() -> None:
    """Print pending output before the error message; ignore a reader that is gone."""
    try:
        render.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(bug: Exception, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        import traceback  # noqa: PLC0415 - only for a bug

        render.trace(traceback.format_exc())
    hint = "report it with the output of the same command with --debug, and of: stoker --version"
    if isinstance(bug, KeyError):  # probably a field that an older daemon does not send
        hint = f"a stokerd that runs since before an upgrade needs a restart; otherwise {hint}"
    message = f"internal error, a bug in stoker: {type(bug).__name__}: {bug}"
    render.error(StokerError(message, hint=hint))
    return EX_SOFTWARE


if __name__ == "__main__":
    main()
