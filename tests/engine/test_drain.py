"""Ending on purpose: SIGTERM, `system.drain`, and the running jobs.

Owns the orderly end: nothing new starts, jobs get time, then the ladder; survivors are left unless asked for.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import Draining
from tests.support.facts import until
from tests.support.work import (
    DeafWorker,
    alive,
    changes,
    end_of,
    job_view,
    lines,
    running,
    shell,
    submit,
    submit_running,
)

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

HURRIED = "[daemon]\ndrain_timeout_ms = 200\nmax_running = 2\n"
PATIENT = "[daemon]\ndrain_timeout_ms = 3_600_000\n"


@pytest.fixture
def hurried(stopped_daemon: DaemonProcess) -> DaemonProcess:
    """A daemon that gives running jobs 200 ms to end."""
    stopped_daemon.config.write_text(HURRIED)
    return stopped_daemon.start()


@pytest.fixture
def patient(stopped_daemon: DaemonProcess) -> DaemonProcess:
    """A daemon with a long drain timeout, so that a test that ends early shows that it waited for no job."""
    stopped_daemon.config.write_text(PATIENT)
    return stopped_daemon.start()


def test_drain_when_a_job_ends_in_time_then_its_end_is_kept_and_the_daemon_exits_0(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec("exit 7"))
        daemon.signal(signal.SIGTERM)
        until(lambda: client.status()["mode"] == "draining", why="the drain")

        with pytest.raises(Draining):
            submit(client, shell("exit 0"))
        assert client.why(job)["code"] == "running"
        gate.open()
        assert daemon.wait() == 0

    daemon.start()
    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "exit")
        assert job_view(client, job)["exit_code"] == 7


def test_drain_when_jobs_are_queued_then_they_stay_queued_for_the_next_start(
    hurried: DaemonProcess, gate: Gate
) -> None:
    with hurried.client() as client:
        blockers = [submit(client, gate.spec(), survive=True) for _ in range(2)]
        running(client, *blockers)
        queued = submit(client, shell("exit 0"))
    assert hurried.stop() == 0
    gate.open()

    hurried.start()

    with hurried.client() as client:
        assert end_of(client, queued) == ("succeeded", "exit")
        assert len(client.history(queued)["attempts"]) == 1


@pytest.mark.parametrize(("on_orphan", "expected"), [("fail", ("failed", "shutdown")), ("hold", ("held", "shutdown"))])
def test_drain_when_a_job_does_not_end_in_time_then_it_is_stopped_for_the_service(
    hurried: DaemonProcess, gate: Gate, on_orphan: str, expected: tuple[str, str]
) -> None:
    with hurried.client() as client:
        job = submit_running(client, gate.spec(), on_orphan=on_orphan)
        pid = job_view(client, job)["pid"]

    assert hurried.stop() == 0

    assert not alive(pid)
    hurried.start()
    with hurried.client() as client:
        assert end_of(client, job) == expected
        view = job_view(client, job)
        assert (view["failures"], view["orphanings"]) == (0, 0)


def test_drain_when_a_safe_job_is_stopped_then_the_next_start_runs_it_uncharged(
    hurried: DaemonProcess, gate: Gate
) -> None:
    with hurried.client() as client:
        job = submit_running(client, gate.spec(), on_orphan="requeue")
    assert hurried.stop() == 0
    gate.open()

    hurried.start()

    with hurried.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        view = job_view(client, job)
        assert (view["attempts"], view["failures"], view["orphanings"]) == (2, 0, 0)


def test_drain_when_jobs_run_then_the_answer_counts_those_that_it_waits_for(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        running(client, submit(client, gate.spec()), submit(client, gate.spec(), survive=True))

    drained = daemon.cli("drain")

    wait = "1 running job may go on for 1m00s; then "
    assert drained.stderr == f"stoker: draining: no job starts; {wait}the daemon exits\n"
    gate.open()
    assert daemon.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_drain_when_a_worker_is_killed_from_outside_then_its_job_has_not_failed(
    daemon: DaemonProcess, gate: Gate, signum: signal.Signals
) -> None:
    with daemon.client() as client:
        unsafe, safe = submit(client, gate.spec()), submit(client, gate.spec(), on_orphan="requeue")
        crashing = submit(client, gate.spec())
        running(client, unsafe, safe, crashing)
        daemon.signal(signal.SIGTERM)
        until(lambda: client.status()["mode"] == "draining", why="the drain")
        os.kill(job_view(client, crashing)["pid"], signal.SIGSEGV)
        for job in (unsafe, safe):
            os.kill(job_view(client, job)["pid"], signum)
        assert daemon.wait() == 0
    gate.open()

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, unsafe) == ("failed", "shutdown")
        assert end_of(client, crashing) == ("failed", "signal")
        assert end_of(client, safe) == ("succeeded", "exit")
        assert [job_view(client, job)["failures"] for job in (unsafe, safe, crashing)] == [0, 0, 1]
        assert job_view(client, safe)["orphanings"] == 0


def test_drain_when_the_worker_ignores_sigterm_then_it_is_killed_after_its_grace(
    hurried: DaemonProcess, deaf: DeafWorker
) -> None:
    with hurried.client() as client:
        deaf.submit(client, grace_ms=300)
    (pid,) = lines(deaf.pids)

    assert hurried.stop() == 0

    assert not alive(int(pid))


def test_drain_when_a_job_survives_then_it_is_left_and_found_again(hurried: DaemonProcess, gate: Gate) -> None:
    with hurried.client() as client:
        job = submit_running(client, gate.spec("exit 9"), survive=True)
        pid = job_view(client, job)["pid"]

    assert hurried.stop() == 0

    assert alive(pid)
    hurried.start()
    with hurried.client() as client:
        assert job_view(client, job)["pid"] == pid
        gate.open()
        assert end_of(client, job) == ("failed", "exit")
        assert job_view(client, job)["exit_code"] == 9


def test_drain_when_asked_to_stop_survivors_too_then_nothing_is_left_running(
    hurried: DaemonProcess, gate: Gate
) -> None:
    with hurried.client() as client:
        job = submit_running(client, gate.spec(), survive=True)
        pid = job_view(client, job)["pid"]
        client.call("system.drain", {"stop": True})

    assert hurried.wait() == 0

    assert not alive(pid)
    until(lambda: not list(hurried.processes()), why="the end of the launcher")
    hurried.start()
    with hurried.client() as client:
        assert end_of(client, job) == ("failed", "shutdown")


def test_drain_when_asked_twice_then_it_does_not_wait_for_jobs_any_longer(patient: DaemonProcess, gate: Gate) -> None:
    with patient.client() as client:
        job = submit_running(client, gate.spec())
        patient.signal(signal.SIGTERM)
        until(lambda: client.status()["mode"] == "draining", why="the drain")

    patient.signal(signal.SIGTERM)

    assert patient.wait() == 0
    patient.start()
    with patient.client() as client:
        assert end_of(client, job) == ("failed", "shutdown")


def test_drain_when_clients_wait_or_watch_then_they_are_answered_and_it_ends(
    patient: DaemonProcess, gate: Gate
) -> None:
    with patient.client() as client, patient.client() as watcher:
        job = submit_running(client, gate.spec(), survive=True)
        stream = watcher.watch(after=0)
        next(stream)

        assert patient.stop() == 0

    gate.open()
    patient.start()
    with patient.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert changes(client, job, "adopted") or client.history(job)["attempts"][0]["outcome"] == "exit"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_drain_when_nothing_runs_then_no_process_and_no_socket_are_left(
    patient: DaemonProcess, signum: signal.Signals
) -> None:
    patient.signal(signum)

    assert patient.wait() == 0

    until(lambda: not list(patient.processes()), why="the end of the launcher")
    assert not patient.socket.exists()
