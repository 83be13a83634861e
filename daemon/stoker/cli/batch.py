"""`stoker submit --batch`: one JSON spec a line in, one id a line out, as answers come.

Owns the reading of lines and the telling of what became of each. What one read gives is sent at once, so a file
goes in large pieces and what a slow producer pipes in is stored as it comes. Refuses to stop at a bad line: it is
told with its number and the others go on (`--atomic`: one bad line, and nothing is stored).
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
    """Numbered lines, as many as each read completes. Raises UsageError for a file that cannot be read."""
    try:
        descriptor = 0 if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        number, rest = 0, b""
        while data := os.read(descriptor, READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            yield [(number + i, line) for i, line in enumerate(lines, 1) if line.strip()]
            number += len(lines)
    except OSError as failure:
        raise UsageError(f"cannot read {source or repr(source)}: {failure.strerror}") from None
    if rest.strip():
        yield [(number + 1, rest)]


class SubmitBatch:
    """Jobs on their way: `take` lines as they come, then `finish`."""

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
            except StokerError as failure:
                self._refused(number, failure)
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
        """The job of one line and its size. Whatever would make the daemon refuse a whole frame is found here."""
        spec = parse_strict(line)
        if not isinstance(spec, dict):
            raise InvalidParams("not a JSON object", hint='write {"command": "sha256sum", "args": ["/etc/hosts"]}')
        spec = complete({**self._defaults, **spec})
        return spec, sent_size(spec)

    def _send_all_or_none(self) -> None:
        if self._statuses:
            render.note("nothing was stored: --atomic is all or none")
        elif self._unsent_bytes > SENT_BYTES:
            much, most = render.size(self._unsent_bytes), render.size(SENT_BYTES)
            raise UsageError(
                f"--atomic stores at most {most} at once, and this is {much}",
                hint="without --atomic, an idempotency_key in each line makes sending all of it again harmless",
            )
        else:
            self._send()

    def _send(self) -> None:
        sent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if not sent:
            return
        answers = self._client.submit_many([spec for _, spec in sent], atomic=self._atomic)
        for (number, _), answer in zip(sent, answers, strict=True):
            self._tell(number, answer)
        render.flush()
        render.progress(f"{self._stored} stored, {len(self._statuses)} refused")

    def _tell(self, number: int, answer: Any) -> None:
        if "error" in answer:
            # Its path begins with the place in a frame, which says nothing here.
            message = answer["error"]["message"].split("].", 1)[-1]
            transient = answer["error"]["data"].get("transient")
            failure = StokerError(message, hint=answer["error"]["data"].get("hint"))
            self._refused(number, failure, EX_TEMPFAIL if transient else EX_DATAERR)
        else:
            self._stored += 1
            render.line(render.json_text(answer) if self._as_json else answer["id"])

    def _refused(self, number: int, failure: StokerError, status: int | None = None) -> None:
        render.progress("")
        render.error(failure, where=f"line {number}: ")
        self._statuses.append(failure.exit_status if status is None else status)
