"""Hostile workers: they hide, multiply, flood, stop, lie; no process of them outlives its job or harms another.

Owns the table of deeds, each ended in every way a job can end. No time is measured: other clients must get their
answers (`make bench` measures how fast). A deed counts when the worker says that it is done.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.harm import MAX_LOG_BYTES, MIB, Harm, disk_bytes, grown, tally
from tests.support.torture import launchers
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    import stoker

SETTINGS = """
[daemon]
max_running = 12
[cpu]
throttle_threshold = 100
[launcher]
stuck_ms = 2000
"""
BETWEEN_LOOKS = 32 * MIB  # how much a flood may write before the launcher reacts; depends on the speed of the machine
DEEDS = [
    "daemonise", "daemonise_bare", "daemonise_stubborn", "stubborn_child", "chain", "bomb", "stop_child", "flood",
    "flood_and_ignore", "flood_deleted", "truncate", "disguise", "close_all", "fill_argv", "litter", "submit", "hunt",
]  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS)
def test_hostile_worker_when_ended_in_any_way_then_it_is_gone_and_others_were_served(
    daemon: DaemonProcess, client: stoker.Client, deed: str
) -> None:
    assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
    before = tally(daemon)
    cancelled = Harm(daemon, client, deed, "stay")
    late = Harm(daemon, client, deed, "stay", timeout_ms=1_000)  # on a busy machine that may end it before the deed
    finished = Harm(daemon, client, deed, "finish")
    for harm in (cancelled, finished):
        harm.await_deed()
    neighbour = submit(client, shell(":"))

    assert end_of(client, neighbour) == ("succeeded", "exit")
    assert client.get(cancelled.job)["state"] == "running"
    client.cancel(cancelled.job)
    ends = [harm.end(client) for harm in (cancelled, late, finished)]

    assert ends == [("cancelled", "user"), ("failed", "timeout"), ("succeeded", "exit")]
    until(lambda: not any(harm.alive() for harm in (cancelled, late, finished)), why="the end of all of it")
    until(lambda: not grown(before, tally(daemon)), why=f"no more than {before}, not {tally(daemon)}")


@pytest.mark.parametrize("ends", ["cancel", "timeout"])
def test_worker_when_its_child_has_stopped_it_then_it_can_be_ended_anyway(daemon: DaemonProcess, ends: str) -> None:
    limit = {"timeout_ms": 1_000} if ends == "timeout" else {}
    with daemon.client() as client:
        harm = Harm(daemon, client, "stop_main", "stay", **limit)
        if ends == "cancel":
            harm.await_deed()
            client.cancel(harm.job)

        assert harm.end(client) == {"cancel": ("cancelled", "user"), "timeout": ("failed", "timeout")}[ends]
        until(lambda: not harm.alive(), why="the end of all of it")


# --- its log ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["flood", "flood_deleted"])
def test_flood_when_it_never_ends_then_disk_use_is_bounded_also_without_a_daemon(
    daemon: DaemonProcess, deed: str
) -> None:
    with daemon.client() as client:
        harm = Harm(daemon, client, deed, "stay", survive=True)
        harm.await_deed()
        log = harm.open_log()
    assert_bounded_while_it_grows(log)

    daemon.kill9()
    assert_bounded_while_it_grows(log)
    daemon.start()

    with daemon.client() as client:
        assert_bounded_while_it_grows(log)
        client.cancel(harm.job)
        assert harm.end(client) == ("cancelled", "user")
    until(lambda: not harm.alive(), why="the end of all of it")
    until(lambda: disk_bytes(log) <= MAX_LOG_BYTES, why="a bounded log")


def assert_bounded_while_it_grows(log: int) -> None:
    """While the log grows further, the blocks that it takes on the disk fall below the bound again."""
    before = os.fstat(log).st_size
    until(lambda: os.fstat(log).st_size > before + 4 * BETWEEN_LOOKS, why="a flood")
    until(lambda: disk_bytes(log) <= MAX_LOG_BYTES + BETWEEN_LOOKS, why="a hole")


# --- its launcher -------------------------------------------------------------------------------------------


def test_launcher_when_its_own_worker_kills_it_then_its_jobs_end_and_new_ones_run(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        bystander = submit(client, shell("sleep 600"))
        safe = submit(
            client,
            shell(f"[ -e {daemon.home}/second ] || {{ touch {daemon.home}/second; exec sleep 600; }}"),
            on_orphan="requeue",
        )
        until((daemon.home / "second").exists, why="the first start of the safe job")
        (first,) = launchers(daemon.state_dir)

        harm = Harm(daemon, client, "kill_launcher", "stay")

        assert harm.end(client) == ("failed", "orphaned")
        assert end_of(client, bystander) == ("failed", "orphaned")
        assert end_of(client, safe) == ("succeeded", "exit")
        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
        assert first not in launchers(daemon.state_dir)
    until(lambda: not harm.alive(), why="the end of all of it")


def test_launcher_when_its_own_worker_stops_it_then_new_jobs_run_and_status_names_it(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        harm = Harm(daemon, client, "stop_launcher", "stay")
        harm.await_deed()
        (stopped,) = launchers(daemon.state_dir).values()

        caught = submit(client, shell(":"))  # on its way to a launcher that is stopped, which is not known yet
        until(lambda: "stuck" in states_of_launchers(client), why="a stuck launcher")

        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
        assert [client.get(job)["state"] for job in (harm.job, caught)] == ["running", "running"]
        os.kill(stopped, signal.SIGCONT)
        client.cancel(harm.job)

        assert harm.end(client) == ("cancelled", "user")
        assert end_of(client, caught) == ("succeeded", "exit")
        until(lambda: len(launchers(daemon.state_dir)) == 1, why="the end of the older launcher")
    until(lambda: not harm.alive(), why="the end of all of it")


def states_of_launchers(client: stoker.Client) -> list[str]:
    return [launcher["state"] for launcher in client.call("system.status")["launchers"]]


# --- what it left -------------------------------------------------------------------------------------------


def test_daemonised_worker_when_all_was_killed_then_the_next_start_stops_it(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        harm = Harm(daemon, client, "daemonise_stubborn", "stay")
        harm.await_deed()
    daemon.kill9()
    for pid in launchers(daemon.state_dir).values():
        os.kill(pid, signal.SIGKILL)
    assert harm.alive()

    daemon.start()

    with daemon.client() as client:
        assert harm.end(client) == ("failed", "orphaned")
        assert client.status()["recovery"]["stopped"] == 1
        until(lambda: not harm.alive(), why="the end of all of it")
        assert "stopped" in daemon.cli("status").stdout
