"""Schedules: their jobs and workflows are submitted at their times, once for each slot, also through kills.

Owns the promises of a running daemon. The times themselves are in tests/core/schedule.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.errors import (
    FlowInvalid,
    InvalidParams,
    JobNotFound,
    QueueNotFound,
    ScheduleExists,
    ScheduleNotFound,
    StokerError,
    TooManySchedules,
    WorkflowNotFound,
)
from stoker.core.schedule.request import ScheduleParams, schedule_of
from stoker.engine.memory.schedules import MOST_SCHEDULES, MOST_TEMPLATES, LiveSchedules
from tests.support.daemon import DaemonProcess
from tests.support.facts import scales, until
from tests.support.rpc import RawClient, request
from tests.support.work import changes, end_of, job_view, shell, state, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.work import Gate

HOUR_MS = 3_600_000
TRUE = shell("exit 0")
FLOW = {"name": "nightly", "steps": {"a": shell("exit 0"), "b": {**shell("exit 0"), "needs": ["a"]}}}


def add(client: stoker.Client, name: str, timing: str = "every 1s", **fields: Any) -> dict[str, Any]:
    template = {} if "flow" in fields else {"job": TRUE}
    return dict(client.call("schedule.add", {"name": name, "timing": timing, **template, **fields}))


def runs(client: stoker.Client, name: str) -> list[dict[str, Any]]:
    return [dict(run) for run in client.call("schedule.get", {"name": name})["runs"]]


def until_more(client: stoker.Client, name: str, count: int) -> None:
    until(lambda: len(runs(client, name)) > count)


def until_wall(at_s: float) -> None:
    until(lambda: time.time() > at_s, why="slots pass without a daemon")


def log_of(client: stoker.Client, name: str, cause: str) -> list[Any]:
    """The changes of a schedule with this cause."""
    feed = client.watch(after=0)
    last = client.status()["last_seq"]
    seen = []
    for change in feed:
        if change["kind"] == "schedule" and change["subject"] == name and change["cause"] == cause:
            seen.append(change)
        if change["seq"] >= last:
            break
    return seen


def test_job_when_its_slot_comes_then_it_is_submitted_for_that_time(client: stoker.Client, tmp_path: object) -> None:
    out = f"{tmp_path}/out"
    add(client, "soon", job=shell(f'echo "$STOKER_SCHEDULE $STOKER_SCHEDULED_FOR" >> {out}'))

    (*_, first) = until(lambda: runs(client, "soon"))

    assert end_of(client, first["job"]) == ("succeeded", "exit")
    view = job_view(client, first["job"])
    with open(out) as file:  # noqa: PTH123 - a path of the worker
        assert f"soon {first['scheduled_for']}\n" in file.readlines()
    assert (view["schedule"], (view["scheduled_for"] or 1) % 1_000) == ("soon", 0)
    assert changes(client, first["job"])[0]["note"] == "schedule soon"
    assert f"by schedule soon for {first['scheduled_for']}" in client.why(first["job"])["message"]
    client.call("schedule.remove", {"name": "soon"})


def test_workflow_when_its_slot_comes_then_all_its_steps_have_the_time(client: stoker.Client) -> None:
    add(client, "flowing", flow=FLOW)

    (*_, first) = until(lambda: runs(client, "flowing"))

    steps = client.workflow(first["workflow"])["steps"]
    jobs = [job_view(client, step["job"]) for step in steps]
    assert [job["schedule"] for job in jobs] == ["flowing", "flowing"]
    assert until(lambda: client.workflow(first["workflow"])["state"] == "succeeded")
    client.call("schedule.remove", {"name": "flowing"})


def test_slot_when_the_run_before_has_not_ended_then_it_is_skipped(client: stoker.Client, gate: Gate) -> None:
    add(client, "skipping", job=gate.spec())

    until(lambda: log_of(client, "skipping", "skipped"))

    assert len(runs(client, "skipping")) == 1
    client.call("schedule.remove", {"name": "skipping"})


def test_slot_when_the_run_before_goes_on_and_overlap_is_queue_then_it_waits(client: stoker.Client, gate: Gate) -> None:
    add(client, "queueing", job=gate.spec(), overlap="queue")
    until(lambda: len(runs(client, "queueing")) > 1)
    client.call("schedule.pause", {"name": "queueing"})
    second, first = runs(client, "queueing")[-2:]

    assert state(client, second["job"]) == "waiting"
    assert f"job {first['job']}" in str(client.why(second["job"]))

    gate.open()
    assert end_of(client, second["job"]) == ("succeeded", "exit")
    client.call("schedule.remove", {"name": "queueing"})


def test_slot_when_overlap_is_supersede_then_the_run_before_it_is_stopped(client: stoker.Client, gate: Gate) -> None:
    add(client, "newest-only", job=gate.spec(), overlap="supersede")

    until(lambda: "superseded" in [run["state"] for run in runs(client, "newest-only")])

    client.call("schedule.remove", {"name": "newest-only"})


def test_slot_when_overlap_is_allow_then_runs_go_on_beside_each_other(client: stoker.Client, gate: Gate) -> None:
    add(client, "allowing", job=gate.spec(), overlap="allow")

    until(lambda: [run["state"] for run in runs(client, "allowing")].count("running") > 1)

    client.call("schedule.remove", {"name": "allowing"})


def test_schedule_when_it_is_paused_then_its_slots_are_skipped_for_good(client: stoker.Client) -> None:
    add(client, "resting", paused=True, misfire="all", catch_up_ms=HOUR_MS // 6)
    add(client, "beside")
    until(lambda: len(runs(client, "beside")) > 1)
    assert runs(client, "resting") == []

    resumed = client.call("schedule.resume", {"name": "resting"})

    (*_, first) = until(lambda: runs(client, "resting"))
    assert (job_view(client, first["job"])["scheduled_for"] or 0) >= resumed["next_slot"]
    for name in ("resting", "beside"):
        client.call("schedule.remove", {"name": name})


def test_run_when_it_is_asked_for_now_then_a_job_is_submitted_whatever_the_times(client: stoker.Client) -> None:
    add(client, "yearly", "@yearly", paused=True)

    answer = client.call("schedule.run", {"name": "yearly"})

    assert end_of(client, answer["job"]) == ("succeeded", "exit")
    assert [run["job"] for run in runs(client, "yearly")] == [answer["job"]]


def test_run_when_the_template_is_a_workflow_then_it_is_submitted(client: stoker.Client) -> None:
    add(client, "yearly-flow", "@yearly", flow=FLOW)

    answer = client.call("schedule.run", {"name": "yearly-flow"})

    assert until(lambda: client.workflow(answer["workflow"])["state"] == "succeeded")


def test_slot_when_its_job_is_refused_then_both_logs_say_why(shared: DaemonProcess, client: stoker.Client) -> None:
    client.call("queue.set", {"name": "tiny", "max_queued": 0})
    with pytest.raises(StokerError):
        submit(client, TRUE, queue="tiny")
    add(client, "refused", job={**TRUE, "queue": "tiny"})

    (change, *_) = until(lambda: log_of(client, "refused", "refused"))

    assert change["actor_uid"] is None
    (line, *_) = shared.logged("schedule_refused", schedule="refused")
    assert line["error"] == change["note"]
    assert "max_queued" in line["error"]
    client.call("schedule.remove", {"name": "refused"})


def test_slot_when_its_time_zone_has_gone_then_only_its_schedule_is_paused(tmp_path: Path) -> None:
    """An update of the host may remove zones. (In Debian, US/Pacific is in a package of its own since 2023.)"""
    zone = tmp_path / "Own" / "Zone"
    zone.parent.mkdir()
    zone.write_bytes(files("tzdata.zoneinfo.Europe").joinpath("Berlin").read_bytes())
    with DaemonProcess(environ={"PYTHONTZPATH": str(tmp_path)}) as daemon:
        for in_ms in scales(4_000):
            slot, name = datetime.now(UTC) + timedelta(milliseconds=in_ms), f"gone{in_ms}"
            with daemon.client() as client:
                add(client, name, f"at {slot.isoformat()}", zone="Own/Zone")
                add(client, "other", replace=True)
            daemon.stop()
            if datetime.now(UTC) < slot:
                break
            daemon.start()
        zone.unlink()
        daemon.start()
        with daemon.client() as client:
            until(lambda: log_of(client, name, "paused"))
            until_more(client, "other", len(runs(client, "other")))
            gone = client.call("schedule.get", {"name": name})
            with pytest.raises(InvalidParams, match="there is no time zone 'Own/Zone'"):
                client.call("schedule.resume", {"name": name})

    assert (gone["paused"], gone["runs"]) == (True, [])


def test_run_when_many_are_asked_for_at_once_then_each_waits_for_the_one_before(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    add(client, "crowd", "@yearly", overlap="queue", job=gate.spec())

    def ask(_number: int) -> list[int]:
        with shared.client() as own:
            return [own.call("schedule.run", {"name": "crowd"})["job"] for _ in range(10)]

    with ThreadPoolExecutor(8) as threads:
        jobs = sorted({job for asked in threads.map(ask, range(8)) for job in asked})

    assert len(jobs) == 80
    assert {state(client, job) for job in jobs[1:]} == {"waiting"}
    for job in reversed(jobs):
        client.cancel(job)


@pytest.mark.parametrize("template", [{"job": TRUE}, {"flow": FLOW}], ids=["job", "flow"])
def test_run_when_two_are_asked_for_in_one_turn_then_both_are_submitted(
    shared: DaemonProcess, client: stoker.Client, template: dict[str, Any]
) -> None:
    add(client, "pair", "@yearly", overlap="allow", **template)

    with RawClient(shared.socket) as raw:
        raw.say(b"".join(request("schedule.run", number, name="pair") for number in range(20)))
        answers = [raw.hear()["result"] for _ in range(20)]

    assert len({answer["job"] for answer in answers}) == 20
    assert len(runs(client, "pair")) == 10
    assert all(run["scheduled_for"].endswith("Z") for run in runs(client, "pair"))
    client.call("schedule.remove", {"name": "pair"})


def test_slot_when_its_schedule_was_removed_and_added_then_the_run_before_counts(
    client: stoker.Client, gate: Gate
) -> None:
    add(client, "again", job=gate.spec())
    first = until(lambda: runs(client, "again"))[0]["job"]
    client.call("schedule.remove", {"name": "again"})

    added = add(client, "again", job=gate.spec())

    assert (added["last_job"], added["last_slot"] % 1_000) == (first, 0)
    assert until(lambda: log_of(client, "again", "skipped"))
    assert [run["job"] for run in runs(client, "again")] == [first]
    client.call("schedule.remove", {"name": "again"})


def test_job_when_its_template_waits_for_ends_and_events_then_each_run_does(client: stoker.Client) -> None:
    ended = submit(client, TRUE)
    assert end_of(client, ended)[0] == "succeeded"
    client.call("event.emit", {"name": "scheduled", "keep_ms": HOUR_MS})
    conditions = {"all": [f"job:{ended}", "event:scheduled"]}
    add(client, "patient", "@yearly", job={**TRUE, "wait_for": conditions})
    add(client, "patient-flow", "@yearly", flow={"name": "f", "steps": {"a": {**TRUE, "wait_for": conditions}}})

    job = client.call("schedule.run", {"name": "patient"})["job"]
    step = client.call("schedule.run", {"name": "patient-flow"})["job"]

    assert [end_of(client, each)[0] for each in (job, step)] == ["succeeded", "succeeded"]


def test_room_when_the_templates_are_too_long_together_then_a_schedule_is_refused() -> None:
    memory = LiveSchedules()
    long = schedule_of(ScheduleParams(name="0", timing="@daily", flow={"name": "x" * (1 << 20)}), 0, 0)
    for number in range(MOST_TEMPLATES >> 20):
        memory.set(replace(long, name=str(number % 63)))
    short = replace(long, flow="{}")
    memory.check_room(replace(long, name="1"))
    memory.check_room(replace(short, name="one more"))

    with pytest.raises(TooManySchedules, match="64 MiB"):
        memory.check_room(replace(long, name="one more"))

    memory.remove("1")
    memory.check_room(replace(long, name="one more"))


def test_reused_runs_when_schedules_change_then_they_are_those_named_now() -> None:
    memory = LiveSchedules()
    first = schedule_of(ScheduleParams(name="first", timing="@daily", flow={}, reuse=7), 0, 0)
    for schedule in (first, replace(first, name="second"), replace(first, name="newest", part=None)):
        memory.set(schedule)
    memory.set(replace(first, next_slot=1))
    assert memory.reused() == {7}

    memory.set(replace(first, part='{"reuse":8}'))
    assert memory.reused() == {7, 8}

    memory.remove("second")
    memory.set(replace(first, part='{"reuse":"latest"}'))
    assert memory.reused() == set()


def test_room_when_there_are_too_many_schedules_then_another_one_is_refused() -> None:
    memory = LiveSchedules()
    some = schedule_of(ScheduleParams(name="0", timing="@daily", flow={}), 0, 0)
    for number in range(MOST_SCHEDULES):
        memory.check_room(replace(some, name=str(number)))
        memory.set(replace(some, name=str(number)))

    with pytest.raises(TooManySchedules, match="20000 schedules"):
        memory.check_room(replace(some, name="one more"))
    memory.check_room(some)


def test_name_when_a_schedule_has_it_then_only_replace_takes_its_place(client: stoker.Client) -> None:
    add(client, "taken", "@daily")
    with pytest.raises(ScheduleExists):
        add(client, "taken", "@hourly")

    assert add(client, "taken", "@hourly", replace=True)["timing"] == "@hourly"

    client.call("schedule.remove", {"name": "taken"})
    with pytest.raises(ScheduleNotFound):
        client.call("schedule.get", {"name": "taken"})


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"timing": "0 0 31 2 *"}, InvalidParams, "never comes"),
        ({"timing": "0 0 */29 2 MON#5"}, InvalidParams, "never comes"),
        ({"timing": "nonsense"}, InvalidParams, "five fields"),
        ({"timing": "every 0s"}, InvalidParams, "a period is"),
        ({"timing": "at 2001-01-01T00:00"}, InvalidParams, "has passed"),
        ({"timing": "@reboot"}, InvalidParams, "start of the host"),
        ({"zone": "Mars/Phobos"}, InvalidParams, "no time zone 'Mars/Phobos'"),
        ({"timing": "* * * * *", "misfire": "all", "catch_up_ms": 366 * 24 * HOUR_MS}, InvalidParams, "more than 1000"),
        ({"timing": "* * * * *", "jitter_ms": 60_000}, InvalidParams, "jitter_ms"),
        ({"overlap": "supersede", "flow": FLOW}, InvalidParams, "is for jobs"),
        ({"overlap": "queue", "flow": FLOW}, InvalidParams, "is for jobs"),
        ({"flow": FLOW, "job": TRUE}, InvalidParams, "a job or a flow"),
        ({"flow": {"name": "x", "steps": {"a": {"command": "/nowhere"}}}}, FlowInvalid, "nowhere"),
        ({"job": {"command": "/nowhere"}}, InvalidParams, "job.command"),
        ({"job": {**TRUE, "queue": "nowhere"}}, QueueNotFound, "job.queue"),
        ({"job": {**TRUE, "run_at": 1_900_000_000_000}}, InvalidParams, "job.run_at"),
        ({"job": {**TRUE, "needs": [1]}}, InvalidParams, "needs"),
        ({"job": {**TRUE, "wait_for": "job:99999"}}, JobNotFound, "job.wait_for: there is no job 99999"),
        ({"job": {**TRUE, "wait_for": "workflow:99999"}}, WorkflowNotFound, "there is no workflow 99999"),
    ],
    ids=str,
)
def test_schedule_when_it_is_wrong_then_it_is_refused_by_name(
    client: stoker.Client, fields: dict[str, Any], error: type[StokerError], words: str
) -> None:
    with pytest.raises(error, match=words):
        add(client, "wrong", **{"timing": "@daily", **fields})

    with pytest.raises(ScheduleNotFound):
        client.call("schedule.get", {"name": "wrong"})


def test_next_when_slots_are_asked_for_then_they_are_those_of_the_zone(client: stoker.Client) -> None:
    add(client, "zoned", "30 2 * * *", zone="Asia/Tokyo", jitter_ms=60_000)

    slots = client.call("schedule.next", {"name": "zoned", "count": 3})["slots"]

    assert [slot["slot"] % (24 * HOUR_MS) for slot in slots] == [17 * HOUR_MS + HOUR_MS // 2] * 3
    assert all(0 <= slot["submitted_at"] - slot["slot"] <= 60_000 for slot in slots)


def test_list_when_there_are_more_than_a_page_then_the_next_page_goes_on(client: stoker.Client) -> None:
    for name in ("page-a", "page-b", "page-c"):
        add(client, name, "@daily")

    first = client.call("schedule.list", {"limit": 1, "after": "page-"})
    second = client.call("schedule.list", {"limit": 2, "after": first["next"]})

    names = [each["name"] for page in (first, second) for each in page["schedules"]]
    assert names == ["page-a", "page-b", "page-c"]


def test_slots_when_the_daemon_is_killed_again_and_again_then_each_runs_once(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        add(client, "steady", misfire="all", overlap="allow", catch_up_ms=HOUR_MS // 6)
        until(lambda: runs(client, "steady"))
    for _ in range(4):
        daemon.kill9()
        until_wall(time.time() + 1.5)
        daemon.start()
        with daemon.client() as client:
            until_more(client, "steady", min(len(runs(client, "steady")), 9))

    with daemon.client() as client:
        client.call("schedule.pause", {"name": "steady"})
        slots = sorted(job["scheduled_for"] or 0 for job in client.list(limit=1000)["jobs"])

    assert slots == list(range(slots[0], slots[-1] + 1_000, 1_000))


def test_slots_when_the_daemon_was_down_and_misfire_is_latest_then_one_is_run(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        add(client, "newest", "every 2s", overlap="allow")
        until(lambda: runs(client, "newest"))
    daemon.kill9()
    until_wall(time.time() + 6)
    daemon.start()
    with daemon.client() as client:
        until(lambda: log_of(client, "newest", "missed"))

    assert daemon.logged("schedule_missed", schedule="newest")


def test_slot_when_it_waits_and_its_schedule_is_replaced_then_it_is_kept_or_named(
    stopped_daemon: DaemonProcess,
) -> None:
    """A disk without room keeps slots from being submitted, as a jitter does."""
    stopped_daemon.config.write_text("[disk]\nmin_free_bytes = 1_000_000_000_000\n")
    with stopped_daemon.start().client() as client:
        slot = add(client, "s")["next_slot"]
        until_wall(slot / 1_000)

        assert add(client, "s", replace=True, jitter_ms=500)["next_slot"] == slot
        assert log_of(client, "s", "skipped") == []
        assert add(client, "s", "@yearly", replace=True)["next_slot"] > slot
        ((payload,),) = stopped_daemon.rows("SELECT payload FROM changes WHERE kind = 'schedule' AND cause = 'skipped'")

    why = "the schedule was replaced before its run was submitted"
    assert json.loads(payload) == {"slot": slot, "note": why}


def test_watcher_when_a_schedule_changes_then_it_gets_the_change(client: stoker.Client) -> None:
    add(client, "watched", "@daily")
    change = next(client.watch(after=client.status()["last_seq"] - 1))

    assert (change["kind"], change["subject"], change["cause"]) == ("schedule", "watched", "set")
