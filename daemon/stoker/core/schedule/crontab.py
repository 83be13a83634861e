"""Reads a crontab: a user's, or one with a user in each line (/etc/crontab, /etc/cron.d).

Owns the rules of crontab(5) for lines, variables and `%`. A setting without counterpart in Stoker becomes a remark.
Standard library only: the client imports it.
"""

from __future__ import annotations

import re

from stoker.core.errors import InvalidParams
from stoker.core.schedule.timing import CRON_FIELDS, slots_of

VARIABLE = re.compile(r"""(?:"([^"]+)"|'([^']+)'|([^\s='"]+))\s*=(.*)""")
SHELL = "/bin/sh"
PATH = "/usr/bin:/bin"  # as cron(8) sets it
PERCENT = re.compile(r"(\\%)|%")


class CronJob:
    """One line. `user`: the user in it, if lines have users; `stdin`: the text after the first `%`."""

    def __init__(self, line: int, timing: str, user: str | None, command: str, environment: dict[str, str]) -> None:
        self.line = line
        self.timing = timing
        self.user = user
        self.command, self.stdin = split_percent(command)
        self.zone = environment.pop("CRON_TZ", None)
        self.shell = environment.pop("SHELL", SHELL)
        self.environment = {"PATH": PATH, **environment}


class Crontab:
    """The jobs of a crontab; `mistakes` and `remarks` by line."""

    def __init__(self) -> None:
        self.jobs: list[CronJob] = []
        self.mistakes: list[tuple[int, str]] = []
        self.remarks: list[tuple[int, str]] = []


def read_crontab(text: str, *, users: bool) -> Crontab:
    """`users`: each line names the user that its command runs as."""
    crontab, environment = Crontab(), dict[str, str]()
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        variable = None if content[0] in "@*" or content[0].isdigit() else VARIABLE.fullmatch(content)
        if variable is None:
            _read_job(crontab, number, content, dict(environment), users=users)
        elif (name := variable[1] or variable[2] or variable[3]) == "MAILTO":
            crontab.remarks.append((number, "MAILTO is not mapped: the output of a job is in its log"))
        else:
            environment[name] = _unquoted(variable[4].strip())
    return crontab


def _read_job(crontab: Crontab, number: int, content: str, environment: dict[str, str], *, users: bool) -> None:
    count = 1 if content.startswith("@") else CRON_FIELDS
    words = content.split(None, count + users)
    if len(words) <= count + users:
        crontab.mistakes.append((number, f"not a line of a crontab{' with users' if users else ''}: {content[:80]!r}"))
        return
    timing = " ".join(words[:count])
    if timing == "@reboot":
        crontab.remarks.append((number, "@reboot is not mapped: let a unit of systemd submit it"))
        return
    job = CronJob(number, timing, words[count] if users else None, words[-1], environment)
    try:
        slots_of(job.timing, job.zone or "UTC")
    except InvalidParams as error:
        crontab.mistakes.append((number, error.message))
        return
    crontab.jobs.append(job)


def split_percent(command: str) -> tuple[str, str | None]:
    r"""The command and its stdin: the first `%` ends the command, later ones are newlines, `\%` is a percent sign."""
    parts, begin = [""], 0
    for sign in PERCENT.finditer(command):
        parts[-1] += command[begin : sign.start()]
        if sign[1]:
            parts[-1] += "%"
        else:
            parts.append("")
        begin = sign.end()
    parts[-1] += command[begin:]
    first, *lines = parts
    return first.rstrip(), "".join(f"{line}\n" for line in lines) if lines else None


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
