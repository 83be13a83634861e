"""The Python client against the real server: its results, its errors, and lost answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import stoker
from stoker.core.errors import (
    DaemonUnreachable,
    InvalidParams,
    JobNotFound,
    ParseError,
    StokerError,
    TooManyConnections,
)
from stoker.process.attempt_logs import Chunk
from stoker.rpc.wire import MAX_FRAME_BYTES
from tests.support.descriptors import count_fds
from tests.support.facts import DEADLINE_S, until
from tests.support.rpc import ServerThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stoker.core.wire_types import JobSpec


@pytest.fixture
def client(server: ServerThread) -> Iterator[stoker.Client]:
    with stoker.Client(server.path) as connected:
        yield connected


def test_submit_when_answered_then_the_job_and_a_key_are_stored(client: stoker.Client, server: ServerThread) -> None:
    answer = client.submit("sha256sum", "/etc/hosts", max_attempts=3)

    assert answer == {"id": 1, "state": "queued", "existing": False}
    assert server.service.jobs[1].max_attempts == 3
    assert len(server.service.keys) == 1


def test_submit_many_when_there_are_more_than_a_frame_holds_then_each_is_answered(
    client: stoker.Client, server: ServerThread
) -> None:
    jobs: list[JobSpec] = [{"command": "true", "args": ["x" * 60_000] * (n % 2)} for n in range(2500)]

    answers = client.submit_many(jobs)

    assert [answer.get("id") for answer in answers] == list(range(1, 2501))
    assert len(server.service.jobs) == 2500


def test_submit_many_when_one_is_wrong_then_its_answer_is_the_error(client: stoker.Client) -> None:
    right, wrong = client.submit_many([{"command": "true"}, {"command": ""}])

    assert "id" in right
    assert "error" in wrong


def test_call_when_the_daemon_refuses_then_the_error_has_class_hint_and_details(client: stoker.Client) -> None:
    with pytest.raises(JobNotFound) as missing:
        client.get(77)
    with pytest.raises(InvalidParams) as invalid:
        client.submit("true", env={"A=B": "c"})

    assert (missing.value.hint, missing.value.details) == ("stoker ls", {"job": 77})
    assert invalid.value.details["path"] == "env.A=B"


def test_call_when_a_name_is_not_utf8_then_it_is_refused_before_it_is_sent(client: stoker.Client) -> None:
    with pytest.raises(ParseError, match="name: lone surrogate"):
        client.submit("cat", name="\udcff")

    assert client.call("system.health") == {"ok": True}


def test_call_each_when_some_are_refused_then_few_frames_carry_all_in_their_order(server: ServerThread) -> None:
    frames: list[bytes] = []

    class Watched(stoker.Client):
        def _send(self, connected: socket.socket, frame: bytes) -> dict[str, Any] | None:
            frames.append(frame)
            return super()._send(connected, frame)

    with Watched(server.path) as client:
        client.submit("true")
        frames.clear()
        params = [{"id": 1 if n % 2 else 7, "limit": 1} for n in range(1100)]
        answers = list(client.call_each("job.get", params))
        few = len(frames)
        long = list(client.call_each("job.cancel", [{"id": 7, "reason": "x" * 1000}] * 1100))

    assert [isinstance(answer, JobNotFound) for answer in answers] == [n % 2 == 0 for n in range(1100)]
    assert {answer["id"] for answer in answers[1::2]} == {1}
    assert (few, len(frames) - few, len(long)) == (3, 3, 1100)
    assert max(map(len, frames)) <= MAX_FRAME_BYTES


def test_reads_when_asked_then_they_give_what_the_daemon_gave(client: stoker.Client) -> None:
    client.submit("true")

    assert [job["id"] for job in client.list(limit=5)["jobs"]] == [1]
    assert client.wait(1)[0]["state"] == "succeeded"
    assert client.cancel(1, reason="enough")["id"] == 1
    assert client.status()["version"] == "0.1.0"


def test_logs_when_followed_then_the_bytes_come_and_the_connection_is_closed(
    client: stoker.Client, server: ServerThread
) -> None:
    client.submit("true")
    server.service.log = [Chunk(0, b"a" * 100_000), Chunk(100_000, None, 5), Chunk(100_005, b"\xff")]

    assert b"".join(client.logs(1)) == b"a" * 100_000 + b"\xff"
    until(lambda: server.server.connections == 1)


@pytest.mark.parametrize("dropped", ["stream", "logs", "watch"])
def test_stream_when_it_is_opened_and_never_iterated_then_no_socket_stays(client: stoker.Client, dropped: str) -> None:
    job = client.submit("true")["id"]
    fds = count_fds()
    opening: dict[str, Callable[[], Iterator[Any]]] = {
        "stream": lambda: client.stream("watch"),
        "logs": lambda: client.logs(job, follow=True),
        "watch": client.watch,
    }

    for _ in range(3):
        pieces = opening[dropped]()
        del pieces

    until(lambda: count_fds() <= fds, why="as few descriptors as before, the server's among them")


def test_logs_when_the_iterator_is_dropped_then_the_stream_ends(client: stoker.Client, server: ServerThread) -> None:
    server.service.follow_forever = True
    client.submit("true")
    pieces = client.logs(1, follow=True)
    next(pieces)

    del pieces

    until(lambda: server.service.feeds_open == 0)


def test_watch_when_the_source_breaks_then_it_raises_after_the_received_changes(client: stoker.Client) -> None:
    changes = client.watch(after=4)

    assert [next(changes)["seq"], next(changes)["seq"]] == [5, 6]
    with pytest.raises(JobNotFound):
        next(changes)


def test_call_when_no_daemon_listens_then_the_hint_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="no daemon answers") as caught:
        stoker.Client(tmp_path / "s.sock").status()

    assert "stokerd" in (caught.value.hint or "")


def impatient_client(server: ServerThread) -> stoker.Client:
    """Gives up soon while the daemon has no connection free."""
    client = stoker.Client(server.path)
    client.patience_s = 0.1
    return client


def test_call_when_there_are_too_many_connections_then_it_reports_it_and_retries() -> None:
    with ServerThread(max_connections_per_uid=1) as server, stoker.Client(server.path) as first:
        first.status()

        with pytest.raises(TooManyConnections), impatient_client(server) as second:
            second.submit("true")


def test_call_when_a_full_daemon_has_room_again_then_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with ServerThread(max_connections_per_uid=1) as server, stoker.Client(server.path) as second:
        first = stoker.Client(server.path)
        first.status()
        capacity, refused = server.server.capacity, threading.Event()
        refusal = capacity.refusal

        def noted(uid: int) -> TooManyConnections | None:
            refused.set()
            return refusal(uid)

        monkeypatch.setattr(capacity, "refusal", noted)
        submitting = threading.Thread(target=lambda: second.submit("true"))
        submitting.start()
        assert refused.wait(DEADLINE_S)
        first.close()
        submitting.join()

        assert len(server.service.jobs) == 1


def test_call_when_only_the_reserve_is_left_then_only_short_calls_are_answered() -> None:
    with ServerThread(max_connections_per_uid=1) as server, stoker.Client(server.path) as first:
        first.status()

        with impatient_client(server) as second:
            assert second.status()["version"]
            assert second.cancel(1)["id"] == 1
            with pytest.raises(TooManyConnections):
                second.stream("watch")
        with server.connect() as idle:
            assert idle.hear() is None, "an idle connection does not keep its place in the reserve"


def test_call_when_the_daemon_was_restarted_between_two_calls_then_it_connects_again(server: ServerThread) -> None:
    with stoker.Client(server.path) as client:
        client.status()
        for connection in server.on_loop(lambda: list(server.server._connections)):
            server.on_loop(connection.abort)
        until(lambda: server.on_loop(lambda: not server.server._connections), why="the end of the connection")
        server.on_loop(lambda: None)  # the socket is closed in the same iteration of the loop

        assert client.cancel(1)["id"] == 1


class LossyServer:
    """Reads one request and hangs up, `losses` times; then forwards everything to the real server."""

    def __init__(self, path: Path, real: Path, losses: int) -> None:
        self.lost: list[bytes] = []
        self._real, self._losses = real, losses
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for _ in range(self._losses):
            with self._listener.accept()[0] as line, line.makefile("rb") as reader:
                self.lost.append(reader.readline())
        with self._listener.accept()[0] as line, socket.socket(socket.AF_UNIX) as real:
            real.connect(str(self._real))
            real.sendall(line.makefile("rb").readline())
            line.sendall(real.makefile("rb").readline())

    def end(self) -> None:
        self._thread.join()
        self._listener.close()


def test_submit_when_the_answer_is_lost_then_it_is_sent_again_with_the_same_key(
    server: ServerThread, tmp_path: Path
) -> None:
    lossy = LossyServer(tmp_path / "lossy", server.path, losses=1)

    with stoker.Client(tmp_path / "lossy") as client:
        answer = client.submit("true")
    lossy.end()

    (key,) = server.service.keys
    assert answer["id"] == 1
    assert key.encode() in lossy.lost[0]


def test_retry_when_the_answer_is_lost_then_it_is_not_sent_again(server: ServerThread, tmp_path: Path) -> None:
    lossy = LossyServer(tmp_path / "lossy", server.path, losses=1)

    with stoker.Client(tmp_path / "lossy") as client:
        with pytest.raises(DaemonUnreachable, match="closed the connection"):
            client.retry(4)
        client.status()
    lossy.end()

    assert server.service.commands == []


def test_call_when_no_answer_comes_then_it_gives_up_and_starts_afresh(server: ServerThread) -> None:
    server.service.hold_submits = True

    with stoker.Client(server.path, timeout_s=0.05) as client:
        with pytest.raises(DaemonUnreachable, match="no answer within"):
            client.submit("true")
        server.on_loop(server.service.release_submits)
        client.timeout_s = DEADLINE_S
        assert client.status()["version"] == "0.1.0"


def test_call_when_ctrl_c_comes_as_it_connects_then_the_client_ends_by_it(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(socket.socket, "makefile", interrupted)
    with pytest.raises(KeyboardInterrupt), stoker.Client(server.path) as client:
        client.status()


def test_error_when_its_code_is_of_a_newer_daemon_then_it_is_still_shown() -> None:
    from stoker.rpc.conversation import error_of  # noqa: PLC0415

    error = error_of({"code": -1, "message": "m", "data": {"code": "newer", "transient": True, "hint": "h", "x": 1}})

    assert type(error) is StokerError
    assert (error.message, error.hint) == ("m", "h")
    assert error.to_wire()["data"]["code"] == "newer"


def test_import_when_only_the_client_is_wanted_then_nothing_heavy_is_loaded() -> None:
    heavy = {"asyncio", "msgspec", "dataclasses", "uvloop", "structlog", "inspect", "subprocess", "logging", "uuid"}
    code = "import sys; base = set(sys.modules); import stoker; stoker.Client; print(*set(sys.modules) - base)"
    environ = {**os.environ, "PYTHONPATH": str(stoker.__path__[0] + "/..")}

    loaded = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=True)

    assert not heavy & set(loaded.stdout.split())
    assert "socket" in loaded.stdout.split()
