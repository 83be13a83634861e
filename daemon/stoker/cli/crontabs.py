"""The import of crontabs: each line becomes a schedule.

Owns the form of a crontab, the remarks about lines that are left out, and the defaults, which are those of cron.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from typing import Any

from stoker.cli.kit import render, table
from stoker.cli.kit.connection import call, connect
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.kit.progress import QUIET, Progress
from stoker.cli.schedules import REPLACE, here, policies
from stoker.core.errors import InvalidParams, StokerError, UsageError
from stoker.core.schedule.crontab import CronJob, Crontab, read_crontab
from stoker.core.units import counted

USER, SYSTEM = "user", "system"
SYSTEM_FORM = re.compile(r"(.*/)?(etc/crontab|cron\.d/[^/]+)")
LATE_AS_CRON, OVERLAP_AS_CRON = "skip", "allow"  # what cron does
LONGEST_CRONTAB = 1_000_000
MISTAKES_SHOWN = 10


@Command(
    words="CRONTAB|-",
    options=(
        Option(
            "--form",
            "FORM",
            "user: as of crontab -l; system: with a user in each line (default: system for etc/crontab and files in"
            " cron.d, else user)",
            choices=(USER, SYSTEM),
        ),
        Option("--prefix", "NAME", "schedules are named NAME-LINE (default: the name of the file)"),
        Option("--dry-run", None, "store nothing: print what would be imported, and what cannot be"),
        REPLACE,
        *policies(LATE_AS_CRON, OVERLAP_AS_CRON),
        QUIET,
        JSON,
    ),
    examples=(
        "crontab -l | stoker schedule import --dry-run -",
        "stoker schedule import /etc/cron.d/sysstat",
        "stoker schedule import --prefix web --misfire latest crontab.txt",
    ),
)
def import_crontab(given: Given) -> None:
    """As with cron, late slots are left out and runs may overlap, unless the options say otherwise. A crontab with a
    mistake is refused as a whole.
    """
    (source,) = given["words"]
    form = given["form"] or (SYSTEM if SYSTEM_FORM.fullmatch(source) else USER)
    crontab = read_crontab(_text_of(source), users=form == SYSTEM)
    if crontab.mistakes:
        raise _mistakes(source, crontab)
    if given["form"] is None and form == USER:
        _check_form(source, crontab)
    prefix = given["prefix"] or ("crontab" if source == "-" else os.path.basename(source))
    account = _user_of_daemon(given)
    ours = _jobs_of(account.pw_name, crontab)
    for number, remark in sorted(crontab.remarks):
        render.note(f"{source}:{number}: {remark}")
    params = [_imported(given, job, f"{prefix}-{job.line}", account.pw_dir) for job in ours]
    if not given["dry_run"]:
        _store(given, source, ours, params)
    if given["json"]:
        render.json_document(params)
        return
    rows = [(each["name"], each["timing"], each["zone"], job.command) for each, job in zip(params, ours, strict=True)]
    table.show(("NAME", "TIMES", "ZONE", "COMMAND"), rows, spare=("ZONE",))


def _text_of(source: str) -> str:
    try:
        with open(0 if source == "-" else source, encoding="utf-8", closefd=source != "-") as file:
            text = file.read(LONGEST_CRONTAB + 1)
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"cannot read {source}: {problem}") from None
    if len(text) > LONGEST_CRONTAB:
        raise InvalidParams(f"{source}: longer than {LONGEST_CRONTAB} characters", hint="import it in several parts")
    return text


def _mistakes(source: str, crontab: Crontab) -> InvalidParams:
    """One error for all mistakes, which names the first of them."""
    named = [f"line {number}: {text}" for number, text in crontab.mistakes[:MISTAKES_SHOWN]]
    if (more := len(crontab.mistakes) - MISTAKES_SHOWN) > 0:
        named.append(counted(more, "more line"))
    problem = f"{source}: {'; '.join(named)}; nothing was imported"
    return InvalidParams(problem, hint="crontab(5) says what a line has")


def _check_form(source: str, crontab: Crontab) -> None:
    """Raises UsageError if each command begins with the name of a user, and no program has that name."""
    words = [job.command.split(None, 1)[0] if job.command else "" for job in crontab.jobs]
    path = os.pathsep.join({job.environment["PATH"]: None for job in crontab.jobs})
    if words and all(_is_user(word) and shutil.which(word, path=path) is None for word in words):
        line = crontab.jobs[0].line
        raise UsageError(
            f"{source}:{line}: {words[0]!r} is a user, and no program: do the lines name users?",
            hint="--form system if they do, --form user if that is a command",
        )


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: bytes that no name has
        return False
    return True


def _user_of_daemon(given: Given) -> pwd.struct_passwd:
    """The owner of its state directory: root may talk to the daemon of another user."""
    return pwd.getpwuid(os.stat(call(given, "system.status", {})["state_dir"]).st_uid)


def _jobs_of(user: str, crontab: Crontab) -> list[CronJob]:
    """Jobs run as the user of the daemon: a line for another user is left out, with a remark."""
    crontab.remarks += [
        (job.line, f"not imported: it is for the user {job.user}, and jobs run as the user of the daemon ({user})")
        for job in crontab.jobs
        if job.user not in (None, user)
    ]
    return [job for job in crontab.jobs if job.user in (None, user)]


def _imported(given: Given, job: CronJob, name: str, home: str) -> dict[str, Any]:
    work: dict[str, Any] = {
        "command": job.shell,
        "args": ["-c", job.command],
        "env": job.environment,
        "working_dir": job.environment.get("HOME", home),
        "name": job.command[:200],
    }
    if job.stdin is not None:
        work["stdin"] = job.stdin
    params: dict[str, Any] = {
        "name": name,
        "timing": job.timing,
        "zone": given["zone"] or job.zone or here(),
        "misfire": given["misfire"] or LATE_AS_CRON,
        "overlap": given["overlap"] or OVERLAP_AS_CRON,
        "replace": given["replace"],
        "job": work,
    }
    return params | {key: value for key in ("catch_up_ms", "jitter_ms") if (value := given[key]) is not None}


def _store(given: Given, source: str, jobs: list[CronJob], params: list[dict[str, Any]]) -> None:
    with connect(given) as client, Progress(given) as progress:
        for count, (job, each) in enumerate(zip(jobs, params, strict=True)):
            try:
                client.call("schedule.add", each)
            except StokerError as error:
                error.message = (
                    f"{source}:{job.line}: {error.message}; {count} of {counted(len(jobs), 'line')} were imported"
                )
                raise
            progress.show("imported", count + 1, len(jobs))
