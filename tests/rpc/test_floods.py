"""Many connections with many requests: each gets its share of the loop, and the engine no more than it can do."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from stoker.rpc import methods, open_calls, round_robin
from tests.support.facts import until, until_async
from tests.support.rpc import READ_TIMEOUT_S, ServerThread, request

if TYPE_CHECKING:
    from collections.abc import Callable

PINGS = 5


def test_calls_when_too_many_are_open_then_work_waits_and_short_ones_get_through() -> None:
    with ServerThread() as server, ExitStack() as connected:
        server.service.hold_submits = True
        many = 1_000  # fewer than one connection may have open
        clients = [connected.enter_context(server.connect()) for _ in range(4)]
        for client in clients:
            client.say(b"".join(request("job.submit", n, command="a") for n in range(many)))
        until(lambda: server.on_loop(lambda: len(server.service.held)) >= open_calls.MAX_BRINGING_WORK)
        with server.connect() as bystander:
            for n in range(PINGS):  # each is a turn in which further requests could begin
                assert bystander.ask("system.health", n)["result"] == {"ok": True}
                assert bystander.ask("job.cancel", n, id=1)["result"]["state"] == "cancelled"
            begun = server.on_loop(lambda: len(server.service.held))

        server.service.hold_submits = False
        server.on_loop(server.service.release_submits)
        answers = [[client.hear()["id"] for _ in range(many)] for client in clients]

    assert begun == open_calls.MAX_BRINGING_WORK
    assert answers == [list(range(many))] * len(clients)


def test_calls_of_all_kinds_when_too_many_are_open_then_no_further_one_begins() -> None:
    limits = open_calls.OpenCalls()
    cancel, submit, read = (methods.METHODS[name] for name in ("job.cancel", "job.submit", "job.get"))
    woken: list[int] = []

    for _ in range(open_calls.MAX_OPEN):
        assert limits.has_room(cancel)
        limits.begin(1)
    room_at_limit = [limits.has_room(method) for method in (cancel, submit, read)]
    limits.when_fewer(lambda: woken.append(1))
    while not woken:
        limits.end(1)

    assert room_at_limit == [False, False, True]
    assert limits.has_room(cancel)


def repeat_call(count: Callable[[int], None]) -> None:
    for _ in range(open_calls.MAX_OPEN):
        count(1)


def test_health_and_drain_when_no_further_call_may_begin_then_they_are_answered() -> None:
    with ServerThread() as server, server.connect() as operator, server.connect() as other:
        calls = server.server.backend.open_calls
        server.on_loop(partial(repeat_call, calls.begin))
        other.say(request("job.cancel", 1, id=1))
        until(lambda: server.on_loop(lambda: bool(calls._waiting)), why="a cancel that waits")

        answers = [operator.ask(f"system.{name}") for name in ("health", "status", "drain")]
        waited = len(server.service.commands) == 0
        server.on_loop(partial(repeat_call, calls.end))
        cancelled = other.hear()

    assert [answer["result"] for answer in answers[:2]] == [{"ok": True}, {"version": "0.1.0"}]
    assert answers[2]["result"]["draining"] is True
    assert waited
    assert cancelled["result"]["state"] == "cancelled"


def test_work_when_others_wait_already_then_it_waits_behind_them() -> None:
    limits = open_calls.OpenCalls()
    submit = methods.METHODS["job.submit"]
    woken: list[int] = []

    for _ in range(open_calls.MAX_BRINGING_WORK):
        limits.begin(1)
    full = limits.has_room(submit)
    for n in range(3):
        limits.when_fewer(partial(woken.append, n))
    limits.end(1)
    behind = limits.has_room(submit)
    while not woken:
        limits.end(1)

    assert (full, behind, limits.has_room(submit)) == (False, False, True)
    assert woken == [0, 1, 2]


def test_work_when_the_large_calls_have_ended_then_it_waits_for_no_small_one() -> None:
    limits = open_calls.OpenCalls()
    submit = methods.METHODS["job.submit"]
    woken: list[int] = []

    limits.begin(open_calls.MAX_OPEN_BYTES)
    limits.begin(1)  # it stays open
    large = limits.has_room(submit)
    limits.when_fewer(lambda: woken.append(1))
    limits.end(open_calls.MAX_OPEN_BYTES)

    assert (large, limits.has_room(submit)) == (False, True)
    assert woken == [1]


def test_requests_that_wait_when_their_client_hangs_up_then_they_are_dropped() -> None:
    with ServerThread() as server, ExitStack() as connected:
        server.service.hold_submits = True
        many = 1_024
        for client in [connected.enter_context(server.connect()) for _ in range(2)]:
            client.say(b"".join(request("job.submit", n, command="a") for n in range(many)))
        until(lambda: server.on_loop(lambda: len(server.service.held)) == open_calls.MAX_BRINGING_WORK)
        with server.connect() as leaving:
            assert leaving.ask("system.health")["result"] == {"ok": True}
            leaving.say(b"".join(request("job.submit", n, command="dropped") for n in range(100)))
            until(lambda: server.on_loop(lambda: any(each._held_back for each in server.server._connections)))

        server.service.hold_submits = False
        server.on_loop(server.service.release_submits)
        until(lambda: server.on_loop(lambda: server.server.connections) == 2, why="the end of the one that left")
        commands = {job.command for job in server.service.jobs.values()}

    assert commands == {"a"}


def test_turns_when_many_have_requests_then_a_later_client_waits_for_few() -> None:
    with ServerThread() as server, ExitStack() as connected:
        clients = [connected.enter_context(server.connect()) for _ in range(100)]
        later = connected.enter_context(server.connect())
        until(lambda: server.on_loop(lambda: server.server.connections) == len(clients) + 1)
        begun: list[int] = []
        note = server.service.health

        async def health() -> Any:
            begun.append(len(server.service.commands))
            return await note()

        server.service.health = health  # type: ignore[method-assign]
        keeps_loop, all_have_sent = threading.Event(), threading.Event()

        def keep_loop() -> None:
            keeps_loop.set()
            all_have_sent.wait(READ_TIMEOUT_S)

        busy = threading.Thread(target=server.on_loop, args=(keep_loop,))
        busy.start()
        keeps_loop.wait(READ_TIMEOUT_S)  # else the first clients are served before the others have sent
        for client in clients:
            client.say(b"".join(request("job.cancel", n, id=1) for n in range(100)))
        later.say(request("system.health"))
        all_have_sent.set()
        busy.join()
        assert later.hear()["result"] == {"ok": True}
        for client in clients:
            assert [client.hear()["id"] for _ in range(100)] == list(range(100))

    assert begun[0] < 1_500
    assert len(server.service.commands) == 10_000


async def test_turns_when_each_takes_the_whole_time_then_the_loop_goes_on_after_one() -> None:
    taken: list[int] = []
    taken_before: list[int] = []

    class Slow:
        def __init__(self, number: int) -> None:
            self.number = number

        def take_turn(self, _until: float) -> None:
            taken.append(self.number)
            ends = time.perf_counter() + round_robin.TURN_S
            while time.perf_counter() < ends:
                pass
            if self.number == 2:
                raise RuntimeError("a bug of ours")

    shared = round_robin.RoundRobin(lambda callback: callback)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for number in range(4):
        shared.ask(Slow(number), 0)
    asyncio.get_running_loop().call_soon(lambda: taken_before.append(len(taken)))
    await until_async(lambda: len(taken) == 4)

    assert taken_before == [1]
    assert taken == [0, 1, 2, 3]


async def test_turns_when_one_user_has_many_connections_then_another_waits_for_one_turn() -> None:
    taken: list[str] = []

    class Client:
        def __init__(self, name: str) -> None:
            self.name = name

        def take_turn(self, _until: float) -> None:
            taken.append(self.name)

    shared = round_robin.RoundRobin(lambda callback: callback)
    for number in range(100):
        shared.ask(Client(f"many {number}"), 1)
    for number in range(2):
        shared.ask(Client(f"few {number}"), 2)
    await until_async(lambda: len(taken) == 102)

    assert taken[:6] == ["many 0", "few 0", "many 1", "few 1", "many 2", "many 3"]
    assert taken[-1] == "many 99"


class StillClock:
    """A clock that only a taker moves on."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def perf_counter(self) -> float:
        return self.now_s


