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
    from typing import Any, BinaryIO

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


def needs() -> dict[str, dict[str, Any]]:
    """How each need ended, by the name of its step, or its job's id outside a workflow.

    Of each its `state`, `reason`, `exit_code` and `outputs` (what it handed on).
    """
    path = os.environ.get("STOKER_INPUTS_FILE")
    if not path:
        return {}
    import json  # noqa: PLC0415 - not for one who only loads

    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as in `load`
        said: dict[str, dict[str, Any]] = json.load(file)
    return said


def inputs() -> dict[str, dict[str, str]]:
    """What each need handed on, if it did, by the name of its step, or its job's id outside a workflow."""
    return {name: end["outputs"] for name, end in needs().items() if end["outputs"]}


def output(**values: Any) -> None:
    """Hand `values` on to the steps that need this one; they are added to what was handed on before.

    Processes and threads of a job may call it at once. Raises InvalidParams for what the daemon would not take: a value
    that JSON has no form for, or more than 64 KiB in all.
    """
    from stoker.core import outputs  # noqa: PLC0415 - not for one who only loads

    path = _told("STOKER_OUTPUT")
    try:
        line = outputs.entry(values)
        with _locked(path) as file:
            file.seek(0)
            before = file.read()
            after = outputs.add(before, line)
            if after.startswith(before):
                _append(file, after[len(before) :])
            else:
                _replace(path, after)
    except outputs.OutputRefused as refused:
        raise InvalidParams(f"output: {refused}", path="output") from refused


def _locked(path: str) -> BinaryIO:
    """The file, to read and to append to; until it is closed no other process or thread of this job has it so."""
    import fcntl  # noqa: PLC0415 - not for one who only loads

    while True:
        file = open(path, "a+b")  # noqa: PTH123, SIM115 - as in `load`; closed by the caller
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):  # noqa: PTH116 - as in `load`
                return file
        except FileNotFoundError:
            pass
        file.close()  # it was replaced while we waited for it


def _append(file: BinaryIO, data: bytes) -> None:
    """Appended, as a shell of the job may have the file open and append to it, too."""
    size = os.fstat(file.fileno()).st_size
    try:
        file.write(data)
        file.flush()
    except OSError:  # a part of a line would spoil the rest
        os.ftruncate(file.fileno(), size)
        raise


def _replace(path: str, data: bytes) -> None:
    """Replaced whole, under the lock: a kill in the middle leaves what was there before."""
    beside = f"{path}-{os.getpid()}"
    with open(beside, "wb") as file:  # noqa: PTH123 - as in `load`
        file.write(data)
    os.replace(beside, path)  # noqa: PTH105 - as in `load`


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
        at, upload = 0, None
        while True:
            piece = data[at : at + PIECE_BYTES]
            more = at + len(piece) < len(data)
            encoded = b2a_base64(piece, newline=False).decode()
            params = {"token": token, "data": encoded, "status": status, "offset": at, "more": more, "upload": upload}
            said = daemon.call("checkpoint.save", params)
            at, upload = at + len(piece), said.get("upload")
            if not more:
                return int(said["id"])


def _may_pass(error: StokerError) -> bool:
    """Whether the same could succeed a little later: also when the pieces sent so far went with an older daemon."""
    return error.transient or (isinstance(error, InvalidParams) and error.details.get("path") == "upload")
