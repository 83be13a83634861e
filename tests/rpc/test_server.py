"""The server over a real socket: answers, bad input, limits, and clients that misbehave or vanish."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.background.tasks import BackgroundTasks
from stoker.core.requests import RetryParams
from stoker.rpc import connection
from stoker.rpc.address import bind_socket
from stoker.rpc.capacity import RESERVE
from stoker.rpc.server import Server
from stoker.rpc.wire import MAX_FRAME_BYTES
from tests.support.facts import DEADLINE_S, until
from tests.support.rpc import MemoryService, RawClient, ServerThread, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def by_id(answers: list[Any]) -> dict[Any, Any]:
    return {answer["id"]: answer for answer in answers}


def code_of(answer: Any) -> str:
    code: str = answer["error"]["data"]["code"]
    return code


# --- requests and answers ------------------------------------------------------------------------------------


def test_submit_when_the_job_is_sound_then_id_and_state_are_answered(client: RawClient, server: ServerThread) -> None:
    answer = client.ask("job.submit", 7, command="sha256sum", args=["/etc/hosts"])

    assert answer == {"jsonrpc": "2.0", "id": 7, "result": {"id": 1, "state": "queued", "existing": False}}
    assert server.service.jobs[1].args == ("/etc/hosts",)


def test_submit_many_when_some_are_wrong_then_each_has_its_answer_in_order(client: RawClient) -> None:
    jobs = [{"command": "a"}, {"command": "b", "env": {"FOO": 5}}, 7, {"command": "c"}]

    answer = client.ask("job.submit_many", jobs=jobs)["result"]["jobs"]

    assert [slot.get("id") for slot in answer] == [1, None, None, 2]
    assert answer[1]["error"]["data"]["path"] == "jobs[1].env.FOO"
    assert answer[2]["error"]["message"].startswith("jobs[2]: expected an object")


def test_submit_many_when_atomic_and_one_is_wrong_then_nothing_is_stored(
    client: RawClient, server: ServerThread
) -> None:
    answer = client.ask("job.submit_many", jobs=[{"command": "a"}, {}], atomic=True)

    assert answer["error"]["data"]["path"] == "jobs[1].command"
    assert server.service.jobs == {}


def test_requests_when_pipelined_then_each_is_answered_with_its_id(client: RawClient) -> None:
    client.say(b"".join(request("job.submit", n, command="true") for n in range(3000)))

    answers = by_id([client.hear() for _ in range(3000)])

    assert set(answers) == set(range(3000))
    assert len({answer["result"]["id"] for answer in answers.values()}) == 3000


def test_answers_when_many_are_made_at_once_then_they_leave_in_few_writes(
    client: RawClient, server: ServerThread
) -> None:
    server.service.hold_submits = True
    client.say(b"".join(request("job.submit", n, command="true") for n in range(500)))
    until(lambda: server.on_loop(lambda: len(server.service.held)) == 500, why="all submits")
    server.on_loop(server.service.release_submits)

    sizes: list[int] = []
    while sum(sizes) < 500:
        sizes.append(client.socket.recv(1 << 20).count(b"\n"))

    assert len(sizes) < 20


def test_batch_when_it_mixes_everything_then_one_array_answers(client: RawClient) -> None:
    good = {"jsonrpc": "2.0", "id": "a", "method": "job.submit", "params": {"command": "true"}}
    unheard = {"jsonrpc": "2.0", "method": "job.submit", "params": {"command": "true"}}
    client.say(
        json.dumps([good, unheard, 5, {**good, "id": "b", "method": "job.logs", "params": {"id": 1}}]).encode() + b"\n"
    )

    answers = by_id(client.hear())

    assert answers["a"]["result"]["state"] == "queued"
    assert code_of(answers[None]) == "invalid_request"
    assert code_of(answers["b"]) == "invalid_request"


@pytest.mark.parametrize("batch", [b"[]\n", b"[" + b"1," * 1024 + b"1]\n"])
def test_batch_when_it_is_empty_or_too_long_then_one_error_answers(client: RawClient, batch: bytes) -> None:
    client.say(batch)

    assert code_of(client.hear()) == "invalid_request"


def test_notification_when_it_has_no_id_then_it_is_done_and_not_answered(
    client: RawClient, server: ServerThread
) -> None:
    client.say(b'{"jsonrpc":"2.0","method":"job.submit","params":{"command":"true"}}\n\n \r\n')

    answer = client.ask("system.health", 2)

    assert answer["id"] == 2
    until(lambda: len(server.service.jobs) == 1)


def test_half_closed_client_when_its_last_line_has_no_newline_then_it_is_answered(client: RawClient) -> None:
    client.say(request("job.submit", 1, command="true") + request("system.health", 2).rstrip(b"\n"))

    answers = by_id(client.hear_all())

    assert answers[1]["result"]["id"] == 1
    assert answers[2]["result"] == {"ok": True}


def test_verbs_when_sent_with_their_options_then_the_service_gets_them(client: RawClient, server: ServerThread) -> None:
    client.ask("job.retry", id=4, reason="again", yes=True, timeout_ms=5)
    refused = client.ask("job.cancel", id=4, yes=True)

    ((verb, sent),) = server.service.commands
    assert isinstance(sent, RetryParams)
    assert (verb, sent.id, sent.yes, sent.timeout_ms, sent.reason) == ("retry", 4, True, 5, "again")
    assert refused["error"]["data"]["path"] == "yes"


# --- bad input ------------------------------------------------------------------------------------------------

SUBMIT = b'{"jsonrpc":"2.0","id":9,"method":"job.submit","params":%b}'

BAD_FRAMES = {
    "not JSON": (b"hello", None, "parse_error", None),
    "cut off": (SUBMIT[:30], None, "parse_error", None),
    "not UTF-8": (SUBMIT % b'{"command":"\xff"}', None, "parse_error", None),
    "NUL": (SUBMIT % rb'{"command":"a","env":{"FOO":"\u0000"}}', 9, "parse_error", "env.FOO"),
    "lone surrogate": (SUBMIT % rb'{"command":"\ud800"}', None, "parse_error", "command"),
    "NaN": (SUBMIT % b'{"command":"a","backoff_factor":NaN}', None, "parse_error", "backoff_factor"),
    "1e999": (SUBMIT % b'{"command":"a","backoff_factor":1e999}', None, "parse_error", "backoff_factor"),
    "2^63": (SUBMIT % b'{"command":"a","priority":9223372036854775808}', 9, "invalid_params", "priority"),
    "5000 digits": (SUBMIT % (b'{"command":"a","priority":' + b"1" * 5000 + b"}"), None, "parse_error", None),
    "doubled key": (SUBMIT % b'{"command":"a","command":"b"}', 9, "parse_error", "command"),
    "doubled id": (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"system.health"}', None, "parse_error", "id"),
    "depth 10000": (SUBMIT % (b'{"command":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), None, "parse_error", None),
    "depth 40": (SUBMIT % (b'{"command":' + b"[" * 40 + b"]" * 40 + b"}"), 9, "invalid_params", "command"),
    "long string": (SUBMIT % (b'{"command":"a","stdin":"' + b"x" * 70_000 + b'"}'), 9, "invalid_params", "stdin"),
    "unknown field": (SUBMIT % b'{"command":"a","cwd":"/"}', 9, "invalid_params", "cwd"),
    "missing field": (SUBMIT % b"{}", 9, "invalid_params", "command"),
    "positions": (SUBMIT % b'["true"]', 9, "invalid_params", "params"),
    "no params": (SUBMIT % b"null", 9, "invalid_params", "params"),
    "no method": (b'{"jsonrpc":"2.0","id":9}', 9, "invalid_request", "method"),
    "unknown method": (b'{"jsonrpc":"2.0","id":9,"method":"job.sumbit"}', 9, "method_not_found", "method"),
    "other version": (b'{"id":9,"method":"system.health"}', 9, "invalid_request", "jsonrpc"),
    "foreign field": (b'{"jsonrpc":"2.0","id":9,"method":"system.health","token":1}', 9, "invalid_request", "token"),
    "id is a list": (b'{"jsonrpc":"2.0","id":[1],"method":"system.health"}', None, "invalid_request", "id"),
    "id is 2^70": (b'{"jsonrpc":"2.0","id":1180591620717411303424,"method":"x"}', None, "invalid_request", "id"),
    "a number": (b"42", None, "invalid_request", None),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frame_when_it_is_sent_then_it_is_refused_and_the_rest_goes_on(
    client: RawClient, server: ServerThread, name: str
) -> None:
    frame, request_id, code, path = BAD_FRAMES[name]

    client.say(frame + b"\n")
    answer = client.hear()

    assert (answer["id"], code_of(answer), answer["error"]["data"].get("path")) == (request_id, code, path)
    assert client.ask("system.health", 2)["result"] == {"ok": True}
    assert server.service.jobs == {}


@pytest.mark.parametrize("ended", [b"", b"\n"])
def test_frame_when_it_is_too_long_then_an_error_comes_and_the_connection_ends(
    server: ServerThread, ended: bytes
) -> None:
    with server.connect() as greedy, server.connect() as other:
        greedy.say(request("system.health", 1))
        greedy.say(b"x" * (MAX_FRAME_BYTES + 1) + ended)

        assert greedy.hear()["id"] == 1
        assert code_of(greedy.hear()) == "frame_too_large"
        assert greedy.hear() is None
        assert other.ask("system.health")["result"] == {"ok": True}


def test_frame_when_it_never_ends_then_an_error_comes_and_the_connection_ends() -> None:
    with ServerThread(frame_timeout_ms=50) as server, server.connect() as slow, server.connect() as idle:
        slow.say(request("system.health", 1) + b'{"jsonrpc"')

        assert slow.hear()["id"] == 1
        assert code_of(slow.hear()) == "frame_timeout"
        assert slow.hear() is None
        assert idle.ask("system.health")["result"] == {"ok": True}


def test_bug_when_a_handler_raises_it_then_the_client_gets_an_error_and_stays(
    client: RawClient, server: ServerThread
) -> None:
    server.service.crash_next = True

    answer = client.ask("job.get", id=1)

    assert code_of(answer) == "internal"
    assert "bug" not in json.dumps(answer)
    assert client.ask("system.health")["result"] == {"ok": True}


JOB = {"command": "true", "args": ["ünïcode"], "env": {"A": "b: c"}}


@pytest.fixture(scope="module")
def shared() -> Iterator[ServerThread]:
    with ServerThread() as running:
        yield running


@given(data=st.data())
@settings(max_examples=60)
def test_frames_when_cut_anywhere_on_their_way_then_the_answers_are_the_same(
    shared: ServerThread, data: st.DataObject
) -> None:
    frames = [
        request("job.cancel", 1, id=3),
        request("job.get", 2, id=10**9),
        b"nonsense\n",
        request("system.health", 4),
    ]
    stream = b"".join(data.draw(st.permutations(frames)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))

    with shared.connect() as whole, shared.connect() as cut:
        whole.say(stream)
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            cut.say(stream[begin:end])

        assert by_id(cut.hear_all()) == by_id(whole.hear_all())


@given(data=st.data())
@settings(max_examples=100)
def test_frames_when_mutated_or_truncated_then_everything_is_answered_or_refused(
    shared: ServerThread, data: st.DataObject
) -> None:
    frame = bytearray(request("job.submit_many", 1, jobs=[JOB, JOB]).rstrip(b"\n"))
    for position in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=4)):
        frame[position] = data.draw(st.integers(0, 255))
    frame = frame[: data.draw(st.integers(0, len(frame)))]

    with shared.connect() as client:
        client.say(bytes(frame) + b"\n" + request("system.health", "last"))
        answers = client.hear_all()

    assert by_id(answers)["last"]["result"] == {"ok": True}
    assert all(("result" in answer) != ("error" in answer) for answer in answers)


# --- limits ---------------------------------------------------------------------------------------------------


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_connections_when_a_user_opens_a_thousand_then_most_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RESERVE_S", DEADLINE_S)  # the crowd may take longer than a second to come
    with ServerThread(max_connections_per_uid=64) as server, server.connect() as first, contextlib.ExitStack() as crowd:
        first.ask("system.health")
        others = [crowd.enter_context(server.connect()) for _ in range(1000)]

        refusals = [json.loads(line) for other in others[63 + RESERVE // 2 :] if (line := first_line(other))]

        assert len(refusals) == 937 - RESERVE // 2
        assert {code_of(answer) for answer in refusals} == {"too_many_connections"}
        assert first.ask("system.health")["result"] == {"ok": True}
        crowd.close()
        until(lambda: server.server.connections == 1)
        with server.connect() as late:
            assert late.ask("system.health")["result"] == {"ok": True}


def first_line(client: RawClient) -> bytes:
    line: bytes = client.socket.makefile("rb").readline()
    return line


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_connection_when_the_peer_is_another_user_then_it_is_refused(server: ServerThread) -> None:
    os.chmod(server.path.parent, 0o711)  # noqa: PTH101 - of a directory that the test made
    os.chmod(server.path, 0o666)  # noqa: PTH101
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        os.setuid(70_005)
        stranger = server.connect()
        with contextlib.suppress(OSError):  # the server may have refused it already
            stranger.say(request("system.health", 1))
        theirs.sendall(first_line(stranger))
        os._exit(0)
    os.waitpid(pid, 0)

    answer = json.loads(ours.recv(65536))
    ours.close()
    theirs.close()

    assert code_of(answer) == "permission_denied"
    assert "70005" in answer["error"]["message"]


def test_reading_when_too_much_is_in_flight_then_it_stops_until_answers_leave(
    client: RawClient, server: ServerThread
) -> None:
    server.service.hold_submits = True
    client.socket.setblocking(False)  # noqa: FBT003 - the name of the thing
    frame = request("job.submit", command="x" * 3000)

    sent = fill(client.socket, frame)
    while len(server.service.held) < 1024:  # a busy machine pauses between two reads
        sent = fill(client.socket, frame, sent)

    assert sent < 2000 * len(frame), "the rest waits in the client"
    server.service.hold_submits = False
    server.on_loop(server.service.release_submits)
    client.socket.settimeout(DEADLINE_S)
    answers = [client.hear() for _ in range(sent // len(frame))]
    assert all("result" in answer for answer in answers)


def fill(line: socket.socket, frame: bytes, sent: int = 0) -> int:
    """Send as much as the server takes, after `sent` earlier bytes. Returns the total."""
    for _ in range(10_000):
        try:
            sent += line.send(frame[sent % len(frame) :])
        except BlockingIOError:
            if until_writable(line):
                continue
            break
    return sent


def until_writable(line: socket.socket) -> bool:
    return bool(select.select([], [line], [], 0.3)[1])


def test_client_when_it_does_not_read_then_only_it_waits(server: ServerThread) -> None:
    with server.connect() as deaf, server.connect() as other:
        deaf.socket.setblocking(False)  # noqa: FBT003
        sent = fill(deaf.socket, request("job.why", id=1))

        assert sent < 50_000_000
        assert other.ask("system.health")["result"] == {"ok": True}


# --- streams --------------------------------------------------------------------------------------------------


def test_logs_when_streamed_then_bytes_and_holes_come_in_order_and_an_end(client: RawClient) -> None:
    client.ask("job.submit", command="true")

    opened = client.ask("job.logs", 5, id=1, attempt=3)["result"]
    notifications = [client.hear()["params"] for _ in range(4)]

    assert opened == {"stream": 1, "attempt": 3}
    assert notifications[0] == {"stream": 1, "attempt": 3, "offset": 0, "data": "aGVsbG8K"}
    assert notifications[1] == {"stream": 1, "attempt": 3, "offset": 6, "hole": 100}
    assert notifications[3] == {"stream": 1, "end": True}


def test_logs_when_the_job_is_unknown_then_the_opening_fails(client: RawClient) -> None:
    assert code_of(client.ask("job.logs", id=77)) == "job_not_found"


def test_watch_when_its_source_breaks_then_it_ends_with_an_error(client: RawClient) -> None:
    opened = client.ask("watch", after=10)["result"]

    changes, end = client.hear()["params"], client.hear()["params"]

    assert opened == {"stream": 1, "seq": 10}
    assert [change["seq"] for change in changes["changes"]] == [11, 12]
    assert end["error"]["data"]["code"] == "job_not_found"


@pytest.mark.parametrize("half_closed", [False, True])
def test_streams_and_waits_when_the_client_dies_then_they_end(server: ServerThread, half_closed: bool) -> None:  # noqa: FBT001
    server.service.follow_forever = True
    client = server.connect()
    client.ask("watch", 1)
    client.say(request("job.wait", 2, ids=[1]))
    until(lambda: server.service.feeds_open == 1 and server.service.waits_open == 1)
    if half_closed:
        client.socket.shutdown(socket.SHUT_WR)
        client.hear()

    client.close()

    until(lambda: server.service.feeds_open == 0 and server.service.waits_open == 0)
    until(lambda: server.server.connections == 0)


def test_streams_when_there_are_too_many_then_the_next_is_refused(client: RawClient, server: ServerThread) -> None:
    server.service.follow_forever = True
    client.say(b"".join(request("watch", n) for n in range(17)))

    heard = [client.hear() for _ in range(17 + 16)]

    (refused,) = [message for message in heard if "error" in message]
    assert code_of(refused) == "too_many_streams"


def test_commands_when_the_client_dies_before_the_answer_then_they_still_happen(server: ServerThread) -> None:
    server.service.hold_submits = True
    client = server.connect()
    client.say(request("job.submit", command="true"))
    until(lambda: server.service.held)

    client.close()
    until(lambda: server.server.connections == 0)
    server.on_loop(server.service.release_submits)

    assert len(server.service.jobs) == 1


# --- the end --------------------------------------------------------------------------------------------------


def test_stop_when_requests_are_in_flight_then_they_are_answered_and_streams_end(
    client: RawClient, server: ServerThread
) -> None:
    server.service.follow_forever = server.service.hold_submits = True
    client.ask("watch", 1)
    client.hear()
    client.say(request("job.submit", 2, command="true"))
    until(lambda: server.service.held)
    server.on_loop(lambda: server._loop.call_later(0.1, server.service.release_submits))

    server.stop()

    assert client.hear()["result"]["id"] == 1
    assert client.hear() is None
    assert server.service.feeds_open == 0


@pytest.mark.parametrize("started", [False, True])
async def test_stop_when_called_twice_or_before_start_then_it_returns(tmp_path: Path, started: bool) -> None:  # noqa: FBT001
    server = Server(MemoryService(), bind_socket(tmp_path / "s.sock"), BackgroundTasks())
    if started:
        server.start()

    await server.stop()
    await server.stop()

    assert server.connections == 0


def test_stop_when_an_answer_never_comes_then_it_gives_up(client: RawClient, server: ServerThread) -> None:
    server.service.hold_submits = True
    client.say(request("job.submit", 2, command="true"))
    until(lambda: server.service.held)

    server.stop()

    assert client.hear() is None


def test_connection_when_it_ends_then_the_service_gets_its_number(server: ServerThread) -> None:
    with server.connect() as stays:
        stays.ask("system.health")
        with server.connect() as goes:
            goes.ask("system.health")

        until(lambda: server.service.hung_up_on, why="word of the connection that is gone")

        assert server.service.hung_up_on == [2]
