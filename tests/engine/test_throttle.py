"""The throttle: a busy CPU makes queues of class low wait, and nothing else.

Owns one daemon that samples quickly. The load is real: a process on every CPU that does nothing but count. Rest cannot
be had where neighbours work, so the test shows the daemon a /proc/stat that stands still.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.load import ShownProc, burning
from tests.support.work import end_of, running, shell, state, submit

if TYPE_CHECKING:
    from stoker import Client
    from tests.support.work import Gate

SETTINGS = """
[daemon]
max_running = 4
[cpu]
resume_threshold = 95
sample_ms = 100
smoothing = 1.0
[queues.urgent]
class = "high"
[queues.bulk]
class = "low"
"""
ENVIRON = {"STOKER_CPU_THROTTLE_THRESHOLD": "97"}
OK = shell("exit 0")


def test_throttle_when_the_cpu_is_busy_then_only_low_queues_wait_until_the_load_ends(
    gate: Gate, tmp_path: Path
) -> None:
    shown = ShownProc(tmp_path)
    with DaemonProcess(SETTINGS, ENVIRON, shown.programs()) as daemon, daemon.client() as client:
        goes_on = submit(client, gate.spec(), queue="bulk")
        running(client, goes_on)
        with burning():
            shown.real()
            until(lambda: client.status()["pressure"]["throttled"], why="pressure")
            low = submit(client, OK, queue="bulk")
            high, normal = submit(client, OK, queue="urgent"), submit(client, OK)

            assert end_of(client, high) == ("succeeded", "exit")
            assert end_of(client, normal) == ("succeeded", "exit")
            assert client.why(low)["code"] == "throttled"
            pressure = client.status()["pressure"]
            assert pressure["throttle_events"] >= 1
            assert pressure["levels"]["cpu"] > 0
            assert state(client, low) == "queued"

        shown.at_rest()
        assert end_of(client, low) == ("succeeded", "exit")
        gate.open()
        assert end_of(client, goes_on) == ("succeeded", "exit")
        until(lambda: not client.status()["pressure"]["throttled"], why="the end of the pressure")
        assert "cpu" in daemon.logged("queue_throttled")[0]["causes"]
        assert daemon.logged("queue_unthrottled")


def test_throttle_when_the_threshold_is_tiny_then_a_low_job_waits_as_throttled() -> None:
    environ = {"STOKER_CPU_THROTTLE_THRESHOLD": "0.01", "STOKER_CPU_RESUME_THRESHOLD": "0"}
    with DaemonProcess(SETTINGS, environ) as daemon, daemon.client() as client, burning():
        until(lambda: client.status()["pressure"]["throttled"], why="pressure")
        low, high = submit(client, OK, queue="bulk"), submit(client, OK, queue="urgent")

        assert end_of(client, high) == ("succeeded", "exit")

        assert state(client, low) == "queued"
        assert (client.why(low)["code"], client.why(low)["details"]) == ("throttled", {"causes": ["cpu"]})
        throttled = {queue["name"]: queue["throttled"] for queue in client.status()["queues"]}
        assert throttled == {"bulk": True, "urgent": False, "default": False}


def test_floor_when_the_cpu_is_busy_then_fewer_jobs_run_until_the_load_has_ended(gate: Gate, tmp_path: Path) -> None:
    shown = ShownProc(tmp_path)
    floor = f"{SETTINGS}[throttle]\nstep_ms = 1\n[queues.elastic]\nclass = 'low'\nmin_running = 1\n"
    with DaemonProcess(floor, ENVIRON, shown.programs()) as daemon, daemon.client() as client:
        goes_on = [submit(client, gate.spec(), queue="elastic") for _ in range(2)]
        running(client, *goes_on)
        with burning():
            shown.real()
            until(lambda: elastic(client)["narrowed_to"] == 1, why="the floor")
            waits = submit(client, OK, queue="elastic")

            assert client.why(waits)["code"] == "throttled"
            assert client.why(waits)["message"].startswith("queue 'elastic' runs 2 jobs; its limit is 1 while")
            assert elastic(client)["throttled"] is False
            assert [state(client, job) for job in (*goes_on, waits)] == ["running", "running", "queued"]

        shown.at_rest()
        until(lambda: elastic(client)["narrowed_to"] is None, why="its usual limit")
        assert end_of(client, waits) == ("succeeded", "exit")
        gate.open()
        client.wait(*goes_on)
        with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database:
            causes = database.execute("SELECT cause FROM changes WHERE subject = 'elastic' ORDER BY seq").fetchall()
        assert causes[:2] == [("configured",), ("narrowed",)]
        assert {*causes[2:]} == {("widened",)}  # in one step or, if another sample came between, in two
        assert daemon.logged("queue_narrowed", queue="elastic")[0]["limit"] == 1
        assert daemon.logged("queue_widened", queue="elastic")


def test_floor_when_the_host_stays_busy_then_so_many_jobs_still_run_to_their_end() -> None:
    environ = {"STOKER_CPU_THROTTLE_THRESHOLD": "0.01", "STOKER_CPU_RESUME_THRESHOLD": "0"}
    floor = f"{SETTINGS}[queues.elastic]\nclass = 'low'\nmin_running = 1\n"
    with DaemonProcess(floor, environ) as daemon, daemon.client() as client, burning():
        until(lambda: elastic(client)["narrowed_to"] == 1, why="the floor")

        jobs = [submit(client, OK, queue="elastic") for _ in range(3)]

        assert {one["state"] for one in client.wait(*jobs)} == {"succeeded"}
        assert elastic(client)["narrowed_to"] == 1


def elastic(client: Client) -> dict[str, Any]:
    """The queue with a floor, as it is now."""
    (queue,) = [one for one in client.status()["queues"] if one["name"] == "elastic"]
    return dict(queue)
