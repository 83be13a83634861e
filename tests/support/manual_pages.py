"""The manual pages in man/, written from the tables of commands, options, settings and fields.

`python -m tests.support.manual_pages` writes them; a test compares, and has mandoc check the language (mdoc(7)).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from stoker.cli import main
from stoker.cli.completion import DAEMON
from stoker.cli.kit.parser import COMMON, Command, Option
from stoker.config.cluster_section import SlurmSection
from stoker.config.describing import as_toml, help_of
from stoker.config.hook_section import HookSection
from stoker.config.quota_section import QuotaSection
from stoker.config.settings import SECTIONS, KeepSection, QueueSection
from stoker.core import field_help
from stoker.core.requests import JobDefaults
from stoker.core.workflow.definition import StepDefaults, StepParams

PAGES: Final = Path(__file__).parents[2] / "man"
WIDTH: Final = 66  # of a line before hyphens are escaped; mandoc wants at most 80
DATE: Final = "December 1, 2026"
OPERATIONS: Final = Path(__file__).parents[2] / "docs" / "operations.md"

# Variables for programs that run as a job, and for the client.
ENVIRONMENT: Final = {
    "STOKER_SOCKET": "the socket of the daemon, unless --socket is given; set for every job",
    "STOKER_STATE_DIR": "the state directory, for commands that need no daemon",
    "NO_COLOR": "print no colours",
}
OF_A_JOB: Final = {
    "STOKER_JOB_ID": "the id of the job",
    "STOKER_ATTEMPT": "the number of the attempt, from 1",
    "STOKER_RUN_ID": "the name of this attempt, unlike all others",
    "STOKER_INSTANCE": "the daemon that it belongs to",
    "STOKER_TOKEN": "lets the job save checkpoints",
    "STOKER_CHECKPOINT": "a file with the newest checkpoint, if there is one",
    "STOKER_CHECKPOINT_DIR": "on a node of a cluster, the directory for the checkpoints of the job",
    "STOKER_OUTPUT": "the file for values that later steps get",
    "STOKER_INPUTS": "the outputs of its needs, as JSON",
    "STOKER_INPUTS_FILE": "a file with state and outputs of its needs, and for a handler of failed steps, as JSON",
    "STOKER_WORKFLOW_ID": "the workflow of a step",
    "STOKER_STEP": "the name of a step",
    "STOKER_WORKFLOW_STATE": "of a handler, the state that its workflow is to have",
    "STOKER_ITEM": "the item of `each` that the step is for",
    "STOKER_SCHEDULE": "the schedule that submitted it",
    "STOKER_SCHEDULED_FOR": "the time that the run is for (RFC 3339)",
    "STOKER_SECRETS_DIR": "the directory with a file for each of its secrets",
    "STOKER_EVENT_FILE": "a file with the data of the events that it waited for, as JSON",
    "STOKER_HOOK": "the hook that submitted it",
    "STOKER_HOOK_ON": "the kind of the change that a hook is for",
    "STOKER_HOOK_SUMMARY": "the change in one line",
    "STOKER_HOOK_FILE": "a file with the change, as JSON",
    "STOKER_LOG_PIPE": "the pipe that its output goes through",
    "NOTIFY_SOCKET": "the socket for systemd-notify(1), if the job may report",
    "WATCHDOG_USEC": "how often a sign of life is due, in microseconds",
    "TRACEPARENT": "the W3C trace context of the attempt",
}


def pages() -> dict[str, str]:
    """Name of a file → its text."""
    return {
        "stoker.1": _page("STOKER", 1, "stoker", "submit, inspect and control durable jobs", _client()),
        "stokerd.8": _page("STOKERD", 8, "stokerd", "durable job daemon for one host", _daemon()),
        "stoker.toml.5": _page("STOKER.TOML", 5, "stoker.toml", "settings of stokerd", _settings()),
        "stoker-workflow.5": _page(
            "STOKER-WORKFLOW", 5, "stoker-workflow", "file of a workflow of stoker", _workflow()
        ),
    }


def write() -> None:
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text)


# --- the pages ------------------------------------------------------------------------------------------------------


def _client() -> Iterator[str]:
    yield from [".Sh SYNOPSIS", ".Nm", ".Op Ar option ...", ".Ar command", ".Op Ar argument ..."]
    yield ".Sh DESCRIPTION"
    yield from _text(
        "stoker hands commands to the daemon stokerd(8), which keeps them in a database and runs them. A job that was"
        " answered is on disk: it outlives the terminal, the client, the daemon and the loss of power."
    )
    yield from _text("Every command takes these options:")
    yield from _options(COMMON)
    for group, rows in main.COMMANDS.items():
        yield f".Sh {group.upper()}"
        for name, (target, summary) in rows.items():
            yield from _command(name, summary, main.load(target))
    yield ".Sh ENVIRONMENT"
    yield from _terms(ENVIRONMENT, ".Ev")
    yield from _text("A job finds in its environment, where they apply:")
    yield from _terms(OF_A_JOB, ".Ev")
    yield ".Sh EXIT STATUS"
    yield from _terms(exit_codes(), ".Li")
    yield from _see("stoker-workflow 5", "stoker.toml 5", "stokerd 8")


def _command(name: str, summary: str, command: Command) -> Iterator[str]:
    yield f".Ss stoker {name}"
    usage = f"stoker {name} [OPTION...] {command.words}".rstrip().replace("…", "...")
    yield from [".D1 " + _escaped(usage), ".Pp"]
    yield from _text(f"{summary[:1].upper()}{summary[1:]}. {' '.join((command.run.__doc__ or '').split())}")
    own = [option for option in command.options if option not in COMMON]
    if own:
        yield from _options(own)
    if command.examples:
        yield from [".Pp", "Examples:", ".Bd -literal -offset indent -compact"]
        yield from (_escaped(example) for example in command.examples)
        yield ".Ed"


def _daemon() -> Iterator[str]:
    yield from [".Sh SYNOPSIS", ".Nm"]
    for name, value, _ in DAEMON:
        yield f".Op Fl -{name[2:]}" + (f" Ar {value}" if value else "")
    yield ".Sh DESCRIPTION"
    yield from _text(
        "stokerd runs in the foreground, as a service of systemd or by hand. It keeps jobs in a SQLite database, starts"
        " them as processes of their own, and answers stoker(1) on a Unix socket. A start finds what an earlier"
        " daemon left behind: it adopts the jobs that survive, stops the other processes that prove to be its own, and"
        " queues the jobs again that are safe to run again."
    )
    yield ".Bl -tag -width Ds"
    for name, value, description in DAEMON:
        yield f".It Fl -{name[2:]}" + (f" Ar {value}" if value else "")
        yield from _text(description)
    yield ".El"
    yield ".Sh SIGNALS"
    yield from _terms(
        {
            "SIGTERM": "stop: start no more jobs, let running jobs end for `drain_timeout_ms`, then stop them with"
            " their grace; jobs that survive go on",
            "SIGINT": "as SIGTERM",
            "SIGHUP": "read the settings again",
        },
        ".Dv",
    )
    yield ".Sh FILES"
    yield from _terms(
        {
            "/etc/stoker/stoker.toml": "the settings, unless $XDG_CONFIG_HOME/stoker/stoker.toml exists",
            "/var/lib/stoker": "the state of the service; else ~/.local/state/stoker",
            "/run/stoker/stoker.sock": "the socket of the service; else $XDG_RUNTIME_DIR/stoker/stoker.sock",
        },
        ".Pa",
    )
    yield ".Sh EXIT STATUS"
    yield from _terms(exit_codes(), ".Li")
    yield from _see("stoker 1", "stoker.toml 5", "systemd.service 5")


def _settings() -> Iterator[str]:
    yield ".Sh DESCRIPTION"
    yield from _text(
        "The settings of stokerd(8) are a file in TOML. All keys are optional. The file is that of --config, else"
        " $XDG_CONFIG_HOME/stoker/stoker.toml, else /etc/stoker/stoker.toml. A variable STOKER_<SECTION>_<KEY>"
        " overrides a key, as in STOKER_CPU_THROTTLE_THRESHOLD=85. `stoker config check` reports every mistake in a"
        " file, `stoker config show` prints the settings in force, `stoker config reload` makes the daemon read them"
        " again, and `stoker schema settings` is for editors. Durations are milliseconds and sizes are bytes, unless"
        " the name of a key says otherwise."
    )
    yield ".Sh SECTIONS"
    for name, section in SECTIONS.items():
        yield from _section(name, section)
    yield from _section("retention.queues.NAME and retention.workflows.NAME", KeepSection)
    yield from _section("quotas.users.NAME", QuotaSection)
    yield from _section("queues.NAME", QueueSection)
    yield from _text("`defaults` takes: " + ", ".join(JobDefaults.__struct_fields__) + ".")
    yield from _section("queues.NAME.slurm", SlurmSection)
    yield ".Ss rates.KEY"
    yield from _text('The rate of a key of jobs (`rate_key`): `rate`, as in "10/s", and `burst`.')
    yield ".Ss schedules.NAME"
    yield from _text(
        'A schedule: `timing` (a cron expression, @daily, "every 15m" or "at TIME"), `zone`, `misfire` (skip, latest,'
        " all), `catch_up_ms`, `overlap` (allow, skip, queue, supersede), `jitter_ms`, `paused`, and either `job`, with"
        " the fields of a job, or `flow`, as in stoker-workflow(5). With a flow, `target` and `from` (lists of steps)"
        ' submit a part, and `reuse` ("latest" or the id of a workflow) takes over unchanged steps.'
    )
    yield from _section("hooks.NAME", HookSection)
    yield from _see("stoker 1", "stoker-workflow 5", "stokerd 8")


def _section(title: str, section: type[msgspec.Struct]) -> Iterator[str]:
    yield f".Ss {title}"
    yield from _text(" ".join((section.__doc__ or "").split()))
    yield ".Bl -tag -width Ds"
    for field in msgspec.structs.fields(section):
        shown = field.default not in (msgspec.NODEFAULT, msgspec.UNSET, None, (), SlurmSection())
        value = f" = {as_toml(field.default)}" if shown else ""
        yield f".It Sy {_escaped(field.encode_name)}" + (f" Li {_quoted(value.strip())}" if value else "")
        yield from _text(help_of(field.type) or "see above")
    yield ".El"


def _workflow() -> Iterator[str]:
    yield ".Sh DESCRIPTION"
    yield from _text(
        "A workflow is a set of steps that need each other, in a file in TOML or JSON. `stoker workflow submit`"
        " sends it, `stoker workflow submit --dry-run` and `stoker workflow graph` only check it, and"
        " `stoker schema workflow` is for editors. Durations are milliseconds, instants UTC milliseconds since 1970,"
        " sizes bytes."
    )
    yield ".Sh KEYS OF THE FILE"
    yield from _terms(field_help.FLOW, ".Sy")
    yield ".Sh KEYS OF A STEP"
    yield from _terms({name: field_help.STEP[name] for name in StepParams.__struct_encode_fields__}, ".Sy")
    yield ".Pp"
    yield from _text("`limits` takes: " + ", ".join(field_help.LIMITS) + ".")
    yield ".Sh KEYS OF DEFAULTS"
    yield from _text(", ".join(StepDefaults.__struct_fields__) + ".")
    yield ".Sh EXAMPLES"
    yield ".Bd -literal -offset indent -compact"
    yield from (_escaped(line) for line in EXAMPLE.splitlines())
    yield ".Ed"
    yield from _see("stoker 1", "stoker.toml 5")


EXAMPLE: Final = """\
name = "build"

