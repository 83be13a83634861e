"""Background tasks of a daemon that has no descriptor left, or whose files cannot be read: no task fails unnoticed.

Owns the shortages (RLIMIT_NOFILE of the running daemon, directories in place of files, EIO of its reads) and one
scenario for each task that opens something. In each the log names the task or what it did, the daemon goes on, and the
work is done once the shortage is over; or the daemon ends with an exit status.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
from typing import TYPE_CHECKING, Any

from stoker.core.errors import EX_IOERR
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import job_of, sent_flow, workflow_view
from tests.support.torture import launchers
from tests.support.work import alive, end_of, job_view, kill9, running, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.work import Gate

SETTINGS = "[cpu]\nsample_ms = 100\n[launcher]\nstuck_ms = 1000\n"
OF_THE_EVENT_LOOP = 10  # its first descriptors, which it keeps for life
NO_DESCRIPTOR = "Too many open files"


@contextlib.contextmanager
def without_descriptors(daemon: DaemonProcess) -> Iterator[None]:
    """While this lasts the daemon can open no descriptor; it keeps those that it has."""
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (OF_THE_EVENT_LOOP, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def connected(daemon: DaemonProcess) -> Iterator[stoker.Client]:
    """A client whose connection is open before the shortage begins."""
    with daemon.client() as client:
        client.call("system.health")
        yield client


def retried(daemon: DaemonProcess, task: str) -> list[dict[str, Any]]:
    """The log lines about retries of tasks whose names begin so."""
    return [event for event in daemon.events("background_retried") if event["task"].startswith(task)]


def unheard(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """Exceptions that only the event loop or the interpreter reported."""
    return [event for event in daemon.events("library_message") if "exception" in str(event).lower()]


def orphaned(daemon: DaemonProcess, gate: Gate, **options: Any) -> tuple[int, int]:
    """A job and the pid of its worker, whose daemon and launcher were killed; the next daemon has adopted it."""
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), **options)
        worker = job_view(client, job)["pid"]
    (launcher,) = launchers(daemon.state_dir).values()
    daemon.kill9()
    kill9(launcher)
    daemon.start()
    return job, worker


def test_watch_of_an_orphan_when_no_descriptor_is_left_then_its_end_is_found_later(
    daemon: DaemonProcess, gate: Gate
) -> None:
    job, worker = orphaned(daemon, gate, survive=True, on_orphan="fail")
    with connected(daemon) as client:
        with without_descriptors(daemon):
            kill9(worker)  # the watch wakes up, and cannot search for what its worker left behind
            until(lambda: retried(daemon, f"watch of {job}."), why="a watch that failed")
            assert client.get(job)["state"] == "running"
            assert any(name.startswith("watch of") for name in client.status()["retrying"])

        assert end_of(client, job) == ("failed", "lost")
        until(lambda: client.status()["retrying"] == {}, why="the end of the shortage")
    assert NO_DESCRIPTOR in str(retried(daemon, "watch of"))
    assert unheard(daemon) == []


def test_stop_of_an_orphan_when_no_descriptor_is_left_then_it_is_stopped_later(
    daemon: DaemonProcess, gate: Gate
) -> None:
    job, worker = orphaned(daemon, gate, survive=True)
    with connected(daemon) as client:
        with without_descriptors(daemon):
            client.cancel(job)
            until(lambda: retried(daemon, f"stop of {job}."), why="a stop that failed")
            assert alive(worker)

        assert end_of(client, job)[0] == "cancelled"
    assert not alive(worker)
    assert NO_DESCRIPTOR in str(retried(daemon, "stop of"))
    assert unheard(daemon) == []


def test_stop_past_a_stuck_launcher_when_no_descriptor_is_left_then_it_comes_later(
    daemon: DaemonProcess, gate: Gate
) -> None:
    (launcher,) = launchers(daemon.state_dir).values()
    with daemon.client() as client:
        job = submit_running(client, gate.spec())
        worker = job_view(client, job)["pid"]
        os.kill(launcher, signal.SIGSTOP)
        with without_descriptors(daemon):
            client.cancel(job)
            until(lambda: retried(daemon, f"stop of {job}."), why="a sweep that failed")
            assert alive(worker)

        until(lambda: not alive(worker), why="the end of the worker")
        os.kill(launcher, signal.SIGCONT)
        assert end_of(client, job)[0] == "cancelled"
    assert unheard(daemon) == []


def test_inputs_when_no_descriptor_is_left_then_the_attempt_waits_for_them(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        first = submit_running(client, gate.spec("exit 3"))
        second = submit(client, shell('cat "$STOKER_INPUTS_FILE"'), needs=[{"job": first, "on": "any"}])
        with without_descriptors(daemon):
            client.cancel(first)
            until(lambda: daemon.events("checkpoint_failed"), why="inputs that could not be written")
            assert client.get(second)["pid"] is None

        assert end_of(client, second) == ("succeeded", "exit")
        assert f'"{first}"'.encode() in b"".join(client.logs(second))
    assert unheard(daemon) == []


def test_outputs_when_no_descriptor_is_left_then_the_end_of_the_attempt_waits(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec('echo "k=1" >> "$STOKER_OUTPUT"'))
        other = submit_running(client, shell("exec sleep 600"))
        with without_descriptors(daemon):
            gate.open()
            until(lambda: retried(daemon, f"outputs of {job}."), why="outputs that could not be read")
            client.cancel(other)
            assert end_of(client, other)[0] == "cancelled"
            assert client.get(job)["state"] == "running"

        assert end_of(client, job) == ("succeeded", "exit")
        reader = submit(client, shell('echo "$STOKER_INPUTS"'), needs=[{"job": job}])
        assert end_of(client, reader) == ("succeeded", "exit")
        assert b"".join(client.logs(reader)) == f'{{"{job}":{{"k":"1"}}}}\n'.encode()
    assert unheard(daemon) == []


def test_runs_when_launcher_dies_and_no_descriptor_is_left_then_they_are_recovered(
    daemon: DaemonProcess, gate: Gate
) -> None:
    ((name, launcher),) = launchers(daemon.state_dir).items()
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), on_orphan="requeue")
        with without_descriptors(daemon):
            kill9(launcher)
            until(lambda: retried(daemon, f"greeting of launcher {name}"), why="a greeting that failed")
            until(lambda: any("error" in event for event in daemon.events("launcher_lost")), why="no new launcher")
            assert client.get(job)["state"] == "running"

        until(lambda: client.get(job)["attempts"] == 2, why="the second attempt")
        running(client, job)
        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")
    assert unheard(daemon) == []


def test_socket_when_removed_and_no_descriptor_is_left_then_it_is_bound_later(daemon: DaemonProcess) -> None:
    with without_descriptors(daemon):
        daemon.socket.unlink()
        until(lambda: daemon.events("socket_lost"), why="a socket that could not be bound")

    until(lambda: daemon.events("socket_restored"), why="the socket")
    with daemon.client() as client:
        until(lambda: client.call("system.health")["ok"], why="the journal, too")
    assert unheard(daemon) == []


def test_reload_when_no_descriptor_is_left_then_it_is_refused_and_the_daemon_goes_on(daemon: DaemonProcess) -> None:
    with without_descriptors(daemon):
        daemon.signal(signal.SIGHUP)
        assert NO_DESCRIPTOR in str(daemon.logged("config_refused"))

    daemon.signal(signal.SIGHUP)
    assert daemon.logged("config_reloaded")
    assert unheard(daemon) == []


def test_archive_when_no_descriptor_is_left_then_the_next_start_writes_it(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": gate.spec("exit 3")})
        running(client, job_of(client, workflow, "a"))
        with without_descriptors(daemon):
            gate.open()
            until(lambda: daemon.events("archive_failed"), why="an archive that could not be written")

    daemon.restart()
    with daemon.client() as client:
        until(lambda: workflow_view(client, workflow)["archive"], why="the archive")
    assert unheard(daemon) == []


def test_duties_when_no_descriptor_is_left_then_the_others_are_done_anyway(
    daemon: DaemonProcess,
) -> None:
    with connected(daemon) as client:
        with without_descriptors(daemon):
            until(lambda: retried(daemon, "sample of the host"), why="a sample that failed")
            shutil.move(daemon.state_dir, daemon.home / "away")
            until(lambda: daemon.events("state_lost"), why="a duty that opens nothing")
            shutil.move(daemon.home / "away", daemon.state_dir)
            until(lambda: daemon.events("state_back"), why="the duty again")
            assert "sample of the host" in client.status()["retrying"]

        until(lambda: client.status()["retrying"] == {}, why="a sample")
        until(lambda: client.call("system.health")["ok"], why="the journal, too")
    assert unheard(daemon) == []


def test_note_of_the_state_when_no_descriptor_is_left_then_it_is_written_later(daemon: DaemonProcess) -> None:
    note = daemon.state_dir / "state.json"
    with connected(daemon) as client:
        with without_descriptors(daemon):
            before = note.read_bytes() if note.exists() else b""
            submit(client, shell(":"))
            until(lambda: daemon.events("state_not_noted"), why="a note that could not be written")

        until(lambda: note.exists() and note.read_bytes() != before, why="the note")
        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
    assert unheard(daemon) == []


def test_note_of_the_state_when_a_directory_is_in_its_place_then_the_daemon_ends(daemon: DaemonProcess) -> None:
    (daemon.state_dir / "state.new").mkdir()
    with daemon.client() as client:
        submit(client, shell(":"))

    assert daemon.wait() == EX_IOERR
    assert [event["task"] for event in daemon.events("background_failed")] == ["state.json"]


def test_end_of_recovery_when_a_file_cannot_be_removed_then_it_is_tried_again(
    daemon: DaemonProcess, gate: Gate
) -> None:
    ((name, launcher),) = launchers(daemon.state_dir).items()
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), on_orphan="requeue")
    daemon.kill9()
    kill9(launcher)
    remains = (daemon.state_dir / "launchers" / name).with_suffix(".sock")
    remains.unlink()
    remains.mkdir()

    daemon.start()

    until(lambda: retried(daemon, "end of the recovery"), why="remains that could not be removed")
    with daemon.client() as client:
        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")
        remains.rmdir()
        until(lambda: client.status()["retrying"] == {}, why="the end of the recovery")
    assert len(daemon.logged("recovery_finished", 2)) == 2
    assert unheard(daemon) == []


def test_drain_when_no_descriptor_is_left_then_the_daemon_ends_with_a_status(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), survive=True)
        with without_descriptors(daemon):
            daemon.signal(signal.SIGTERM)
            until(lambda: daemon.events("daemon_draining"), why="a drain")
            gate.open()
            status = daemon.wait()

    assert status == 0
    assert unheard(daemon) == []
    daemon.start()
    with daemon.client() as client:
        assert end_of(client, job)[0] == "succeeded"
