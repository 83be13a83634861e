"""Settings that a running daemon takes up: by SIGHUP, by `stoker config reload`, and by a terminal that closes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

from tests.support.facts import until
from tests.support.work import end_of, shell, submit, submit_running

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate


def test_reload_when_settings_changed_then_live_ones_are_in_force_and_others_named(daemon: DaemonProcess) -> None:
    daemon.config.write_text(
        '[daemon]\nmax_running = 7\n[rpc]\nframe_timeout_ms = 9000\n[queues.bulk]\nclass = "low"\n'
    )

    done = daemon.cli("config", "reload")

    assert done.stdout == "changed: daemon.max_running, queues.bulk\n"
    assert "these settings need a restart of stokerd: rpc.frame_timeout_ms" in done.stderr
    with daemon.client() as client:
        status = client.call("system.status")
        submit(client, shell(":", queue="bulk"))
    assert status["max_running"] == 7
    assert [queue["class"] for queue in status["queues"] if queue["name"] == "bulk"] == ["low"]


def test_show_when_the_file_differs_then_it_shows_settings_in_force_and_differences(daemon: DaemonProcess) -> None:
    daemon.config.write_text("[daemon]\nmax_running = 7\n[rpc]\nframe_timeout_ms = 9000\n")

    before = daemon.cli("config", "show")
    daemon.cli("config", "reload")
    after = daemon.cli("config", "show")
    daemon.config.write_text("[nowhere]\n")
    wrong = daemon.cli("config", "show", "--json")

    running, _of_users = [line for line in before.stdout.splitlines() if line.startswith("max_running")]
    assert running.startswith("max_running = 0 ")
    assert running.endswith("[in force; the file differs: stoker config reload]")
    assert "\nframe_timeout_ms = 10_000 " in before.stdout
    assert (
        f"stoker: not yet in force of {daemon.config}: daemon.max_running\nhint: stoker config reload" in before.stderr
    )
    assert "\nmax_running = 7 " in after.stdout
    assert after.stderr == f"stoker: not yet in force of {daemon.config}: rpc.frame_timeout_ms\nhint: restart stokerd\n"
    assert json.loads(wrong.stdout)["daemon"]["max_running"] == 7
    assert f"{daemon.config} now has 1 mistake" in json.loads(wrong.stderr.splitlines()[0])["note"]
    daemon.stop()
    assert "no daemon uses them" in daemon.cli("config", "show").stderr


def test_reload_when_the_file_is_wrong_then_nothing_changes_and_mistakes_are_named(daemon: DaemonProcess) -> None:
    daemon.config.write_text("[daemon]\nmax_running = 7\nnonsense = 1\n[cpu]\nsmoothing = 9\n")

    done = daemon.cli("config", "reload")
    daemon.signal(signal.SIGHUP)

    assert done.returncode == 78
    (refused,) = until(lambda: daemon.events("config_refused"))
    assert len(refused["errors"]) == 2
    with daemon.client() as client:
        assert client.call("system.status")["max_running"] == 2 * len(os.sched_getaffinity(0))


def test_hangup_when_the_settings_came_through_a_pipe_then_they_stay_in_force(daemon: DaemonProcess) -> None:
    daemon.config.unlink(missing_ok=True)
    os.mkfifo(daemon.config)

    daemon.signal(signal.SIGHUP)

    (refused,) = until(lambda: daemon.events("config_refused"))
    assert refused["errors"] == ["is not a regular file, so it cannot be read a second time"]
    with daemon.client() as client:
        assert client.call("system.settings")["mistakes"] == refused["errors"]
        assert client.call("system.health")["ok"]


def test_hangup_when_jobs_run_then_the_daemon_and_they_go_on(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec())

        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.events("config_reloaded"))
        gate.open()

        assert end_of(client, job) == ("succeeded", "exit")
