"""Limits of one connection: its share of the loop's time and of memory, whatever it sends."""

from __future__ import annotations

import gc
import json
import os
import select
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from stoker.rpc import connection, frames, methods, open_calls
from stoker.rpc.calls import Backend
from tests.support.facts import until
from tests.support.rpc import READ_TIMEOUT_S, MemoryService, ServerThread, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stoker.rpc.frames import Request
    from tests.support.rpc import RawClient

PINGS = 5


def batch(*requests: bytes) -> bytes:
    return b"[" + b",".join(each.strip() for each in requests) + b"]\n"


def everything(client: RawClient, most: int) -> list[Any]:
    """Up to `most` messages, fewer if the server hangs up, also in the middle of one."""
    messages: list[Any] = []
    with suppress(ConnectionError, json.JSONDecodeError):
        while len(messages) < most and (message := client.hear()) is not None:
            messages.append(message)
    return messages


def unread_bytes(server: ServerThread) -> int:
    return sum(each.unread_bytes for each in server.server._connections)


# Each of these once kept the loop busy for seconds.
SLOW = {
    "wrong jobs": request("job.submit_many", jobs=[{"command": "true", f"no_{n}": 1} for n in range(10_000)]),
    "wrong requests": batch(*[request("job.submit", n, **{f"no_field_{n}": 1}) for n in range(1_000)]),
    "pipelined wrong requests": b"".join(request("job.submit", n, **{f"no_field_{n}": 1}) for n in range(1_000)),
}


@pytest.mark.parametrize("kind", SLOW)
def test_others_when_one_frame_is_slow_to_refuse_then_they_are_answered(
    server: ServerThread, client: RawClient, kind: str
) -> None:
    with server.connect() as bystander:
        client.say(SLOW[kind])
        answered = 0
        while kind.startswith("pipelined") or not select.select([client.socket], [], [], 0)[0]:
            bystander.ask("system.health", 1)
            answered += 1
            if kind.startswith("pipelined") and answered >= PINGS:
                break
        answers = [client.hear() for _ in range(1_000 if kind.startswith("pipelined") else 1)]

    assert answered >= PINGS
    assert answers[-1] is not None


def test_submit_many_when_all_are_wrong_then_each_has_an_error_the_first_in_words(client: RawClient) -> None:
    slots = client.ask("job.submit_many", jobs=[{"comand": "true"}] * 200)["result"]["jobs"]

    assert [slot["error"]["data"]["path"] for slot in slots[:2]] == ["jobs[0].comand", "jobs[1].comand"]
    assert slots[0]["error"]["data"]["hint"] == "did you mean command?"
    assert slots[-1]["error"]["message"].startswith("jobs[199]: ")
    assert slots[-1]["error"]["data"]["code"] == "invalid_params"


def test_blank_lines_when_there_are_a_million_then_nothing_is_made_of_them(client: RawClient) -> None:
    client.say(b"\n \t\r\n" * 250_000 + request("system.health", 7))

    assert client.hear()["id"] == 7


def test_order_when_a_long_frame_precedes_a_short_one_then_it_is_done_first(
    client: RawClient, server: ServerThread
) -> None:
    jobs = [{"command": f"a{n}"} for n in range(3_000)]
    client.say(request("job.submit_many", 1, jobs=jobs) + request("job.submit", 2, command="last"))

    answers = {answer["id"]: answer for answer in (client.hear(), client.hear())}

    assert answers[2]["result"]["id"] == 3_001
    assert server.service.jobs[3_001].command == "last"


def test_wait_when_too_many_jobs_are_awaited_then_only_that_wait_is_refused(
    client: RawClient, server: ServerThread
) -> None:
    server.service.follow_forever = True
    client.say(request("job.wait", 1, ids=list(range(1, 9_001))))

    refused = client.ask("job.wait", 2, ids=list(range(1, 1_101)))

    assert (refused["id"], refused["error"]["data"]["code"]) == (2, "too_many_waits")
    until(lambda: server.on_loop(lambda: server.service.waits_open) == 1)


def test_reads_when_answers_are_large_and_not_taken_then_no_more_are_made(
    client: RawClient, server: ServerThread
) -> None:
    server.service.jobs[1] = server.service.large_job(900_000)
    client.say(b"".join(request("job.get", n, id=1) for n in range(150)))

    until(lambda: server.on_loop(lambda: server.service.gets) > 0)
    with server.connect() as bystander:
        for _ in range(20):  # turns that could begin further reads
            bystander.ask("system.health")
    begun = server.on_loop(lambda: server.service.gets)

    assert begun < 10
    assert [client.hear()["id"] for _ in range(150)] == list(range(150))


