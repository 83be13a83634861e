"""`stoker submit --batch`: one JSON object per line in, one id per line out, as the answers come.

Owns reading the lines and reporting on each. All complete lines of one read are sent together: a file goes in large
requests, and the output of a slow producer is stored as it comes. A bad line is reported with its number and the others
are stored; with `--atomic` one bad line keeps all from being stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from stoker.cli.kit import render
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import Given
from stoker.cli.kit.spec import SENT_BYTES, complete, overdue, sent_size
from stoker.core.errors import EX_DATAERR, EX_TEMPFAIL, InvalidParams, StokerError, UsageError
from stoker.rpc.client import Client
from stoker.rpc.wire import parse_strict

Line = tuple[int, bytes]

READ_BYTES = 256 * 1024


def submit_batch(given: Given, defaults: dict[str, Any]) -> int:
    """0 if every line became a job; else the exit status that all failures share, or 1."""
    with connect(given) as client:
        batch = SubmitBatch(client, defaults, atomic=given["atomic"], as_json=given["json"])
        for lines in _pieces(given["batch"]):
            batch.take(lines)
        return batch.finish()


def _pieces(source: str) -> Iterator[list[Line]]:
    """The numbered lines that each read completes. Raises UsageError for a file that cannot be read."""
    try:
        descriptor = 0 if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        number, rest = 0, b""
        while data := os.read(descriptor, READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            yield [(number + i, line) for i, line in enumerate(lines, 1) if line.strip()]
            number += len(lines)
    except OSError as error:
        raise UsageError(f"cannot read {source or repr(source)}: {error.strerror}") from None
    if rest.strip():
        yield [(number + 1, rest)]


class SubmitBatch:
    """Submits lines as they come: call `take` for each piece, then `finish`."""

    def __init__(self, client: Client, defaults: dict[str, Any], *, atomic: bool, as_json: bool) -> None:
        self._client = client
        self._defaults = defaults
        self._atomic = atomic
        self._as_json = as_json
        self._unsent: list[tuple[int, Any]] = []
        self._unsent_bytes = 0
        self._stored = 0
        self._statuses: list[int] = []

    def take(self, lines: list[Line]) -> None:
        for number, line in lines:
            try:
                spec, size = self._read(line)
            except StokerError as error:
                self._refuse(number, error)
            else:
                if remark := overdue(spec):
                    render.note(f"line {number}: {remark}")
                self._unsent.append((number, spec))
                self._unsent_bytes += size
        if not self._atomic:
            self._send()

    def finish(self) -> int:
        if self._atomic:
            self._send_all_or_none()
        render.progress("")
        if not self._statuses:
            return 0
        return self._statuses[0] if len(set(self._statuses)) == 1 else 1

    def _read(self, line: bytes) -> tuple[dict[str, Any], int]:
        """The job of one line and its size. Raises here what would make the daemon refuse all jobs of a request."""
        spec = parse_strict(line)
        if not isinstance(spec, dict):
            raise InvalidParams("not a JSON object", hint='write {"command": "sha256sum", "args": ["/etc/hosts"]}')
        spec = complete({**self._defaults, **spec})
        return spec, sent_size(spec)

    def _send_all_or_none(self) -> None:
        if self._statuses:
            render.note("nothing was stored: --atomic stores all jobs or none")
        elif self._unsent_bytes > SENT_BYTES:
            much, most = render.size(self._unsent_bytes), render.size(SENT_BYTES)
            raise UsageError(
                f"--atomic stores at most {most} at once, and this is {much}",
                hint="leave out --atomic; with an idempotency_key in each line, a repeated batch stores nothing twice",
            )
        else:
            self._send()

    def _send(self) -> None:
        sent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not sent:
            return
        answers = self._client.submit_many([spec for _, spec in sent], atomic=self._atomic)
        for (number, _), answer in zip(sent, answers, strict=True):
            self._report(number, answer)
        render.flush()
        render.progress(f"{self._stored} stored, {len(self._statuses)} refused")

    def _report(self, number: int, answer: Any) -> None:
        if "error" in answer:
            # The path begins with the position in the request (`jobs[3].`): the line number replaces it.
            message = answer["error"]["message"].split("].", 1)[-1]
            transient = answer["error"]["data"].get("transient")
            error = StokerError(message, hint=answer["error"]["data"].get("hint"))
            self._refuse(number, error, EX_TEMPFAIL if transient else EX_DATAERR)
        else:
            self._stored += 1
            render.line(render.json_text(answer) if self._as_json else answer["id"])

    def _refuse(self, number: int, error: StokerError, status: int | None = None) -> None:
        render.progress("")
        render.error(error, where=f"line {number}: ")
        self._statuses.append(error.exit_status if status is None else status)
