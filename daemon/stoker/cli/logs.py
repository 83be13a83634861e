"""`stoker logs`: what a job wrote, or all steps of a group.

Owns the lines of a group: each begins with the name of its step.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from stoker.cli.follow import LogReader, ReaderWatch, printer
from stoker.cli.kit import outcome, render, values
from stoker.cli.kit.addresses import NamedGroup, job_or_group
from stoker.cli.kit.connection import call, connect, patiently
from stoker.cli.kit.naming import few, groups
from stoker.cli.kit.parser import RAW, Command, Given, Option
from stoker.core.errors import UsageError
from stoker.core.reason_words import HANDLER_FAILED, SENTENCES, last_line
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.cli.follow import Show
    from stoker.core.views import JobDetails, StepView
    from stoker.core.wire_types import LogPiece

LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


@Command(
    words="ID",
    options=(
        Option("-f --follow", None, "follow the log through all retries until the job has ended"),
        Option("--attempt", "N", "the log of this attempt (default: the last one)", convert=values.positive),
        Option("-n --lines", "N", "only the last N lines", convert=values.integer, to="tail_lines"),
        RAW,
        Option("--json", None, "print JSON, one piece of the log per line"),
    ),
    examples=(
        "stoker logs 42",
        "stoker logs -f 42",
        "stoker logs 42 --attempt 1 -n 20",
        "stoker logs '7/compile[lexer]'",
        "stoker logs 7/compile -n 3                           # all steps of a group",
    ),
)
def logs(given: Given) -> None:
    """With -f, a job whose log is full waits up to 10 s for this command to read on before it drops the middle."""
    named = job_or_group(given, given["words"][0])
    if isinstance(named, NamedGroup):
        _logs_of_group(given, named)
    else:
        _logs_of_job(given, named)


def _logs_of_job(given: Given, ident: int) -> None:
    job = call(given, "job.get", {"id": ident})
    attempt = given["attempt"] or max(1, job["attempts"])
    if not job["attempts"] and not (given["follow"] and not outcome.ended(job)):
        render.note(f"job {job['id']} {'never started' if job['state'] in outcome.FINAL else 'has not started'}")
        render.hint(f"stoker why {job['id']}")
        return
    watch_of_reader = ReaderWatch() if given["follow"] else nullcontext()
    with watch_of_reader, render.LogText(raw=given["raw"]) as text:
        show = partial(_print_piece, {}) if given["json"] else printer(text)
        reader = LogReader(given, job["id"], show, attempt=attempt)
        reader.tail_lines = given["tail_lines"]
        if given["follow"] and given["attempt"] is None:
            patiently(given, reader.to_the_end)
        else:
            patiently(given, lambda client: reader.one_attempt(client, follow=given["follow"]))
    if reader.silent:
        _explain_empty_log(call(given, "job.get", {"id": job["id"]}), attempt)


def _explain_empty_log(job: JobDetails, ordinal: int) -> None:
    """Say why the log is empty if the command never ran; other empty logs need no remark."""
    for attempt in job.get("attempts_list", ()):
        if attempt["ordinal"] >= ordinal and attempt["error"]:
            reason = {"exception": HANDLER_FAILED, "exit": SENTENCES["output"]}
            kind = attempt["outcome"] or "exit"
            message = f"{SENTENCES.get(kind) or reason[kind]}: {last_line(attempt['error'])}"
            if attempt["stopped"]:
                message = f"it was stopped ({attempt['stop_reason']})"
            render.note(f"attempt {attempt['ordinal']} wrote nothing: {message}")
            if attempt["outcome"] == "exception" and not attempt["stopped"]:  # a process would log its traceback too
                render.trace(f"{attempt['error'].rstrip()}\n")


def _print_piece(about: dict[str, str], piece: LogPiece, data: bytes | None) -> None:
    """`about`: what is known of the whole log."""
    shown: dict[str, int | str] = {**about, "attempt": piece["attempt"], "offset": piece["offset"]}
    shown |= {"hole": piece["hole"]} if data is None else {"text": data.decode("utf-8", "backslashreplace")}
    render.line(render.json_text(shown))
    render.flush()


# --- groups ---------------------------------------------------------------------------------------------------------


def _logs_of_group(given: Given, group: NamedGroup) -> None:
    """One log after the other, in the order of the steps."""
    if given["follow"]:
        raise UsageError(f"--follow takes one step, and {group.title}", hint=group.some)
    with connect(given) as client:
        workflow = client.call("workflow.get", {"id": group.address[0]})
    jobs = {step["job"] for step in group.tasks}
    steps = [step for step in workflow["steps"] if step["job"] in jobs]
    started = [step for step in steps if step["attempts"] >= (given["attempt"] or 1)]
    with render.LogText(raw=given["raw"]) as text:
        _print_logs(given, started, text)
    if missing := [step["name"] for step in steps if step not in started]:
        what = f"no attempt {given['attempt']}" if given["attempt"] else "not started"
        render.note(f"{what}: {few(groups(missing))}")


def _print_logs(given: Given, steps: list[StepView], text: render.LogText) -> None:
    width = max((len(step["name"]) for step in steps), default=0)
    logs = []
    for step in steps:
        lines = NamedLines(render.visible(step["name"]).ljust(width), text.write)
        show = partial(_print_piece, {"step": step["name"]}) if given["json"] else lines.show(text)
        reader = LogReader(given, step["job"], show, attempt=given["attempt"] or step["attempts"])
        reader.tail_lines = given["tail_lines"]
        logs.append((reader, lines))
    logs.reverse()

    def those_left(client: Client) -> None:
        while logs:
            reader, lines = logs[-1]
            reader.one_attempt(client, follow=False)
            lines.finish()
            logs.pop()

    patiently(given, those_left)


class NamedLines:
    """Writes lines with a name before each; also before what a carriage return begins anew, as a progress bar does."""

    def __init__(self, name: str, write: Callable[[bytes], None]) -> None:
        self._name = f"{name} | ".encode()
        self._write = write
        self._last = b"\n"

    def show(self, text: render.LogText) -> Show:
        def show(piece: LogPiece, data: bytes | None) -> None:
            if data is None:
                self.finish()
                text.hole(piece["hole"])
            else:
                self.write(data)

        return show

    def write(self, data: bytes) -> None:
        if not data:
            return
        named = LINE_END.sub(lambda end: end[0] + self._name, data)
        if data.endswith(b"\n"):
            named = named.removesuffix(self._name)
        begins = self._last == b"\n" or (self._last == b"\r" and not data.startswith(b"\n"))
        self._write((self._name if begins else b"") + named)
        self._last = data[-1:]

    def finish(self) -> None:
        """End a line that has no end."""
        if self._last != b"\n":
            self.write(b"\n")
