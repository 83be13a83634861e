"""Following jobs: `wait`, `watch`, and the second half of `run`.

Owns how far the output was shown (attempt, offset, sequence number), so that following goes on where it was when the
daemon comes back, and ends when the reader of stdout is gone. It reads streams and never polls.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from _thread import start_new_thread
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from stoker.cli.kit import outcome, render, values
from stoker.cli.kit.addresses import address, job_named, jobs_named
from stoker.cli.kit.connection import call, patiently
from stoker.cli.kit.naming import workflow_id
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.run_interrupt import BROKEN_PIPE, INTERRUPTED, RunInterrupt
from stoker.core.errors import StokerError, WaitTimeout
from stoker.rpc.client import Client, own_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.core.views import Explanation, JobDetails
    from stoker.core.wire_types import ChangeShape, LogPiece, StandingShape

PATIENCE_S = 2.0  # with an attempt that does not begin, before the reason is printed
# The codes of `why` for a job that waits. All other codes are about jobs that run or have ended.
BLOCKED = (
    "needs", "run_at", "backoff", "throttled", "queue_paused", "workflow_paused", "queue_full", "quota", "resource",
    "slot", "host", "standstill",
)  # fmt: skip
# A notification of job.logs and its bytes (None where bytes were dropped).
Show = Callable[["LogPiece", bytes | None], None]


class LogReader:
    """Reads the log of one job. Holds the attempt and the offset that come next, so that it can be resumed."""

    def __init__(self, given: Given, job: int, show: Show, *, attempt: int = 1) -> None:
        self._given = given
        self._job = job
        self._show = show
        self._attempt = attempt
        self._offset: int | None = None
        self.tail_lines: int | None = None
        self.silent = True
        self.explains = True  # why the job does not start

    def to_the_end(self, client: Client) -> JobDetails:
        """Show each attempt as it is written until the job has ended; returns the job."""
        job = client.get(self._job)
        while self._attempt <= job["attempts"] or not outcome.ended(job):
            # An attempt can be followed before it begins: the stream ends with the attempt or with the job.
            if self._attempt > job["attempts"] and self.explains:
                explain_delay(self._given, self._job)
            self.one_attempt(client, follow=True)
            job = client.get(self._job)
            if self._attempt <= job["attempts"]:
                self._attempt, self._offset, self.tail_lines = self._attempt + 1, None, None
        return job

    def one_attempt(self, client: Client, *, follow: bool) -> None:
        where: dict[str, Any] = {"id": self._job, "attempt": self._attempt, "follow": follow}
        if self._offset is not None:
            where["offset"] = self._offset
        elif self.tail_lines is not None:
            where["tail_lines"] = self.tail_lines
        if follow:
            where |= own_token()
        pieces: Iterator[LogPiece] = client.follow("job.logs", where)
        for piece in pieces:
            data = a2b_base64(piece["data"]) if "data" in piece else None
            self._show(piece, data)
            self.silent = False
            self._offset = piece["offset"] + (piece["hole"] if data is None else len(data))


def explain_delay(given: Given, job: int) -> None:
    """Print why a job does not start, if it has not started after PATIENCE_S."""

    def wait_and_explain() -> None:
        time.sleep(PATIENCE_S)
        try:
            blocker: Explanation = call(given, "job.why", {"id": job})
        except StokerError:  # the command itself waits for the daemon, with a note
            return
        hint = blocker.get("hint")
        if blocker["code"] in BLOCKED and (hint or blocker["code"] == "run_at"):
            render.note(f"job {job} waits: {blocker['message']}")
            if hint:
                render.hint(hint)

    start_new_thread(wait_and_explain, ())


def follow_run(given: Given, job: int, interrupt: RunInterrupt) -> int:
    """The second half of `run`: print the log, then return the job's exit status."""
    render.aside(f"job {job}")
    try:
        with ReaderWatch(interrupt.reader_gone), render.LogText(raw=given["raw"]) as text:
            reader = LogReader(given, job, printer(text))
            job_end = patiently(given, reader.to_the_end, answered=True)
    except BrokenPipeError:
        interrupt.reader_gone()
    if given["stdin"] is None and _stdin_is_unread():
        render.note("the job did not get the data on stdin")
        render.hint("stoker run --stdin - passes text to the job, at most 64 KiB; < /dev/null if it needs none")
    status = _report(job_end)
    return INTERRUPTED if interrupt.cancelled and job_end["state"] == "cancelled" else status


def _stdin_is_unread() -> bool:
    """Whether stdin is a pipe with data, or a file of which nothing was read (a `while read` loop has read a part)."""
    try:
        info = os.fstat(0)
        if stat.S_ISREG(info.st_mode):
            return info.st_size > 0 == os.lseek(0, 0, os.SEEK_CUR)
    except OSError:  # closed
        return False
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return stat.S_ISFIFO(info.st_mode) and any(events & select.POLLIN for _, events in poll.poll(0))


def _report(standing: Mapping[str, Any]) -> int:
    """The exit status for a job; prints on stderr how it ended, except for a plain success."""
    status = outcome.exit_status(standing)
    if status or standing["state"] != "succeeded":
        render.note(outcome.sentence(standing))
        if standing["state"] == "held" or outcome.has_error(standing):
            render.hint(f"stoker {'logs' if outcome.handler_failed(standing) else 'why'} {standing['id']}")
    return status


def _with_error(given: Given, standing: StandingShape) -> Mapping[str, Any]:
    """The standing, and for ends that only an error explains also the newest attempt."""
    if not outcome.has_error(standing):
        return standing
    try:
        details: JobDetails = call(given, "job.get", {"id": standing["id"], "limit": 1})
    except StokerError:  # the job was removed, or the daemon is gone: its end is known from the standing
        return standing
    return details


