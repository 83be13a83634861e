"""The throttle: a busy CPU makes queues of class low wait, and nothing else.

Owns one daemon that samples quickly. The load is real: a process on every CPU that does nothing but count.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import end_of, shell, state, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.work import Gate

# Bursts of neighbours must neither keep it throttled for long nor throttle it before the load begins.
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


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """Every CPU is busy."""
    count = "while True: pass"
    burners = [subprocess.Popen([sys.executable, "-I", "-S", "-c", count]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_throttle_when_the_cpu_is_busy_then_only_low_queues_wait_until_the_load_ends(
    gate: Gate,
) -> None:
    with DaemonProcess(SETTINGS, ENVIRON) as daemon, daemon.client() as client:
        goes_on = submit(client, gate.spec(), queue="bulk")
        until(lambda: client.get(goes_on)["pid"], why="a moment in which the neighbours are quiet")
        with burning():
            until(lambda: client.status()["pressure"]["throttled"], why="pressure")
            low = submit(client, OK, queue="bulk")
            high, normal = submit(client, OK, queue="urgent"), submit(client, OK)

            assert end_of(client, high) == ("succeeded", "exit")
            assert end_of(client, normal) == ("succeeded", "exit")
            assert until(lambda: client.why(low)["code"] == "throttled" or state(client, low) != "queued")
            pressure = client.status()["pressure"]
            assert pressure["throttle_events"] >= 1
            assert pressure["levels"]["cpu"] > 0

        assert end_of(client, low) == ("succeeded", "exit")
        gate.open()
        assert end_of(client, goes_on) == ("succeeded", "exit")
        until(lambda: not client.status()["pressure"]["throttled"], why="the end of the pressure")
        assert daemon.events("queue_throttled")
        assert daemon.events("queue_unthrottled")
        assert "cpu" in daemon.events("queue_throttled")[0]["causes"]


def test_throttle_when_the_threshold_is_tiny_then_a_low_job_waits_and_why_says_so() -> None:
    environ = {"STOKER_CPU_THROTTLE_THRESHOLD": "0.01", "STOKER_CPU_RESUME_THRESHOLD": "0"}
    with DaemonProcess(SETTINGS, environ) as daemon, daemon.client() as client, burning():
        until(lambda: client.status()["pressure"]["throttled"], why="pressure")
        low, high = submit(client, OK, queue="bulk"), submit(client, OK, queue="urgent")

        assert end_of(client, high) == ("succeeded", "exit")

        assert state(client, low) == "queued"
        assert (client.why(low)["code"], client.why(low)["details"]) == ("throttled", {"causes": ["cpu"]})
        throttled = {queue["name"]: queue["throttled"] for queue in client.status()["queues"]}
        assert throttled == {"bulk": True, "urgent": False, "default": False}
