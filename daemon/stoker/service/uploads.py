"""Checkpoints that are larger than a frame: they are uploaded piece by piece.

Owns the pieces until the last one has arrived. A piece must be the next of its upload, and come over the same
connection. Invariants: uploads of one job at the same time are never mixed; memory is bounded, as there are at most
MAX_UPLOADS; an incomplete upload ends with its connection or its attempt, or when its room is needed and it is idle or
its run has more room than others: no job keeps another from saving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from stoker.core.errors import CheckpointTooLarge, CheckpointTooSoon, InvalidParams
from stoker.core.requests import CheckpointPart
from stoker.core.workflow.checkpoint import MAX_BYTES

MAX_UPLOADS = 8  # of ten megabytes each
IDLE_MS = 5_000
FROM_THE_BEGINNING = "send the checkpoint again from its beginning"


class Upload:
    def __init__(self, number: int, run_id: str, connection: int) -> None:
        self.number = number
        self.run_id = run_id
        self.connection = connection
        self.data = bytearray()
        self.heard_at = 0
        self.whole = False  # all pieces have arrived, and it is being stored


class Uploads:
    """The uploads of all jobs. Only `open_runs` may still save."""

    def __init__(self, open_runs: Container[str]) -> None:
        self._open_runs = open_runs
        self._last = 0
        self._under_way: dict[int, Upload] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, run_id: str, connection: int, now_ms: int) -> Upload:
        """Raises CheckpointTooSoon if there is no room. `now_ms` is steady."""
        if len(self._under_way) >= MAX_UPLOADS:
            self._make_room(run_id, now_ms)
        self._last += 1
        upload = self._under_way[self._last] = Upload(self._last, run_id, connection)
        return upload

    def _make_room(self, run_id: str, now_ms: int) -> None:
        for upload in list(self._under_way.values()):
            idle = now_ms - upload.heard_at >= IDLE_MS
            if not upload.whole and (idle or upload.run_id not in self._open_runs):
                self.end(upload)
        if len(self._under_way) >= MAX_UPLOADS:
            self._take_from_greediest(run_id)
        if len(self._under_way) >= MAX_UPLOADS:
            raise CheckpointTooSoon(f"{MAX_UPLOADS} large checkpoints are being received", hint="try again in a second")

    def _take_from_greediest(self, run_id: str) -> None:
        """Drop the oldest upload of the run that has most, if it still has no fewer than the run that asks then."""
        counts = Counter(upload.run_id for upload in self._under_way.values())
        greediest, most = counts.most_common(1)[0]
        if most > counts[run_id] + 1:
            oldest = [one for one in self._under_way.values() if one.run_id == greediest and not one.whole][:1]
            for upload in oldest:
                self.end(upload)

    def find(self, part: CheckpointPart, run_id: str, connection: int) -> Upload:
        """The upload to which a further piece belongs. Raises InvalidParams."""
        upload = None if part.upload is None else self._under_way.get(part.upload)
        if upload is None or upload.whole or (upload.run_id, upload.connection) != (run_id, connection):
            raise InvalidParams(f"upload: {_unknown(part.upload)}", path="upload", hint=FROM_THE_BEGINNING)
        return upload

    def add(self, upload: Upload, offset: int, piece: bytes, now_ms: int) -> None:
        """Raises InvalidParams or CheckpointTooLarge, and drops the upload then, as it cannot be completed."""
        if offset != len(upload.data):
            self.end(upload)
            message = f"offset: {offset}, but {len(upload.data)} bytes were received"
            raise InvalidParams(message, path="offset", hint=FROM_THE_BEGINNING)
        if len(upload.data) + len(piece) > MAX_BYTES:
            self.end(upload)
            raise CheckpointTooLarge(
                f"data: more than {MAX_BYTES} bytes, the limit of a checkpoint",
                hint="write the data to a file and save its path",
                path="data",
            )
        upload.data += piece
        upload.heard_at = now_ms

    def end(self, upload: Upload) -> None:
        """Drop an upload that is stored or was given up."""
        self._under_way.pop(upload.number, None)

    def hung_up(self, connection: int) -> None:
        """Drop the uploads of a connection that has ended."""
        for upload in [one for one in self._under_way.values() if one.connection == connection]:
            if not upload.whole:
                self.end(upload)


def _unknown(number: int | None) -> str:
    return (
        "missing: the answer to the first piece has the number"
        if number is None
        else f"there is no upload {number} here"
    )
