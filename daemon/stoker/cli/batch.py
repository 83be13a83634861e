"""`stoker submit --batch`: one JSON object per line in, one id per line out, as the answers come.

Owns reading the lines and reporting on each. All complete lines of one read are sent together, up to what fits one
request: a file goes in large requests, and the output of a slow producer is stored as it comes. A bad line is reported
with its number and the others are stored; with `--atomic` one bad line keeps all from being stored. Each line has its
idempotency key before it is first sent, so a request that is sent again stores nothing twice.

Invariant: memory is bounded, however long a line is and however many there are.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import Given
from stoker.cli.kit.progress import line
from stoker.cli.kit.spec import SENT_BYTES, complete, overdue, sent_size
from stoker.cli.submit_once import SubmitAttempts, in_room, new_key, room_wait
from stoker.core.errors import FrameTooLarge, InvalidParams, StokerError, UsageError
from stoker.core.units import counted
from stoker.rpc.client import BATCH_JOBS, Client
from stoker.rpc.conversation import error_of
from stoker.rpc.wire import parse_strict

if TYPE_CHECKING:
    from stoker.cli.kit.queue_room import RoomWait

Line = tuple[int, bytes]

READ_BYTES = 256 * 1024
SHOWN_REFUSALS = 10
LINE_BYTES = 4 * 1024 * 1024  # a job of SENT_BYTES, with its text written as \uXXXX


def submit_batch(given: Given, defaults: dict[str, Any]) -> int:
    """Exit status 0 if every line became a job; otherwise the one that all failures share, or 1."""
    with connect(given) as client:
        client.patience_s = 0.0  # the pauses are made here
        batch = SubmitBatch(given, client, defaults)
        for lines in _pieces(given["batch"]):
            batch.take(lines)
        return batch.finish()


def _size(source: str) -> int:
    """The bytes of a file; 0 for what has no end that is known."""
    try:
        status = os.stat(0 if source == "-" else source)
    except OSError:  # reading it will say why
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _pieces(source: str) -> Iterator[list[Line]]:
    """The numbered lines that each read completes. Raises UsageError for a file that cannot be read.

    A line of more than LINE_BYTES loses its end: its length still shows that it was too long.
    """
    number, rest = 0, bytearray()
    for data in _reads(source):
        *lines, last = data.split(b"\n")
        if lines:
            lines[0] = bytes(rest) + lines[0]
            rest.clear()
            yield [(number + i, line) for i, line in enumerate(lines, 1) if line.strip()]
            number += len(lines)
        rest += last[: LINE_BYTES + 1 - len(rest)]
    if rest.strip():
        yield [(number + 1, bytes(rest))]


def _reads(source: str) -> Iterator[bytes]:
    try:
        descriptor = 0 if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        while data := os.read(descriptor, READ_BYTES):
            yield data
    except OSError as error:
        raise UsageError(f"cannot read {source or repr(source)}: {error.strerror}") from None


class SubmitBatch:
    """Submits lines as they come: call `take` for each piece, then `finish`."""

    def __init__(self, given: Given, client: Client, defaults: dict[str, Any]) -> None:
        self._given = given
        self._client = client
        self._defaults = defaults
        self._atomic = given["atomic"]
        self._as_json = given["json"]
        self._room = room_wait(given)
        self._unsent: list[tuple[int, Any]] = []
        self._unsent_bytes = 0
        self._answered = False
        self._began = time.monotonic()
        self._size = _size(given["batch"])
        self._read_bytes = 0
        self._stored = 0
        self._refused = 0
        self._hints: set[str | None] = set()
        self._statuses: set[int] = set()

    def take(self, lines: list[Line]) -> None:
        for number, text in lines:
            self._read_bytes += len(text) + 1
            try:
                spec, size = self._read(text)
            except StokerError as error:
                self._refuse(number, error)
            else:
                if remark := overdue(spec):
                    render.note(f"line {number}: {remark}")
                self._make_room(number, size)
                self._unsent.append((number, spec))
                self._unsent_bytes += size
        if not self._atomic:
            self._send()

    def finish(self) -> int:
        if self._atomic and self._statuses:
            render.note("nothing was stored: --atomic stores all jobs or none")
        else:
            self._send()
        self._clear_progress()
        if self._refused > SHOWN_REFUSALS and not self._as_json:
            more = counted(self._refused - SHOWN_REFUSALS, "more line")
            render.note(f"{more} refused, {self._refused} in all; --json shows every error")
        if not self._statuses:
            if not self._stored:
                render.note("the batch is empty: no job was stored")
            return 0
        return next(iter(self._statuses)) if len(self._statuses) == 1 else 1

    def _read(self, line: bytes) -> tuple[dict[str, Any], int]:
        """The job of one line and its size. Raises errors that would refuse the whole request."""
        if len(line) > LINE_BYTES:
            raise FrameTooLarge(
                f"longer than {render.size(LINE_BYTES)}; a job takes at most {render.size(SENT_BYTES)}",
                hint="one JSON object per line; put a long command into a script",
            )
        spec = parse_strict(line)
        if not isinstance(spec, dict):
            raise InvalidParams("not a JSON object", hint='write {"command": "sha256sum", "args": ["/etc/hosts"]}')
        spec = complete({**self._defaults, **spec})
        if spec.get("idempotency_key") is None:  # the daemon refuses an empty key
            spec["idempotency_key"] = new_key()
        return spec, sent_size(spec)

    def _make_room(self, number: int, size: int) -> None:
        """Send what is unsent if the next line no longer fits its request."""
        if self._unsent_bytes + size > SENT_BYTES:
            if self._atomic:
                raise UsageError(
                    f"line {number}: --atomic stores at most {render.size(SENT_BYTES)} at once, and this is more",
                    hint="leave out --atomic; with an idempotency_key in each line, a repeated batch stores nothing "
                    "twice",
                )
            self._send()
        elif len(self._unsent) >= BATCH_JOBS and not self._atomic:
            self._send()

    def _send(self) -> None:
        sent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not sent:
            return
        for (number, _), answer in zip(sent, self._answers(sent), strict=True):
            self._report(number, answer)
        self._answered = True
        render.flush()
        self._show_progress()

    def _clear_progress(self) -> None:
        if not self._given["quiet"]:
            render.progress("")

    def _show_progress(self) -> None:
        if self._given["quiet"]:
            return
        what = f"{self._stored} stored, {self._refused} refused"
        elapsed_s = time.monotonic() - self._began
        render.progress(
            line(f"{what}, read", self._read_bytes, self._size, elapsed_s, render.size) if self._size else what
        )

    def _answers(self, sent: list[tuple[int, Any]]) -> list[Any]:
        attempts = SubmitAttempts(self._given, answered=self._answered)
        while True:
            try:
                answers = self._answers_in_room([spec for _, spec in sent], attempts)
            except StokerError as error:
                if self._atomic:
                    _name_line(error, sent)
                if not attempts.pause_after(error):
                    raise _given_up(error, sent[0][0], sent[-1][0], perhaps_stored=attempts.sent) from None
            else:
                return [_not_existing(answer) for answer in answers] if attempts.sent else answers

    def _answers_in_room(self, specs: list[Any], attempts: SubmitAttempts) -> list[Any]:
        """The answers; with `--block` a job for which there was no room is sent again until there is."""
        answers = self._submit_many(specs)
        while self._room is not None and (full := _without_room(answers, self._room)):
            attempts.answered = attempts.sent = True
            first = full[min(full)]
            places = self._room.wait(self._client, first)
            name = first.details.get("queue")
            waiting = [index for index, error in full.items() if error.details.get("queue") == name]
            again = self._submit_many([specs[index] for index in waiting[:places]])
            for index, answer in zip(waiting, again, strict=False):
                answers[index] = answer
        return answers

    def _submit_many(self, specs: list[Any]) -> list[Any]:
        """The whole request is refused if its user submits too fast."""
        return in_room(self._room, self._client, lambda: self._client.submit_many(specs, atomic=self._atomic))

    def _report(self, number: int, answer: Any) -> None:
        if "error" in answer:
            error = error_of(answer["error"])
            # The place begins with the position in the request (`jobs[3].`): the line number replaces it.
            error.message = error.message.split("].", 1)[-1]
            if "path" in error.details:
                error.details["path"] = error.details["path"].split("].", 1)[-1]
            self._refuse(number, error)
        else:
            self._stored += 1
            render.line(render.json_text(answer) if self._as_json else answer["id"])

    def _refuse(self, number: int, error: StokerError) -> None:
        self._refused += 1
        self._statuses.add(error.exit_status)
        if not self._as_json:
            if self._refused > SHOWN_REFUSALS:
                return
            if error.hint in self._hints:
                error.hint = None
            self._hints.add(error.hint)
        self._clear_progress()
        error.details["line"] = number
        render.error(error, where=f"line {number}: ")


def _name_line(error: StokerError, sent: list[tuple[int, Any]]) -> None:
    """An atomic batch is refused as a whole: the number of the line replaces the position in the request."""
    refused = re.match(r"jobs\[(\d+)\]\.", error.message)
    if refused:
        line, _ = sent[int(refused[1])]
        error.message = f"line {line}: {error.message[refused.end() :]}; nothing was stored"


def _without_room(answers: list[Any], room: RoomWait) -> dict[int, StokerError]:
    """The errors of the jobs for which there was no room, by position."""
    errors = {index: error_of(answer["error"]) for index, answer in enumerate(answers) if "error" in answer}
    return {index: error for index, error in errors.items() if room.awaits(error)}


def _not_existing(answer: Any) -> Any:
    """The answer with `existing` false: after a request that was sent twice it is unknown which jobs are new."""
    return {**answer, "existing": False} if "id" in answer else answer


def _given_up(error: StokerError, first: int, last: int, *, perhaps_stored: bool) -> StokerError:
    outcome = "no answer came, so they may be stored" if perhaps_stored else "they are not stored"
    error.message = f"{error.message}; gave up at lines {first} to {last}: {outcome}"
    error.hint = "with an idempotency_key in each line, a repeated batch stores nothing twice"
    return error