def test_batch_when_its_answers_are_too_large_together_then_the_rest_is_refused(
    client: RawClient, server: ServerThread
) -> None:
    server.service.jobs[1] = server.service.large_job(900_000)
    client.say(batch(*[request("job.get", n, id=1) for n in range(10)]))

    answers = {answer["id"]: answer for answer in client.hear()}

    assert len(json.dumps(answers)) < 5 << 20
    assert answers[0]["result"]["id"] == 1
    assert answers[9]["error"]["data"]["code"] == "answer_too_large"


def test_batch_of_jobs_when_it_is_large_then_its_answer_is_made_off_the_loop(
    client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[str] = []
    make = methods._slots

    def slots(*of: Any) -> Any:
        made_in.append(threading.current_thread().name)
        return make(*of)

    monkeypatch.setattr(methods, "_slots", slots)
    sizes = (2, methods.RENDERED_AT_ONCE + 1)

    for good in (True, False):
        for size in sizes:
            jobs = [{"command": "true"} if good else {"no_command": 1}] * size
            answered = client.ask("job.submit_many", jobs=jobs)["result"]["jobs"]
            assert ["error" not in answer for answer in answered] == [good] * size

    assert [name == "server" for name in made_in] == [True, False, True, False]


def test_reads_when_one_is_refused_at_once_then_those_behind_it_are_answered(client: RawClient) -> None:
    asked = ["job.list", "checkpoint.list", "checkpoint.list", "job.list"]
    client.say(b"".join(request(method, n) for n, method in enumerate(asked)))

    answers = {answer["id"]: answer for answer in (client.hear() for _ in asked)}

    assert [answers[n]["error"]["data"]["code"] for n in (1, 2)] == ["invalid_params"] * 2
    assert [answers[n]["result"]["jobs"] for n in (0, 3)] == [[], []]


@pytest.mark.parametrize(
    "wrong",
    [
        request("job.submit_many", 1, jobs=[{"comand": "true"}] * 500),
        batch(*[request("job.submit", n, comand="true") for n in range(500)]),
        batch(*[request("job.get", n, id=n + 1) for n in range(500)]),
    ],
    ids=["jobs", "requests", "ids"],
)
def test_errors_when_they_are_answered_then_they_are_freed_without_the_collector(
    client: RawClient, wrong: bytes
) -> None:
    client.ask("system.health")
    gc.collect()
    gc.disable()
    try:
        client.say(wrong)
        client.hear()
        client.ask("system.health")
        found = gc.collect()
    finally:
        gc.enable()

    assert found < 500


def test_connection_when_a_turn_of_it_fails_then_it_is_hung_up_and_others_go_on(
    client: RawClient, server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[bytes] = []

    def fail_on_one(frame: bytes) -> Iterator[Request]:
        if b'"fail here"' in frame:
            failures.append(frame)
            raise RuntimeError("a bug of ours")
        return frames.requests_in(frame)

    monkeypatch.setattr(connection, "requests_in", fail_on_one)
    # The second frame is begun in a turn of its own, after a thread has read the first.
    long_frame = request("job.submit_many", 1, jobs=[{"command": f"a{n}"} for n in range(3_000)])
    client.say(long_frame + request("job.submit", 2, command="fail here"))

    with suppress(ConnectionResetError):
        while client.hear() is not None:
            pass
    with server.connect() as bystander:
        assert bystander.ask("system.health")["result"] == {"ok": True}
    assert len(failures) == 1


def test_answers_when_too_many_are_left_unread_then_the_slowest_client_ends() -> None:
    with ServerThread(max_unread_bytes=6 << 20) as server, ExitStack() as connected:
        server.service.jobs[1] = server.service.large_job(900_000)
        deaf = [connected.enter_context(server.connect()) for _ in range(8)]
        until(lambda: server.on_loop(lambda: server.server.connections) == len(deaf), why="all of them admitted")
        for client in deaf:
            client.say(b"".join(request("job.get", n, id=1) for n in range(20)))
        until(lambda: server.on_loop(lambda: server.server.connections) < len(deaf), why="the end of the slowest")

        with server.connect() as bystander:
            assert bystander.ask("job.get", id=1)["result"]["id"] == 1
        backlog = server.on_loop(lambda: unread_bytes(server))
        complete = [len(everything(client, 20)) == 20 for client in deaf]

    assert backlog <= 6 << 20
    assert True in complete
    assert False in complete


def test_frames_when_too_many_do_not_end_then_the_largest_is_refused() -> None:
    unfinished = request("job.submit", 1, command="x")[:-2]
    sizes = [180_000, 300_000, 180_000, 180_000, 180_000]
    with ServerThread(max_unfinished_bytes=1 << 20, frame_timeout_ms=120_000) as server, ExitStack() as connected:
        clients = [connected.enter_context(server.connect()) for _ in sizes]
        for client, size in zip(clients, sizes, strict=True):
            client.say(unfinished + b" " * size)
        until(lambda: server.on_loop(lambda: server.server.unfinished._total) > sum(sizes), why="all that was sent")
        clients[0].say(b" " * 50_000)  # together they are over the limit now

        refused = clients.pop(1)
        refusal = refused.hear()["error"]
        for client in clients:
            client.say(b"}\n")
        answers = [client.hear() for client in clients]
        end = refused.hear()
        left = server.on_loop(lambda: server.server.unfinished._total)

    assert (refusal["data"]["code"], refusal["data"]["transient"]) == ("too_many_requests", True)
    assert refusal["data"]["hint"].startswith("end each request with a newline")
    assert [answer["result"]["state"] for answer in answers] == ["queued"] * len(clients)
    assert (end, left) == (None, 0)


def test_answers_when_their_client_is_ended_then_they_count_against_no_other() -> None:
    with ServerThread(max_unread_bytes=3 << 20) as server, server.connect() as deaf:
        server.service.jobs[1] = server.service.large_job(900_000)
        deaf.say(b"".join(request("job.get", n, id=1) for n in range(20)))
        until(lambda: server.on_loop(lambda: unread_bytes(server)) > 1 << 20, why="answers that are left unread")

        def end_it_and_count_again() -> tuple[int, int]:
            (ended,) = server.server._connections
            ended.abort()
            server.server.unread.note(ended)  # as an answer does that was under way
            return ended.unread_bytes, server.server.unread._total

        assert server.on_loop(end_it_and_count_again) == (0, 0)


def test_long_frame_when_another_has_many_then_it_does_not_wait_for_all(
    client: RawClient, server: ServerThread
) -> None:
    many = 6
    wrong = request("job.submit_many", 1, jobs=[{"command": "true", f"no_{n}": 1} for n in range(3_000)])
    read: list[int] = []

    def say() -> None:
        client.say(wrong * many)

    def hear() -> None:
        read.extend(client.hear()["id"] for _ in range(many))

    talking = [threading.Thread(target=say), threading.Thread(target=hear)]
    with server.connect() as other:
        for thread in talking:
            thread.start()
        answer = other.ask("job.submit_many", 7, jobs=[{"command": f"a{n}"} for n in range(2_000)])
        read_before = len(read)
    for thread in talking:
        thread.join()

    assert answer["id"] == 7
    assert read_before < many
    assert len(read) == many


def test_long_frames_when_a_user_sends_them_then_another_user_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    backend = Backend(MemoryService(), max_streams=1)
    read = threading.Event()
    frame = backend.frame_thread(1_000).submit(read.wait, READ_TIMEOUT_S)

    for other in (0, 1_001):
        assert backend.frame_thread(other).submit(lambda: "read").result(READ_TIMEOUT_S) == "read"
    assert not frame.done()
    read.set()
    assert frame.result(READ_TIMEOUT_S)


def test_requests_when_too_many_wait_to_be_begun_then_the_largest_is_refused() -> None:
    of_a_client = request("job.submit_many", 1, jobs=[{"command": "x" * 1_000}] * 60)
    larger = request("job.submit_many", 1, jobs=[{"command": "x" * 1_000}] * 180)
    half = b"".join(request("job.submit", n, command="a") for n in range(open_calls.MAX_BRINGING_WORK // 2))
    with ServerThread(max_waiting_bytes=1 << 20) as server, ExitStack() as connected:
        server.service.hold_submits = True
        for _ in range(2):
            connected.enter_context(server.connect()).say(half)
        until(lambda: server.on_loop(lambda: len(server.service.held)) == open_calls.MAX_BRINGING_WORK)
        greedy, *clients = [connected.enter_context(server.connect()) for _ in range(16)]
        greedy.say(larger)
        for number, client in enumerate(clients):  # the last one is too much
            least = len(larger) - 1 + number * (len(of_a_client) - 1)
            until(lambda least=least: server.on_loop(lambda: server.server.waiting._total) >= least)  # type: ignore[misc]
            client.say(of_a_client)

        refusal = greedy.hear()["error"]
        with server.connect() as bystander:
            assert bystander.ask("system.health")["result"] == {"ok": True}
        server.service.hold_submits = False
        server.on_loop(server.service.release_submits)
        answers = [len(client.hear()["result"]["jobs"]) for client in clients]
        end = greedy.hear()
        until(lambda: server.on_loop(lambda: server.server.waiting._total) == 0, why="an end of all that waited")

    assert (refusal["data"]["code"], refusal["data"]["transient"]) == ("too_many_requests", True)
    assert (answers, end) == ([60] * len(clients), None)
    assert len(server.service.jobs) == open_calls.MAX_BRINGING_WORK + 60 * len(clients)
