"""Checkpoints larger than a frame: sent at once they are never mixed, and those that stop halfway cost little."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import CheckpointTooSoon, InvalidParams
from stoker.core.requests import CheckpointPart
from stoker.service.uploads import IDLE_MS, MAX_UPLOADS, Uploads
from tests.support.facts import until
from tests.support.flows import chain
from tests.support.work import Gate, end_of, lines, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

PIECE = 512 * 1024


class Job:
    """A job that writes its token and stays."""

    def __init__(self, client: stoker.Client, home: Path, gate: Gate) -> None:
        path = home / "token"
        script = f"echo $STOKER_TOKEN > {path}.part; mv {path}.part {path}; read _ < {gate.path}"
        self.id = submit(client, {"command": "sh", "args": ["-c", script]})
        until(path.exists, why="the token")
        (self.token,) = lines(path)

    def send(self, client: stoker.Client, byte: bytes, **part: Any) -> dict[str, Any]:
        data = base64.b64encode(byte * PIECE).decode()
        answer: dict[str, Any] = client.call("checkpoint.save", {"token": self.token, "data": data, **part})
        return answer


@pytest.fixture
def job(client: stoker.Client, tmp_path: Path, gate: Gate) -> Job:
    return Job(client, tmp_path, gate)


def test_saves_when_pieces_alternate_on_one_connection_then_each_is_kept_whole(client: stoker.Client, job: Job) -> None:
    uploads = {byte: job.send(client, byte, more=True)["upload"] for byte in (b"a", b"b")}

    checkpoints = {byte: job.send(client, byte, offset=PIECE, upload=number)["id"] for byte, number in uploads.items()}

    for byte, ident in checkpoints.items():
        assert client.checkpoint_data(ident) == byte * 2 * PIECE


def test_piece_when_it_comes_over_another_connection_then_it_is_refused(
    client: stoker.Client, shared: DaemonProcess, job: Job
) -> None:
    upload = job.send(client, b"a", more=True)["upload"]

    with shared.client() as other, pytest.raises(InvalidParams, match="there is no upload"):
        job.send(other, b"b", offset=PIECE, upload=upload)

    kept = job.send(client, b"a", offset=PIECE, upload=upload)["id"]
    assert client.checkpoint_data(kept) == b"a" * 2 * PIECE


SAVES = """
import sys, threading
from stoker import checkpoint
def save(letter):
    for _ in range(3):
        checkpoint.save(letter * 1_200_000)
threads = [threading.Thread(target=save, args=(letter,)) for letter in sys.argv[1:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_saves_when_threads_and_processes_save_at_once_then_each_is_kept_whole(
    client: stoker.Client,
) -> None:
    one = f"{sys.executable} -c '{SAVES}'"
    job = submit(client, {"command": "sh", "args": ["-c", f"{one} a b c & {one} d e f & wait"]})

    assert end_of(client, job) == ("succeeded", "exit")

    kept = [client.checkpoint_data(one["id"]) for one in chain(client, job=job)]
    assert sorted(data[:1] for data in kept) == sorted([b"a", b"b", b"c", b"d", b"e", b"f"] * 3)
    assert [data == data[:1] * 1_200_000 for data in kept] == [True] * 18


def test_uploads_when_too_many_stop_halfway_then_closed_connections_free_their_room(
    shared: DaemonProcess, client: stoker.Client, job: Job
) -> None:
    with shared.client() as gone:
        for _ in range(MAX_UPLOADS):
            job.send(gone, b"x", more=True)
        with pytest.raises(CheckpointTooSoon, match="are being received"):
            job.send(client, b"y", more=True)

    def begins() -> bool:
        try:
            return bool(job.send(client, b"y", more=True))
        except CheckpointTooSoon:
            return False

    until(begins, why="room for an upload")


# --- bookkeeping --------------------------------------------------------------------------------------------


def part(upload: int) -> CheckpointPart:
    return CheckpointPart(token="t", data="", upload=upload)


def full(open_runs: set[str]) -> Uploads:
    """As many uploads as there may be, each by an attempt of its own."""
    uploads = Uploads(open_runs)
    for number in range(MAX_UPLOADS):
        uploads.add(uploads.begin(f"{number}.1.a", 1, now_ms=0), 0, b"x", now_ms=0)
    return uploads


def test_uploads_when_one_is_idle_then_its_room_goes_to_another_that_wants_it() -> None:
    uploads = full({f"{number}.1.a" for number in range(MAX_UPLOADS)})
    uploads.add(uploads.find(part(2), "1.1.a", 1), 1, b"y", now_ms=1)

    with pytest.raises(CheckpointTooSoon):
        uploads.begin("9.1.a", 2, now_ms=IDLE_MS - 1)
    uploads.begin("9.1.a", 2, now_ms=IDLE_MS)

    assert bytes(uploads.find(part(2), "1.1.a", 1).data) == b"xy"
    with pytest.raises(InvalidParams):
        uploads.find(part(1), "0.1.a", 1)


def test_uploads_when_one_attempt_has_all_of_them_then_others_get_their_share() -> None:
    uploads = Uploads({"1.1.a", "2.1.a"})
    for _ in range(MAX_UPLOADS):
        uploads.begin("1.1.a", 1, now_ms=0)

    for _ in range(MAX_UPLOADS // 2):
        uploads.begin("2.1.a", 2, now_ms=0)

    with pytest.raises(CheckpointTooSoon):
        uploads.begin("2.1.a", 2, now_ms=0)
    with pytest.raises(CheckpointTooSoon):
        uploads.begin("1.1.a", 1, now_ms=0)
    assert len(uploads) == MAX_UPLOADS
    with pytest.raises(InvalidParams):
        uploads.find(part(1), "1.1.a", 1)


def test_uploads_when_an_attempt_is_over_then_its_room_goes_to_another_that_wants_it() -> None:
    uploads = full(set())

    uploads.begin("9.1.a", 2, now_ms=0)

    assert len(uploads) == 1


def test_uploads_when_one_is_whole_then_it_keeps_its_room_until_it_is_kept() -> None:
    uploads = full(set())
    whole = uploads.find(part(1), "0.1.a", 1)
    whole.whole = True

    uploads.hung_up(1)
    assert len(uploads) == 1
    uploads.end(whole)

    assert len(uploads) == 0
