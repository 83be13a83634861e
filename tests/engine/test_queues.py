"""Queues: how many run at once, how many may wait, pausing, defaults, set live and in the settings file.

Owns the promises that concern one queue. Every test makes a queue of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams, QueueFull, QueueNotFound, WaitTimeout
from tests.support.facts import until
from tests.support.rpc import RawClient, request
from tests.support.work import (
    by_start,
    changes,
    end_of,
    job_view,
    running,
    shell,
    state,
    submit,
    submit_many,
    submit_running,
)

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

SETTINGS = """
[daemon]
max_running = 8
[queues.narrow]
max_running = 2
[queues.short]
max_queued = 3
[queues.careful]
class = "high"
[queues.careful.defaults]
max_attempts = 4
base_delay_ms = 5
timeout_ms = 60_000
on_orphan = "requeue"
priority = 7
"""
TRUE = shell("exit 0")


def queue(client: stoker.Client, name: str) -> dict[str, Any]:
    (row,) = [queue for queue in client.call("queue.list")["queues"] if queue["name"] == name]
    return dict(row)


def settings_of(client: stoker.Client, name: str) -> dict[str, Any]:
    """All of a queue but how far it is narrowed now, which depends on the load of this host."""
    return {key: value for key, value in queue(client, name).items() if key != "narrowed_to"}


def test_max_running_when_more_jobs_are_queued_then_only_so_many_run_at_once(client: stoker.Client, gate: Gate) -> None:
    jobs = [submit(client, gate.spec(), queue="narrow") for _ in range(5)]
    running(client, *jobs[:2])
    elsewhere = submit(client, TRUE)

    assert end_of(client, elsewhere) == ("succeeded", "exit")
    assert [state(client, job) for job in jobs] == ["running"] * 2 + ["queued"] * 3
    assert client.why(jobs[2])["code"] == "queue_full"
    assert queue(client, "narrow")["running"] == 2

    gate.open()
    assert {end["state"] for end in client.wait(*jobs)} == {"succeeded"}


def test_max_running_when_raised_live_then_waiting_jobs_start_at_once(client: stoker.Client, gate: Gate) -> None:
    client.call("queue.set", {"name": "wider", "max_running": 1})
    jobs = [submit(client, gate.spec(), queue="wider") for _ in range(3)]
    running(client, jobs[0])

    client.call("queue.set", {"name": "wider", "max_running": 3})

    running(client, *jobs)


def test_max_running_when_set_to_null_then_the_queue_is_unbounded(client: stoker.Client, gate: Gate) -> None:
    client.call("queue.set", {"name": "freed", "max_running": 0})
    job = submit(client, gate.spec(), queue="freed")
    assert client.why(job)["code"] == "queue_full"

    client.call("queue.set", {"name": "freed", "max_running": None})

    running(client, job)


@pytest.mark.parametrize(
    ("before", "change", "message"),
    [
        ({}, {"min_running": 3, "max_running": 2}, "min_running: 3 is above max_running, which is 2"),
        ({"max_running": 2}, {"min_running": 3}, "min_running: 3 is above max_running, which is 2"),
        ({"min_running": 3}, {"max_running": 2}, "max_running: 2 is below min_running, which is 3"),
        ({"min_running": 3, "max_running": 4}, {"max_running": 0}, "max_running: 0 is below min_running, which is 3"),
    ],
)
def test_queue_when_its_floor_would_be_above_its_limit_then_it_is_refused(
    client: stoker.Client, before: dict[str, int], change: dict[str, int], message: str
) -> None:
    name = f"floor-{'-'.join([*before, *change]).replace('_', '-')}"
    client.call("queue.set", {"name": name, "min_running": None, **before})
    stored = settings_of(client, name)

    with pytest.raises(InvalidParams) as refused:
        client.call("queue.set", {"name": name, **change})

    assert refused.value.message == message
    assert settings_of(client, name) == stored
    for accepted in ({"max_running": 3, "min_running": 3}, {"max_running": None}, {"min_running": None}):
        client.call("queue.set", {"name": name, **accepted})


def test_global_max_running_when_every_slot_is_taken_then_the_next_job_waits_for_one(
    client: stoker.Client, gate: Gate
) -> None:
    jobs = [submit(client, gate.spec()) for _ in range(10)]
    running(client, *jobs[:8])

    blocker = client.why(jobs[9])

    assert blocker["code"] == "slot"
    assert blocker["details"] == {"slots": 8, "ahead": 1}
    gate.open()
    assert {end["state"] for end in client.wait(*jobs)} == {"succeeded"}


def test_pause_when_jobs_are_queued_then_they_start_after_the_resume(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "stopped"})
    client.call("queue.pause", {"name": "stopped", "reason": "lunch"})
    first, second = submit(client, TRUE, queue="stopped"), submit(client, TRUE, queue="stopped")
    other = submit(client, TRUE)

    assert end_of(client, other) == ("succeeded", "exit")
    assert state(client, first) == "queued"
    assert client.why(first)["code"] == "queue_paused"
    assert queue(client, "stopped")["paused"]

    client.call("queue.resume", {"name": "stopped"})
    client.wait(first, second)
    assert by_start(client, first, second) == [first, second]


def test_pause_when_a_job_of_the_queue_runs_then_it_goes_on(client: stoker.Client, gate: Gate) -> None:
    client.call("queue.set", {"name": "going"})
    job = submit_running(client, gate.spec("exit 4"), queue="going")

    client.call("queue.pause", {"name": "going"})
    gate.open()

    (end,) = client.wait(job)
    assert end["exit_code"] == 4


def test_pause_when_the_queue_does_not_exist_then_the_error_names_those_that_do(client: stoker.Client) -> None:
    with pytest.raises(QueueNotFound, match="default"):
        client.call("queue.pause", {"name": "nowhere"})


def test_max_queued_when_the_line_is_full_then_queue_full_says_when_to_try_again(client: stoker.Client) -> None:
    client.call("queue.pause", {"name": "short"})
    jobs = [submit(client, TRUE, queue="short") for _ in range(3)]

    with pytest.raises(QueueFull) as refused:
        submit(client, TRUE, queue="short")

    assert refused.value.details["retry_after_ms"] > 0
    assert refused.value.details["queue"] == "short"
    assert str(refused.value) == "queue 'short' holds 3 jobs not yet started, its limit max_queued is 3"
    assert refused.value.hint == "stoker queue resume short"
    assert refused.value.transient
    client.call("queue.resume", {"name": "short"})
    client.wait(*jobs)
    assert end_of(client, submit(client, TRUE, queue="short")) == ("succeeded", "exit")


def test_max_queued_when_the_queue_goes_on_then_the_hint_is_to_try_again(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "slow", "max_queued": 1, "max_running": 0})
    submit(client, TRUE, queue="slow")

    with pytest.raises(QueueFull, match="holds 1 job not yet started, its limit max_queued is 1") as refused:
        submit(client, TRUE, queue="slow")

    assert refused.value.hint == "stoker queue shows who waits"


def test_max_queued_when_a_batch_has_too_many_then_each_job_has_its_own_answer(
    client: stoker.Client,
) -> None:
    client.call("queue.set", {"name": "tight", "max_queued": 2})
    client.call("queue.pause", {"name": "tight"})

    answers = submit_many(client, [{"command": "true", "queue": "tight"}] * 4)

    assert [("error" in answer) for answer in answers] == [False, False, True, True]
    assert {answer["error"]["data"]["code"] for answer in answers if "error" in answer} == {"queue_full"}


def test_max_queued_when_the_batch_is_atomic_then_nothing_of_it_is_stored(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "exact", "max_queued": 2})
    client.call("queue.pause", {"name": "exact"})

    with pytest.raises(QueueFull):
        submit_many(client, [{"command": "true", "queue": "exact"}] * 3, atomic=True)

    assert queue(client, "exact")["queued"] == 0
    assert len(submit_many(client, [{"command": "true", "queue": "exact"}] * 2, atomic=True)) == 2


def test_wait_when_a_queue_gets_room_then_it_says_for_how_many(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "room", "max_queued": 1})
    client.call("queue.pause", {"name": "room"})
    job = submit(client, TRUE, queue="room")
    with pytest.raises(WaitTimeout, match="queue 'room' has had no room for 1 job within 1ms"):
        client.call("queue.wait", {"name": "room", "timeout_ms": 1})

    client.cancel(job)

    assert client.call("queue.wait", {"name": "room"}) == {"name": "room", "places": 1}
    with pytest.raises(QueueNotFound):
        client.call("queue.wait", {"name": "nowhere"})


def test_wait_when_one_wants_many_places_then_it_is_not_passed_by_one_that_wants_few(shared: DaemonProcess) -> None:
    with shared.client() as client, RawClient(shared.socket) as many, RawClient(shared.socket) as few:
        client.call("queue.set", {"name": "fair", "max_queued": 3})
        client.call("queue.pause", {"name": "fair"})
        jobs = [submit(client, TRUE, queue="fair") for _ in range(3)]
        for waiting, places in ((many, 2), (few, 1)):
            waiting.say(request("queue.wait", 1, name="fair", places=places))
            waiting.ask("queue.list", 9)  # answered after the wait has begun

        client.cancel(jobs[0])
        with pytest.raises(WaitTimeout):
            client.call("queue.wait", {"name": "fair", "places": 2, "timeout_ms": 1})
        client.cancel(jobs[1])

        assert many.hear()["result"] == {"name": "fair", "places": 2}
        client.cancel(jobs[2])
        assert few.hear()["result"] == {"name": "fair", "places": 3}


def test_wait_when_two_wait_for_one_place_then_the_first_of_them_is_woken(shared: DaemonProcess) -> None:
    with shared.client() as client, RawClient(shared.socket) as first, RawClient(shared.socket) as second:
        client.call("queue.set", {"name": "two", "max_queued": 1})
        client.call("queue.pause", {"name": "two"})
        job = submit(client, TRUE, queue="two")
        for number, waiting in enumerate((first, second)):
            waiting.say(request("queue.wait", number, name="two"))
            waiting.ask("queue.list", 9)  # answered after the wait has begun

        client.cancel(job)

        assert first.hear() == {"jsonrpc": "2.0", "id": 0, "result": {"name": "two", "places": 1}}


def test_defaults_when_the_queue_has_some_then_they_fill_what_the_job_leaves_open(client: stoker.Client) -> None:
    filled = job_view(client, submit(client, TRUE, queue="careful"))
    explicit = job_view(client, submit(client, TRUE, queue="careful", max_attempts=1, timeout_ms=None, priority=0))

    wanted = ("max_attempts", "base_delay_ms", "timeout_ms", "on_orphan", "priority")
    assert [filled[name] for name in wanted] == [4, 5, 60_000, "requeue", 7]
    assert [explicit[name] for name in wanted] == [1, 5, None, "requeue", 0]


def test_defaults_when_set_live_then_later_jobs_have_them_and_earlier_ones_do_not(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "learning"})
    client.call("queue.pause", {"name": "learning"})
    before = submit(client, TRUE, queue="learning")

    client.call("queue.set", {"name": "learning", "defaults": {"max_attempts": 3, "nice": 5}})
    client.call("queue.set", {"name": "learning", "defaults": {"nice": 6}})
    after = submit(client, TRUE, queue="learning")

    assert job_view(client, before)["max_attempts"] == 1
    assert job_view(client, after)["max_attempts"] == 3
    assert job_view(client, after)["nice"] == 6


def test_defaults_when_one_is_out_of_range_then_it_is_named_and_no_queue_is_made(
    client: stoker.Client,
) -> None:
    with pytest.raises(InvalidParams) as refused:
        client.call("queue.set", {"name": "wrong", "defaults": {"max_attempts": 0}})

    assert refused.value.details["path"] == "defaults.max_attempts"
    assert "wrong" not in {queue["name"] for queue in client.call("queue.list")["queues"]}


def test_defaults_when_they_contradict_each_other_then_the_queue_is_left_as_it_was(client: stoker.Client) -> None:
    client.call("queue.set", {"name": "torn", "defaults": {"max_delay_ms": 10, "unresponsive_kill_ms": 60_000}})

    for defaults in ({"base_delay_ms": 20}, {"checkpoint_exit_code": 0}):
        with pytest.raises(InvalidParams) as refused:
            client.call("queue.set", {"name": "torn", "defaults": defaults})
        assert refused.value.details["path"] == f"defaults.{next(iter(defaults))}"

    assert queue(client, "torn")["defaults"] == {"max_delay_ms": 10, "unresponsive_kill_ms": 60_000}
    assert end_of(client, submit(client, shell("exit 0"), queue="torn")) == ("succeeded", "exit")


def test_class_when_changed_live_then_it_is_shown_and_recorded(shared: DaemonProcess, client: stoker.Client) -> None:
    cursor = client.status()["last_seq"]
    client.call("queue.set", {"name": "moved", "class": "low", "reason": "it is bulk work"})

    with shared.client() as watcher:
        change = next(one for one in watcher.watch(after=cursor) if one["kind"] == "queue")

    assert (change["kind"], change["subject"], change["cause"]) == ("queue", "moved", "set")
    assert queue(client, "moved")["class"] == "low"


def test_settings_when_set_live_then_a_restart_keeps_those_that_the_file_leaves_out(
    stopped_daemon: DaemonProcess,
) -> None:
    stopped_daemon.config.write_text('[queues.bulk]\nclass = "low"\n')
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        client.call("queue.set", {"name": "bulk", "class": "high", "max_running": 3})
        client.call("queue.pause", {"name": "bulk"})
        client.call("queue.set", {"name": "live", "max_queued": 5})

    stopped_daemon.restart()

    with stopped_daemon.client() as client:
        assert [queue(client, "bulk")[key] for key in ("class", "max_running", "paused")] == ["low", 3, True]
        assert queue(client, "live")["max_queued"] == 5


def test_queue_when_its_bound_is_global_then_all_queues_together_are_bounded(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.write_text("[jobs]\nmax_queued = 2\n[queues.a]\npaused = true\n[queues.b]\npaused = true\n")
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        submit(client, TRUE, queue="a")
        job = submit(client, TRUE, queue="b")
        with pytest.raises(QueueFull, match=r"hold 2 jobs not yet started, the limit \[jobs\] max_queued is 2"):
            submit(client, TRUE, queue="a")

        client.cancel(job)

        until(lambda: submit(client, TRUE, queue="a"), why="room again")
        assert changes(client, job, "cancel")


def test_log_when_a_queue_or_resource_changes_then_each_change_is_a_line(daemon: DaemonProcess) -> None:
    daemon.cli("queue", "set", "bulk", "--max-running", "2")
    daemon.cli("queue", "pause", "bulk")
    daemon.cli("queue", "resume", "bulk")
    daemon.cli("resource", "set", "gpu", "2")

    lines = [daemon.logged(name)[-1] for name in ("queue_set", "queue_paused", "queue_resumed", "resource_set")]
    assert [line.get("queue") or line.get("resource") for line in lines] == ["bulk", "bulk", "bulk", "gpu"]
    assert {line["uid"] for line in lines} == {os.getuid()}
