"""`stoker logs`: what a job wrote, or all steps of a group.

Owns the log of one job, and why one is empty; group_logs.py owns the lines of groups.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from stoker.cli import group_logs
from stoker.cli.follow import LogReader, ReaderWatch, printer
from stoker.cli.kit import outcome, render, values
from stoker.cli.kit.addresses import NamedGroup, job_or_group
from stoker.cli.kit.connection import call, patiently
from stoker.cli.kit.parser import RAW, Command, Given, Option
from stoker.core.reason_words import HANDLER_FAILED, SENTENCES, last_line

if TYPE_CHECKING:
    from stoker.core.views import JobDetails


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
        "stoker logs -f 7/compile                             # all of them, as they write",
    ),
)
def logs(given: Given) -> None:
    """With -f, a job whose log is full waits up to 10 s for this command to read on before it drops the middle."""
    named = job_or_group(given, given["words"][0])
    if not isinstance(named, NamedGroup):
        _logs_of_job(given, named)
        if not given["follow"]:
            return
        named = job_or_group(given, given["words"][0])  # its list may have come meanwhile
    if isinstance(named, NamedGroup):
        (group_logs.follow if given["follow"] else group_logs.print_all)(given, named)


def _logs_of_job(given: Given, ident: int) -> None:
    job = call(given, "job.get", {"id": ident})
    attempt = given["attempt"] or max(1, job["attempts"])
    if not job["attempts"] and not (given["follow"] and not outcome.ended(job)):
        render.note(f"job {job['id']} {'never started' if job['state'] in outcome.FINAL else 'has not started'}")
        render.hint(f"stoker why {job['id']}")
        return
    watch_of_reader = ReaderWatch() if given["follow"] else nullcontext()
    with watch_of_reader, render.LogText(raw=given["raw"]) as text:
        show = partial(group_logs.print_piece, {}) if given["json"] else printer(text)
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
