"""Rates of keys and of queues: how many jobs start in a time, counted in the log of changes, also over kills."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams, RateNotFound, TooManyRates
from stoker.core.job.model import Queue
from stoker.core.rate import KEY_PREFIX, Rate, read_rate
from stoker.engine.memory.rates import MOST_KEYS, LiveRates
from tests.support.facts import until
from tests.support.jobs import job, spec
from tests.support.work import end_of, job_view, shell, state, submit, submit_many

if TYPE_CHECKING:
    from collections.abc import Iterable

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = """
[daemon]
max_running = 32
[queues.slow]
rate = "1/d"
burst = 2
[rates.declared]
rate = "7/m"
burst = 3
"""
TRUE = shell("exit 0")
JOBS = 100
STARTS = """
SELECT changes.at FROM changes JOIN jobs ON jobs.id = job_id
WHERE to_state = 'running' AND json_extract(policy, '$.rate_key') = ? ORDER BY seq
"""


def starts(daemon: DaemonProcess, key: str) -> list[int]:
    """The times at which jobs with this key started, from the log of changes."""
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database:
        return [at for (at,) in database.execute(STARTS, (key,))]


def started(daemon: DaemonProcess, key: str, number: int) -> None:
    """Wait until so many jobs have started."""
    until(lambda: len(starts(daemon, key)) >= number)


def keeps(rate: Rate, at: list[int]) -> bool:
    """Whether no window has more starts than a burst and the rate; both its ends were rounded to milliseconds."""
    return all(
        last - first + 1 <= rate.burst + rate.count * (at[last] - at[first] + 1) / rate.per_ms
        for first in range(len(at))
        for last in range(first, len(at))
    )


def set_rate(client: stoker.Client, key: str, rate: str, burst: int = 1) -> Rate:
    client.call("rate.set", {"key": key, "rate": rate, "burst": burst})
    return read_rate(rate, burst)


def of_key(key: str, **fields: Any) -> dict[str, Any]:
    return {**TRUE, "rate_key": key, **fields}


def tokens(client: stoker.Client, key: str) -> int | None:
    (row,) = [row for row in client.call("rate.list", {})["rates"] if row["key"] == key]
    return row["tokens"]  # type: ignore[no-any-return]


def test_starts_when_100_jobs_have_one_key_then_no_window_has_more_than_its_rate(
    client: stoker.Client, shared: DaemonProcess
) -> None:
    rate = set_rate(client, "hundred", "50/s", 5)

    jobs = [one["id"] for one in submit_many(client, [of_key("hundred") for _ in range(JOBS)])]

    assert {one["state"] for one in client.wait(*jobs)} == {"succeeded"}
    at = starts(shared, "hundred")
    assert len(at) == JOBS
    assert keeps(rate, at)
    assert not keeps(read_rate("10/s", 5), at), "the rate is used, too, as far as a busy machine can"


def test_start_when_its_key_has_no_token_then_why_says_when_and_others_pass(client: stoker.Client) -> None:
    set_rate(client, "daily", "1/d")
    first, second = (submit(client, of_key("daily")) for _ in range(2))
    passing = [submit(client, TRUE), submit(client, of_key("declared")), submit(client, of_key("declared"))]

    assert {one["state"] for one in client.wait(first, *passing)} == {"succeeded"}
    why = client.why(second)
    assert (state(client, second), why["code"], why["hint"]) == ("queued", "rate", "stoker rate ls")
    assert why["message"].startswith("rate_key 'daily' may start 1/d; the next start is in 23h59m")
    assert 86_000_000 < why["details"]["next_token_in_ms"] <= 86_400_000
    assert (tokens(client, "daily"), tokens(client, "declared")) == (0, 1)


def test_start_when_the_rate_is_changed_or_removed_then_waiting_jobs_go_on(client: stoker.Client) -> None:
    set_rate(client, "raised", "1/d")
    jobs = [submit(client, of_key("raised")) for _ in range(3)]
    end_of(client, jobs[0])
    assert state(client, jobs[1]) == "queued"

    set_rate(client, "raised", "1/d", 2)
    end_of(client, jobs[1])
    assert state(client, jobs[2]) == "queued"
    client.call("rate.remove", {"key": "raised"})

    assert end_of(client, jobs[2]) == ("succeeded", "exit")
    with pytest.raises(RateNotFound, match="key: 'raised' has no rate of its own"):
        client.call("rate.remove", {"key": "raised"})


def test_start_when_the_rate_was_a_day_and_is_raised_then_it_comes_soon(client: stoker.Client) -> None:
    set_rate(client, "quicker", "1/d")
    jobs = [submit(client, of_key("quicker")) for _ in range(3)]
    end_of(client, jobs[0])
    assert client.why(jobs[2])["code"] == "rate"

    set_rate(client, "quicker", "20/s")

    assert {one["state"] for one in client.wait(*jobs)} == {"succeeded"}


def test_submit_when_its_key_has_no_rate_then_it_is_refused(client: stoker.Client) -> None:
    with pytest.raises(RateNotFound, match="rate_key: there is no rate for 'nobody'") as refused:
        submit(client, of_key("nobody"))
    assert refused.value.hint == "stoker rate set nobody 10/s, or for each key without a rate: stoker rate set '*' 10/s"

    set_rate(client, "*", "1/d")
    jobs = [submit(client, of_key(key)) for key in ("alice", "bob", "alice")]

    assert {one["state"] for one in client.wait(*jobs[:2])} == {"succeeded"}
    assert client.why(jobs[2])["code"] == "rate"
    client.call("rate.remove", {"key": "*"})
    assert end_of(client, jobs[2]) == ("succeeded", "exit")


def test_settings_when_they_have_rates_then_these_are_in_force(client: stoker.Client) -> None:
    rows = {row["key"]: row for row in client.call("rate.list", {})["rates"]}

    assert (rows["declared"]["rate"], rows["declared"]["burst"]) == ("7/m", 3)
    assert "declared" in [rate["key"] for rate in client.status()["rates"]]


def test_queue_when_it_has_a_rate_then_retries_take_tokens_too(client: stoker.Client) -> None:
    fails = submit(client, shell("exit 1"), queue="slow", max_attempts=2, base_delay_ms=1)
    end_of(client, fails)
    waits, passes = submit(client, TRUE, queue="slow"), submit(client, TRUE)

    assert end_of(client, passes) == ("succeeded", "exit")
    assert job_view(client, fails)["attempts"] == 2
    assert client.why(waits)["message"].startswith("queue 'slow' may start 1/d; the next start is in 23h59m")
    (rate,) = [row["rate"] for row in client.status()["queues"] if row["name"] == "slow"]
    assert rate is not None
    assert (rate["rate"], rate["burst"], rate["tokens"]) == ("1/d", 2, 0)
    client.call("queue.set", {"name": "slow", "rate": None})
    assert end_of(client, waits) == ("succeeded", "exit")


def test_rate_when_neither_rate_nor_burst_is_given_then_it_is_refused(client: stoker.Client) -> None:
    set_rate(client, "stays", "5/m", 3)

    with pytest.raises(InvalidParams, match="rate: missing"):
        client.call("rate.set", {"key": "stays"})


WRONG = [
    ({"rate": "often"}, "rate: 'often' is not a rate"),
    ({"burst": 3}, "burst: it has no effect without a rate"),
    ({"rate": "1/s", "burst": 0}, "burst"),
]


@pytest.mark.parametrize(("settings", "problem"), WRONG)
def test_queue_when_its_rate_makes_no_sense_then_it_is_refused(
    client: stoker.Client, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidParams, match=problem):
        client.call("queue.set", {"name": "wrong", **settings})


def test_bucket_when_the_daemon_is_killed_then_it_is_as_it_was(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        set_rate(client, "k", "2/d", 3)
        end_of(client, submit(client, of_key("k")))
        end_of(client, submit(client, of_key("k")))
    daemon.kill9()
    daemon.start()

    with daemon.client() as client:
        assert tokens(client, "k") == 1
        last, waits = submit(client, of_key("k")), submit(client, of_key("k"))
        assert end_of(client, last) == ("succeeded", "exit")
        assert client.why(waits)["code"] == "rate"


def test_starts_when_the_daemon_is_killed_often_then_the_rate_holds(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        rate = set_rate(client, "k", "20/s", 3)
        submit_many(client, [of_key("k", on_orphan="requeue", max_orphanings=99) for _ in range(60)])
    for _ in range(4):
        started(daemon, "k", len(starts(daemon, "k")) + 5)
        daemon.kill9()
        daemon.start()

    with daemon.client() as client:
        client.wait(*range(1, 61))
    assert len(starts(daemon, "k")) >= 60
    assert keeps(rate, starts(daemon, "k"))


# --- the buckets in memory ----------------------------------------------------------------------------------


def live(rates: dict[str, Rate], queues: Iterable[Queue] = ()) -> LiveRates:
    memory = LiveRates({queue.name: queue for queue in (Queue(name="default"), *queues)})
    memory.of_keys = rates
    return memory


def test_buckets_when_very_many_keys_were_used_then_full_ones_are_not_kept() -> None:
    memory = live({"*": Rate(1, 1_000)})
    rows: dict[str, int | None] = {}
    most = 0

    for number in range(20_000):
        rows |= memory.take(job(asked=spec(rate_key=f"k{number}")), number)
        rows |= dict.fromkeys(memory.forget_full(number))
        most = max(most, len(memory))

    assert most <= 1_001
    assert len([at for at in rows.values() if at is not None]) == len(memory)


class CountedRates(LiveRates):
    """Counts how often the rate of a bucket is asked for."""

    asked = 0

    def rate(self, name: str) -> Rate | None:
        self.asked += 1
        return super().rate(name)


@pytest.mark.parametrize(("key", "looks"), [("k1", 1), ("*", 1_000), ("unused", 0)])
def test_arrived_when_rates_were_set_often_then_each_changed_bucket_is_seen_once(key: str, looks: int) -> None:
    memory = CountedRates({"default": Queue(name="default")})
    memory.of_keys = {"*": Rate(1, 100)}
    for number in range(1_000):
        memory.take(job(asked=spec(rate_key=f"k{number}")), 0)
        memory.await_token(f"{KEY_PREFIX}k{number}", 0)
    memory.asked = 0

    for _ in range(512):  # the requests of one turn
        memory.mark_changed(f"{KEY_PREFIX}{key}")

    assert memory.asked == 0
    assert memory.arrived(1) == []
    assert looks <= memory.asked <= 3 * looks
    memory.of_keys.clear()
    assert len(memory.arrived(100)) == 1_000


def test_arrived_when_a_rate_was_removed_then_only_its_jobs_go_on() -> None:
    memory = live({"k": Rate(1, 100), "other": Rate(1, 100)})
    for key in ("k", "other"):
        memory.take(job(asked=spec(rate_key=key)), 0)
        memory.await_token(f"{KEY_PREFIX}{key}", 0)

    del memory.of_keys["k"]
    memory.mark_changed(f"{KEY_PREFIX}k")

    assert (memory.arrived(1), memory.next_at) == ([f"{KEY_PREFIX}k"], 100)
    assert memory.arrived(1) == []
    assert memory.arrived(100) == [f"{KEY_PREFIX}other"]


def test_arrived_when_another_took_the_token_then_the_name_waits_for_the_next_one() -> None:
    memory = live({"k": Rate(1, 100)})
    asked, name = job(asked=spec(rate_key="k")), f"{KEY_PREFIX}k"
    memory.take(asked, 0)
    memory.await_token(name, 0)
    assert (memory.arrived(99), memory.next_at) == ([], 100)

    memory.take(asked, 100)

    assert (memory.arrived(100), memory.next_at) == ([], 200)
    assert (memory.arrived(200), memory.next_at) == ([name], None)


def test_room_when_there_are_too_many_keys_then_another_one_is_refused() -> None:
    rates = LiveRates({})
    for number in range(MOST_KEYS):
        rates.check_room(str(number))
        rates.of_keys[str(number)] = Rate(1, 1_000)

    with pytest.raises(TooManyRates, match="more than 1000 keys"):
        rates.check_room("one more")
    rates.check_room("0")


def test_rate_when_there_is_no_room_for_its_key_then_it_is_refused(client: stoker.Client) -> None:
    before = [each["key"] for each in client.call("rate.list")["rates"]]
    names = [f"crowd-{number}" for number in range(MOST_KEYS - len(before))]
    for name in names:
        client.call("rate.set", {"key": name, "rate": "1/s"})

    with pytest.raises(TooManyRates):
        client.call("rate.set", {"key": "one-more", "rate": "1/s"})
    for name in names:
        client.call("rate.remove", {"key": name})
