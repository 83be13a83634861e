"""The order of jobs when there is one slot: class, fair share, priority, age.

Owns the order in which queued jobs start. A blocker holds the only slot while the rivals are queued; the log of
changes tells in which order they started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.engine.dispatcher import READ_AT_ONCE
from tests.support.facts import until
from tests.support.work import by_start, running, shell, submit, submit_many

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

AGEING_MS = 100
SETTINGS = f"""
[daemon]
max_running = 1
[jobs]
ageing_ms = {AGEING_MS}
[cpu]
throttle_threshold = 100
[memory]
throttle_threshold = 100
[queues.urgent]
class = "high"
[queues.bulk]
class = "low"
[queues.red]
[queues.blue]
"""
TRUE = shell("exit 0")
LONG = READ_AT_ONCE // 2 + 1  # jobs: two such queues are not read in one turn


@pytest.fixture
def blocked(client: stoker.Client, gate: Gate) -> Iterator[Gate]:
    """A job that takes the only slot until the gate opens."""
    running(client, submit(client, gate.spec(), queue="urgent"))
    yield gate
    gate.open()
    until(lambda: not client.status()["running"] + client.status()["queued"], why="an idle daemon")


def queued(client: stoker.Client, *wishes: dict[str, Any]) -> list[int]:
    return [submit(client, TRUE, **wish) for wish in wishes]


def test_classes_when_one_slot_is_free_then_high_goes_before_normal_before_low(
    client: stoker.Client, blocked: Gate
) -> None:
    low, normal, high = queued(client, {"queue": "bulk"}, {"queue": "default"}, {"queue": "urgent"})

    blocked.open()
    client.wait(low, normal, high)

    assert by_start(client, low, normal, high) == [high, normal, low]


def test_classes_when_a_low_job_has_the_higher_priority_then_class_still_decides(
    client: stoker.Client, blocked: Gate
) -> None:
    low, normal = queued(client, {"queue": "bulk", "priority": 100}, {"queue": "default", "priority": -100})

    blocked.open()
    client.wait(low, normal)

    assert by_start(client, low, normal) == [normal, low]


def test_priority_when_jobs_share_a_queue_then_higher_goes_first_and_equals_in_order(
    client: stoker.Client, blocked: Gate
) -> None:
    first, second, urgent, later = queued(client, {}, {}, {"priority": 1_000}, {"priority": -1_000})

    blocked.open()
    client.wait(first, second, urgent, later)

    assert by_start(client, first, second, urgent, later) == [urgent, first, second, later]


def test_ageing_when_a_job_has_waited_long_enough_then_it_passes_a_higher_priority(
    client: stoker.Client, blocked: Gate
) -> None:
    (old,) = queued(client, {})
    since = client.status()["uptime_ms"]
    until(lambda: client.status()["uptime_ms"] > since + 2 * AGEING_MS, why="two steps of age")
    one_step, many_steps = queued(client, {"priority": 1}, {"priority": 1_000})

    blocked.open()
    client.wait(old, one_step, many_steps)

    assert by_start(client, old, one_step, many_steps) == [many_steps, old, one_step]


def test_fair_share_when_one_queue_is_full_then_the_other_takes_turns_with_it(
    client: stoker.Client, blocked: Gate
) -> None:
    red = queued(client, *[{"queue": "red"}] * 6)
    blue = queued(client, *[{"queue": "blue"}] * 3)

    blocked.open()
    client.wait(*red, *blue)

    turns = ["red" if job in red else "blue" for job in by_start(client, *red, *blue)]
    assert turns[:6].count("blue") == 3, turns
    assert turns[6:] == ["red"] * 3


def test_fair_share_when_one_queue_was_idle_then_it_takes_turns_without_catching_up(
    client: stoker.Client, gate: Gate
) -> None:
    busy = queued(client, *[{"queue": "red"}] * 30)
    client.wait(*busy)
    running(client, submit(client, gate.spec(), queue="urgent"))
    red, blue = (queued(client, *[{"queue": queue}] * 5) for queue in ("red", "blue"))

    gate.open()
    client.wait(*red, *blue)

    turns = ["red" if job in red else "blue" for job in by_start(client, *red, *blue)]
    assert abs(turns[:6].count("blue") - 3) <= 1, turns


def test_classes_when_a_daemon_starts_with_long_queues_then_high_goes_first(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon

    def use(paused: str) -> None:
        queues = "".join(f"[queues.{name}]\npaused = {paused}\n" for name in ("a", "b"))
        daemon.config.write_text(f'[daemon]\nmax_running = 1\n{queues}[queues.z]\nclass = "high"\npaused = {paused}\n')

    use("true")
    daemon.start()
    with daemon.client() as client:
        firsts = [submit_many(client, [{**TRUE, "queue": name}] * LONG)[0]["id"] for name in ("a", "b")]
        (high,) = queued(client, {"queue": "z"})
    assert daemon.stop() == 0

    use("false")
    daemon.start()

    with daemon.client() as client:
        client.wait(high, *firsts)
        assert by_start(client, high, *firsts)[0] == high
