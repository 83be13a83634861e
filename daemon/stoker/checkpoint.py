"""For programs that run as a job: save and load checkpoints, read the results of needs, write outputs.

    import stoker

    state = json.loads(stoker.checkpoint.load() or '{"done": 0}')
    stoker.checkpoint.save(state, status="1 of 10")
    stoker.checkpoint.output(rows=1000)

Owns sending a checkpoint to the daemon: in pieces that fit a frame, tried again while the daemon is away; or, on a node
of a cluster, putting it into the directory that the node shares with the daemon. Invariant: a checkpoint is on disk
when `save` returns; if an answer was lost, it may be stored twice.
"""

from __future__ import annotations

import os
from binascii import b2a_base64

from stoker.core.errors import CheckpointTooLarge, InvalidParams, StokerError, UsageError

TYPE_CHECKING = False  # `typing` would slow down `stoker checkpoint save`
if TYPE_CHECKING:
    from typing import Any, BinaryIO

MAX_BYTES = 10_000_000
PIECE_BYTES = 512 * 1024  # 700 KB in base64, which fits a frame of 1 MiB
PATIENCE_S = 60.0
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


def save(data: Any, status: str = "saved", *, patience_s: float = PATIENCE_S) -> int:
    """Save `data` (bytes, text, or a JSON value) as this job's newest checkpoint, and return its id.

    `status` is a few words for people. While the daemon is away, full or asks to wait, `save` tries again for
    `patience_s` seconds, then raises the last error. Raises UsageError outside a job, CheckpointTooLarge above 10 MB,
    StaleAttempt when the daemon has given up this attempt. On a node of a cluster the checkpoint is on the disk that
    the node shares with the daemon; it gets its id later, so `save` returns 0, and raises OSError if it cannot write.
    """
    must_be_job()
    packed = _packed(data)
    if len(packed) > MAX_BYTES:
        raise CheckpointTooLarge(
            f"{len(packed)} bytes; the limit of a checkpoint is {MAX_BYTES}",
            hint="write the data to a file and save its path",
        )
    if on_node():
        _put(os.environ["STOKER_CHECKPOINT_DIR"], packed, status)
        return 0
    token, socket_path = _variable("STOKER_TOKEN"), _variable("STOKER_SOCKET")
    import time  # noqa: PLC0415 - `load` does without it

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
    """Raises UsageError outside a job."""
    if not on_node():
        _variable("STOKER_TOKEN")


def on_node() -> bool:
    """Whether this job runs on a node of a cluster, where it does not reach the daemon."""
    return bool(os.environ.get("STOKER_CHECKPOINT_DIR"))


def load() -> bytes | None:
    """The data of this job's newest checkpoint, of any attempt; None if there is none."""
    try:
        with open(_variable("STOKER_CHECKPOINT"), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def needs() -> dict[str, dict[str, Any]]:
    """The result of each need, by the name of its step, or its job's id outside a workflow.

    A result has `state`, `reason`, `exit_code` and `outputs`.
    """
    path = os.environ.get("STOKER_INPUTS_FILE")
    if not path:
        return {}
    import json  # noqa: PLC0415 - `load` does without it

    with open(path, encoding="utf-8") as file:
        results: dict[str, dict[str, Any]] = json.load(file)
    return results


def inputs() -> dict[str, dict[str, str]]:
    """The outputs of each need that has some, by the name of its step, or its job's id outside a workflow."""
    return {name: end["outputs"] for name, end in needs().items() if end["outputs"]}


def output(**values: Any) -> None:
    """Add `values` to the outputs of this job, for the steps that need it.

    Processes and threads of a job may call it at the same time. Raises InvalidParams for values that the daemon would
    refuse: a value that is not JSON, or more than 64 KiB in total.
    """
    from stoker.core import outputs  # noqa: PLC0415 - `load` does without it

    path = _variable("STOKER_OUTPUT")
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
    except outputs.OutputRefused as error:
        raise InvalidParams(f"output: {error}", path="output") from error


def _locked(path: str) -> BinaryIO:
    """The file, open for reading and appending, and locked until it is closed."""
    import fcntl  # noqa: PLC0415 - `load` does without it

    while True:
        file = open(path, "a+b")  # noqa: SIM115 - closed by the caller
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass
        file.close()  # it was replaced while we waited for it


def _append(file: BinaryIO, data: bytes) -> None:
    """Append and do not rewrite: a shell of the job may also have the file open for appending."""
    size = os.fstat(file.fileno()).st_size
    try:
        file.write(data)
        file.flush()
    except OSError:  # a partial line would spoil the next one
        os.ftruncate(file.fileno(), size)
        raise


def _replace(path: str, data: bytes) -> None:
    """Replace the whole file, under the lock: a kill meanwhile leaves the old one."""
    beside = f"{path}-{os.getpid()}"
    with open(beside, "wb") as file:
        file.write(data)
    os.replace(beside, path)


def _put(directory: str, data: bytes, status: str) -> None:
    """Put a checkpoint where the daemon takes it up, whole and durable when it has its name."""
    import time  # noqa: PLC0415 - `load` does without it

    name = f"{time.time_ns():020}-{os.urandom(4).hex()}"
    for path, content in ((f"{name}.status", status.encode("utf-8", "backslashreplace")), (f".{name}", data)):
        with open(f"{directory}/{path}", "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    os.rename(f"{directory}/.{name}", f"{directory}/{name}")
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _packed(data: Any) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        return data.encode()
    import json  # noqa: PLC0415 - bytes need none

    return json.dumps(data, sort_keys=True, allow_nan=False).encode()


def _variable(name: str) -> str:
    """The value of a variable that every job has. Raises UsageError."""
    value = os.environ.get(name)
    if not value:
        raise UsageError(
            f"{name} is not set: this process is not a job of Stoker", hint="stoker run -- COMMAND runs a job"
        )
    return value


def _send(socket_path: str, token: str, data: bytes, status: str) -> int:
    from stoker.rpc.conversation import Conversation  # noqa: PLC0415 - `load` does without it

    with Conversation(socket_path) as daemon:
        at, upload = 0, None
        while True:
            piece = data[at : at + PIECE_BYTES]
            more = at + len(piece) < len(data)
            encoded = b2a_base64(piece, newline=False).decode()
            params = {"token": token, "data": encoded, "status": status, "offset": at, "more": more, "upload": upload}
            answer = daemon.call("checkpoint.save", params)
            at, upload = at + len(piece), answer.get("upload")
            if not more:
                return int(answer["id"])


def _may_pass(error: StokerError) -> bool:
    """Whether another try may succeed; it may after a restart of the daemon, which loses the pieces sent before."""
    return error.transient or (isinstance(error, InvalidParams) and error.details.get("path") == "upload")