class Counting:
    """Takes turns of so many seconds, and counts them."""

    def __init__(self, clock: StillClock, took_s: float = 0.0) -> None:
        self.clock = clock
        self.took_s = took_s
        self.turns = 0

    def take_turn(self, _until: float) -> None:
        self.turns += 1
        self.clock.now_s += self.took_s


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    clock = StillClock()
    monkeypatch.setattr(round_robin, "time", clock)
    return clock


async def test_turn_when_no_other_is_due_then_it_is_taken_at_once(still_clock: StillClock) -> None:
    shared, taker = round_robin.RoundRobin(lambda callback: callback), Counting(still_clock)

    shared.ask(taker, 0, now=True)

    assert taker.turns == 1


async def test_turn_when_another_is_due_then_it_comes_after_that(still_clock: StillClock) -> None:
    shared, takers = round_robin.RoundRobin(lambda callback: callback), [Counting(still_clock) for _ in range(2)]

    shared.ask(takers[0], 0)
    shared.ask(takers[1], 0, now=True)

    assert takers[1].turns == 0
    await until_async(lambda: [taker.turns for taker in takers] == [1, 1])


async def test_turn_when_many_ask_in_one_round_then_most_wait_for_the_next(still_clock: StillClock) -> None:
    shared = round_robin.RoundRobin(lambda callback: callback)
    takers = [Counting(still_clock, took_s=0.001) for _ in range(9)]

    for taker in takers:
        shared.ask(taker, 0, now=True)

    assert [taker.turns for taker in takers] == [1] + [0] * 8
    await until_async(lambda: all(taker.turns == 1 for taker in takers))