@Command(
    words="ID…",
    options=(
        Option("--any", None, "return when one of them has ended, and print its id"),
        values.duration_option("--timeout", "give up waiting (exit 75); the jobs go on"),
        JSON,
    ),
    examples=(
        "stoker wait 42; echo $?",
        "stoker wait 42 43 44 && echo all well",
        "stoker wait --any 42 43 --timeout 1h",
        "stoker wait 7/compile                                # all steps of a group of workflow 7",
    ),
)
def wait(given: Given) -> int:
    """Exit status for one job: its exit code, 128+N for a signal, 124 for a time limit, 1 for any other failure,
    0 for a job that a person skipped. For several jobs: 0 if all of them succeeded or were skipped by a person, else 1.
    """
    jobs = jobs_named(given, given["words"])
    until = None if given["timeout_ms"] is None else time.monotonic() + given["timeout_ms"] / 1_000

    def for_them(client: Client) -> list[StandingShape]:
        """Also for the steps that a group gets while its first ones run."""
        while True:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            standings = client.wait(*jobs, any_one=given["any"], timeout_s=left_s)
            more = [job for job in jobs_named(given, given["words"]) if job not in jobs]
            if given["any"] or not more:
                return standings
            jobs.extend(more)

    if len(jobs) == 1 and sys.stderr.isatty():
        explain_delay(given, jobs[0])
    try:
        standings = patiently(given, for_them)
    except WaitTimeout as error:  # the daemon names the time that was left: name the time that was typed
        error.message = f"job {error.details['id']} has not ended within {given['typed']['timeout_ms'][-1][1]}"
        raise
    ended = [standing for standing in standings if outcome.ended(standing)]
    if given["json"]:
        render.json_document(standings)
    elif given["any"]:
        for standing in ended:
            render.line(standing["id"])
    statuses = [_report(_with_error(given, standing)) for standing in ended]
    return statuses[0] if len(jobs) == 1 else int(not all(map(outcome.ended_well, ended)))


def printer(text: render.LogText) -> Show:
    def show(piece: LogPiece, data: bytes | None) -> None:
        if data is None:
            text.hole(piece["hole"])
        else:
            text.write(data)

    return show


@Command(
    options=(
        Option("--job", "ID", "only changes of this job", convert=address),
        Option("--workflow", "ID", "only changes of this workflow and its steps", convert=workflow_id),
        Option(
            "--after --since",
            "SEQ",
            "start after this change, 0 for all that are left (default: only new changes)",
            convert=values.integer,
            to="after",
        ),
        Option("--history", "ID", "refuse SEQ if a restore took it back since (`history` of: stoker status --json)"),
        Option("--json", None, "print JSON, one change per line"),
    ),
    examples=("stoker watch", "stoker watch --job 42", "stoker watch --workflow 7", "stoker watch --since 0 --json"),
)
def watch(given: Given) -> None:
    cursor: int | None = given["after"]
    history: str | None = given["history"]
    wanted = {"job": given["job"] and job_named(given, given["job"]), "workflow": given["workflow"]}

    def follow(client: Client) -> None:
        nonlocal cursor, history
        if cursor is None or history is None:
            # Start from a known change: then no change is missed while the daemon restarts, and a restore is noticed.
            status = client.status()
            cursor = status["last_seq"] if cursor is None else cursor
            history = status["history"] if history is None else history
        for notification in client.stream("watch", wanted | {"after": cursor, "history": history}):
            for change in notification["changes"]:
                if cursor == 0 and change["seq"] > 1 and not any(wanted.values()):
                    first = change["seq"]
                    render.note(f"changes before {first} were removed ([retention] keep_changes, stoker purge)")
                _print_change(change, as_json=given["json"])
                cursor = change["seq"]

    with ReaderWatch():
        patiently(given, follow)


def _leave() -> NoReturn:
    os._exit(BROKEN_PIPE)


class ReaderWatch:
    """Exits as soon as the reader of stdout does: in `watch | head` the next write may never come.

    It ends with the command, and watches a descriptor of its own: the number of another one may be closed and given to
    another file at any time.
    """

    def __init__(self, leave: Callable[[], NoReturn] = _leave) -> None:
        self._leave = leave

    def __enter__(self) -> None:
        self._output, self._over = os.dup(sys.stdout.fileno()), os.eventfd(0)
        start_new_thread(self._wait_and_leave, ())

    def __exit__(self, *_: object) -> None:
        os.eventfd_write(self._over, 1)

    def _wait_and_leave(self) -> None:
        poll = select.poll()
        poll.register(self._output, 0)  # poll always reports an error; files and terminals have none
        poll.register(self._over, select.POLLIN)
        if self._over not in dict(poll.poll()):
            self._leave()
        os.close(self._output)
        os.close(self._over)


def _print_change(change: ChangeShape, *, as_json: bool) -> None:
    if as_json:
        render.line(render.json_text(change))
    else:
        moved = f"{change['from'] or '-'} → {change['to'] or '-'}" if change["from"] or change["to"] else ""
        what = f"{change['kind']} {render.visible(str(change['subject']))}"
        line = f"{change['seq']:>7}  {render.when(change['at'])}  {what:<12}  {moved:<22}  {change['cause']}"
        by = "" if change["actor_uid"] is None else f" by uid {change['actor_uid']}"
        why = "" if change["note"] is None else f": {render.visible(change['note'])}"
        render.line(line + by + why)
    render.flush()