[parameters]
version = "dev"

[steps.compile]
command = "make"
each = ["lexer", "parser"]
args = ["{{item}}"]

[steps.link]
needs = ["compile"]
command = "make"
args = ["link", "VERSION={{version}}"]
max_attempts = 3

[steps.report]
needs = [{ step = "link", on = "failed" }]
command = "mail"
args = ["-s", "the build failed", "root"]
"""

# How troff writes these characters.
GLYPHS: Final = str.maketrans({"\\": "\\e", "-": "\\-", "…": "...", "→": "\\(->", "‘": "\\(oq", "’": "\\(cq"})  # noqa: RUF001

# --- the language of the pages --------------------------------------------------------------------------------------


def exit_codes() -> dict[str, str]:
    """The table in docs/operations.md."""
    table = OPERATIONS.read_text().partition("| exit code |")[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ", 1) for row in table.splitlines()[2:]]
    return {code: meaning.replace("`", "") for code, meaning in rows}


def _page(title: str, section: int, name: str, summary: str, body: Iterable[str]) -> str:
    head = [f".Dd {DATE}", f".Dt {title} {section}", ".Os", ".Sh NAME", f".Nm {name}", f".Nd {summary}"]
    return "\n".join([*head, *body]) + "\n"


def _options(options: Iterable[Option]) -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for option in options:
        names = " , ".join(f"Fl {_escaped(name[1:])}" for name in option.names)
        value = option.metavar if option.listed or not option.choices else "|".join(option.choices)
        yield f".It {names}" + (f" Ar {_quoted(value)}" if value else "")
        choices = f": {', '.join(option.choices)}" if option.listed else ""
        yield from _text(option.description + choices)
    yield ".El"


def _terms(terms: dict[str, str], macro: str) -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for term, text in terms.items():
        yield f".It {macro[1:]} {_quoted(term)}"
        yield from _text(text)
    yield ".El"


def _text(text: str) -> Iterator[str]:
    """Sentences on lines of their own, as mdoc wants them; what stands in backticks is literal."""
    for sentence in re.split(r"(?<=[.:]) +(?=[A-Z`])", text.strip()):
        plain = re.sub("`([^`]*)`", r"‘\1’", sentence)  # noqa: RUF001 - typographic quotes, as manuals have them
        yield from (
            _escaped(line) for line in textwrap.wrap(plain, WIDTH, break_on_hyphens=False, break_long_words=False)
        )


def _see(*references: str) -> Iterator[str]:
    yield ".Sh SEE ALSO"
    yield from (f".Xr {each} ," for each in references[:-1])
    yield f".Xr {references[-1]}"


def _escaped(text: str) -> str:
    """Text that troff takes as it is: no escapes, no request at its start, and the hyphens of ASCII."""
    text = text.translate(GLYPHS)
    return f"\\&{text}" if text[:1] in (".", "'") else text


def _quoted(text: str) -> str:
    """One argument of a macro."""
    return '"' + _escaped(text).replace('"', "\\(dq") + '"'


if __name__ == "__main__":
    write()
