"""For programs that run as a job: save and load checkpoints, read what needs handed on, hand on results.

    import stoker

    state = json.loads(stoker.checkpoint.load() or '{"done": 0}')
    stoker.checkpoint.save(state, status="1 of 10")
    stoker.checkpoint.output(rows=1000)

Owns the way of a checkpoint to the daemon: in pieces that fit a frame, tried again while the daemon is away. Refuses a
process that is no job. Invariant: what `save` returned is on disk; where an answer was lost it may be there twice.
"""

from __future__ import annotations

import os
from binascii import b2a_base64

from stoker.core.errors import CheckpointTooLarge, InvalidParams, StokerError, UsageError

TYPE_CHECKING = False  # not imported: `stoker checkpoint save` pays for every module here
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 10_000_000
PIECE_BYTES = 512 * 1024  # 700 KB in base64, of a frame's 1 MiB
PATIENCE_S = 60.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


def save(data: Any, status: str = "saved", *, patience_s: float = PATIENCE_S) -> int:
    """Keep `data` (bytes, text, or anything of JSON) as this job's newest checkpoint; its id.

    `status` is a few words for people. While the daemon is away, full or asks to wait, it is tried again for
    `patience_s` seconds; then the error that it met last is raised. Raises UsageError where this is no job,
    CheckpointTooLarge above 10 MB, StaleAttempt when the daemon has given this attempt up.
    """
    token, socket_path = _told("STOKER_TOKEN"), _told("STOKER_SOCKET")
    packed = _packed(data)
    if len(packed) > MAX_BYTES:
        raise CheckpointTooLarge(
            f"{len(packed)} bytes; the limit of a checkpoint is {MAX_BYTES}",
            hint="write the data to a file and save its path",
        )
    import time  # noqa: PLC0415 - not for one who only loads

    give_up, pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return _send(socket_path, token, packed, status)
        except StokerError as error:
            wait_s = max(pause_s, error.details.get("retry_after_ms", 0) / 1_000)
            if not _may_pass(error) or time.monotonic() + wait_s > give_up:
                raise
        time.sleep(wait_s)
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def must_be_job() -> None:
    """Raises UsageError in a process that Stoker did not start."""
    _told("STOKER_TOKEN")


def load() -> bytes | None:
    """The data of this job's newest checkpoint, from whichever attempt; None if there is none."""
    try:
        with open(_told("STOKER_CHECKPOINT"), "rb") as file:  # noqa: PTH123 - pathlib is half of what this loads
            return file.read()
    except FileNotFoundError:
        return None


def inputs() -> dict[str, dict[str, str]]:
    """What each need handed on, by the name of its step, or its job's id outside a workflow."""
    import json  # noqa: PLC0415 - not for one who only loads

    said: dict[str, dict[str, str]] = json.loads(os.environ.get("STOKER_INPUTS") or "{}")
    return said


def output(**values: Any) -> None:
    """Hand `values` on to the steps that need this one; they are added to what was handed on before."""
    import json  # noqa: PLC0415 - not for one who only loads

    path = _told("STOKER_OUTPUT")
    written = json.dumps({**_handed_on(path), **values})
    # Replaced whole: a kill in the middle leaves what was there before.
    beside = f"{path}-{os.getpid()}"
    with open(beside, "w", encoding="utf-8") as file:  # noqa: PTH123 - as in `load`
        file.write(written)
    os.replace(beside, path)  # noqa: PTH105 - as in `load`


def _handed_on(path: str) -> dict[str, Any]:
    import json  # noqa: PLC0415 - not for one who only loads

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as in `load`
            text = file.read()
    except FileNotFoundError:
        return {}
    if text.lstrip().startswith("{"):
        said: dict[str, Any] = json.loads(text)
        return said
    pairs = (line.partition("=") for line in text.splitlines() if line.strip())
    return {key.strip(): value for key, _, value in pairs}


def _packed(data: Any) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        return data.encode()
    import json  # noqa: PLC0415 - bytes need none

    return json.dumps(data, sort_keys=True, allow_nan=False).encode()


def _told(name: str) -> str:
    """A variable that every job has."""
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set: this is no job of Stoker", hint="stoker run -- COMMAND runs one")
    return value


def _send(socket_path: str, token: str, data: bytes, status: str) -> int:
    from stoker.rpc.conversation import Conversation  # noqa: PLC0415 - not for one who only loads

    with Conversation(socket_path) as daemon:
        at = 0
        while True:
            piece = data[at : at + PIECE_BYTES]
            more = at + len(piece) < len(data)
            encoded = b2a_base64(piece, newline=False).decode()
            said = daemon.call(
                "checkpoint.save",
                {"token": token, "data": encoded, "status": status, "offset": at, "more": more},
            )
            at += len(piece)
            if not more:
                return int(said["id"])


def _may_pass(error: StokerError) -> bool:
    """Whether the same could succeed a little later: also when the pieces sent so far went with an older daemon."""
    return error.transient or (isinstance(error, InvalidParams) and error.details.get("path") == "offset")
