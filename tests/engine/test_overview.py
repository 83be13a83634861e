"""The answers about all jobs at once: overview, load, timeline of attempts, reports of recoveries."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams
from tests.support.facts import until
from tests.support.work import Gate, end_of, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

HOUR_MS = 3_600_000
SETTINGS = """
[cpu]
sample_ms = 1_000
"""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_overview_when_jobs_run_and_fail_then_it_shows_both_and_counts_ends(client: stoker.Client, gate: Gate) -> None:
    earlier = client.call("system.overview")["ends"]["counts"]
    failed = [submit(client, shell("exit 3")) for _ in range(3)]
    for job in (*failed, submit(client, shell("exit 0"))):
        end_of(client, job)
    running = submit_running(client, gate.spec())

    seen = client.call("system.overview", {"limit": 2})

    assert [job["id"] for job in seen["running"]] == [running]
    by_end = sorted(failed, key=lambda job: (client.get(job)["finished_at"], job))
    assert len(seen["failed"]) == 2
    assert seen["failed"][0]["finished_at"] == client.get(by_end[-1])["finished_at"]
    assert {job["state"] for job in seen["failed"]} == {"failed"}
    assert seen["ends"]["counts"]["failed"] == earlier.get("failed", 0) + 3
    assert seen["ends"]["counts"]["succeeded"] == earlier.get("succeeded", 0) + 1
    assert seen["ends"]["counted_all"]
    assert [queue["running"] for queue in seen["queues"] if queue["name"] == "default"] == [1]


def test_load_when_the_daemon_runs_then_a_sample_names_the_host_and_the_slots(client: stoker.Client) -> None:
    load = until(lambda: client.call("system.load")["samples"], why="a first sample")

    assert load[-1]["slots"] == client.status()["max_running"]
    assert load[-1]["memory_free_bytes"] > 0
    assert load[-1]["since"] <= load[-1]["until"] <= now_ms()


def timeline(client: stoker.Client, **params: Any) -> list[Any]:
    found: list[Any] = []
    page: Any = {"next": None}
    while True:
        page = client.call("attempt.list", {"limit": 1, **params, **({"before": page["next"]} if page["next"] else {})})
        found += page["attempts"]
        if page["next"] is None:
            return found


def test_timeline_when_read_page_by_page_then_each_attempt_comes_once(client: stoker.Client, gate: Gate) -> None:
    since = now_ms()
    retried = submit(client, shell("exit 3"), name="again", max_attempts=2, base_delay_ms=0)
    end_of(client, retried)
    running = submit_running(client, gate.spec(), queue="default")

    found = [one for one in timeline(client, since=since) if one["job"] in (retried, running)]

    assert [(one["job"], one["attempt"]) for one in found] == [(running, 1), (retried, 2), (retried, 1)]
    assert (found[0]["ended_at"], found[0]["outcome"], found[0]["job_state"]) == (None, None, "running")
    assert found[0]["started_at"] is not None
    assert [(one["name"], one["exit_code"], one["is_last"]) for one in found[1:]] == [
        ("again", 3, True),
        ("again", 3, False),
    ]


def test_timeline_when_nothing_ran_then_then_it_is_empty(client: stoker.Client) -> None:
    end_of(client, submit(client, shell("exit 0")))
    long_ago = now_ms() - 9 * HOUR_MS

    assert timeline(client, since=long_ago, until=long_ago + HOUR_MS) == []


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("attempt.list", {}, "since"),
    ("attempt.list", {"since": 5}, "since"),
    ("attempt.list", {"since": 1_700_000_000_000, "until": 1_600_000_000_000}, "until"),
    ("attempt.list", {"since": 1_700_000_000_000, "before": "x"}, "before"),
    ("attempt.list", {"since": 1_700_000_000_000, "before": "9999999999999999999/1.1.a"}, "before"),
    ("attempt.list", {"since": 1_700_000_000_000, "limit": 1_001}, "limit"),
    ("system.overview", {"limit": 0}, "limit"),
    ("system.overview", {"limit": 101}, "limit"),
    ("system.load", {"limit": 1}, "limit"),
    ("recovery.get", {}, "epoch"),
    ("recovery.get", {"epoch": 0}, "epoch"),
    ("recovery.get", {"epoch": 1_000_000}, "epoch"),
    ("recovery.get", {"epoch": 1, "after": -1}, "after"),
    ("recovery.list", {"before": 0}, "before"),
]


@pytest.mark.parametrize(("method", "params", "path"), WRONG, ids=[f"{one[0]} {one[1]}" for one in WRONG])
def test_methods_when_a_parameter_is_wrong_then_the_error_names_it(
    client: stoker.Client, method: str, params: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        client.call(method, params)

    assert refused.value.details["path"] == path


def test_recoveries_when_the_daemon_was_killed_then_a_report_says_what_was_found(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        jobs = [submit_running(client, gate.spec()) for _ in range(3)]
    daemon.kill_and_start()

    with daemon.client() as client:
        # The status shows it a moment before its row does.
        until(lambda: client.call("recovery.list")["recoveries"][0]["finished_at"], why="the end of the recovery")
        first = client.call("recovery.list", {"limit": 1})
        rest = client.call("recovery.list", {"before": first["next"]})
        pages = [client.call("recovery.get", {"epoch": 2, "after": after, "limit": 2}) for after in (0, 2)]

    listed = json.loads(daemon.cli("recover", "--list", "--json").stdout)
    shown = json.loads(daemon.cli("recover", "--start", "2", "--json").stdout)
    assert (listed, shown["decisions"]) == (
        first["recoveries"] + rest["recoveries"],
        pages[0]["decisions"] + pages[1]["decisions"],
    )
    assert [line.split()[0] for line in daemon.cli("recover", "--list").stdout.splitlines()] == ["START", "2", "1"]
    assert str(jobs[2]) in daemon.cli("recover", "--start", "2").stdout
    assert [one["epoch"] for one in (*first["recoveries"], *rest["recoveries"])] == [2, 1]
    assert rest["next"] is None
    assert first["recoveries"][0]["attempts"] == 3
    assert {**pages[0], "decisions": 0, "next": 0} == {**first["recoveries"][0], "decisions": 0, "next": 0}
    assert [page["next"] for page in pages] == [2, None]
    decisions = [one for page in pages for one in page["decisions"]]
    assert sorted(one["job"] for one in decisions) == jobs
    assert all(one["action"] == "stop" and one["evidence"] and one["why"] for one in decisions)
