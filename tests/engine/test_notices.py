"""Reports of workers are shown, invalid ones are counted, and silence leads to a warning and then a stop.

The words are sent by `systemd-notify` where the host has it, and by plain sockets everywhere.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import scales, until
from tests.support.work import alive, end_of, job_view, lines, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Mapping

    import stoker
    from tests.support.work import Gate

SYSTEMD_NOTIFY = shutil.which("systemd-notify")

# Says each of its arguments (as Latin-1), then waits for the gate.
SPEAK = """
import os, socket, sys
def say(words, to=os.environ["NOTIFY_SOCKET"]):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(words, "\\0" + to[1:] if to[0] == "@" else to)
for words in sys.argv[2:]:
    say(words.encode("latin-1"))
open(sys.argv[1]).read(1)
"""


def speaker(gate: Gate, *words: str, **options: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-c", SPEAK, str(gate.path), *words], "notify": True, **options}


def beating(beats: Path, every_s: float = 0.05) -> str:
    """A script that sends heartbeats as long as a file exists."""
    say = "import os, socket, sys, time\n"
    say += "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    say += "while True:\n"
    say += f"    if os.path.exists({str(beats)!r}):\n"
    say += "        try: s.sendto(b'WATCHDOG=1', os.environ['NOTIFY_SOCKET'])\n"
    say += "        except OSError: pass\n"
    return say + f"    time.sleep({every_s})\n"


def beater(beats: Path, **options: Any) -> dict[str, Any]:
    beats.touch()
    asked = {"heartbeat_ms": 50, "unresponsive_warn_ms": 300, "unresponsive_kill_ms": 3_000, "grace_ms": 200}
    return {"command": sys.executable, "args": ["-c", beating(beats)], **asked, **options}


def reported(client: stoker.Client, job: int, field: str, value: object) -> dict[str, Any]:
    """The job, once its worker has reported that value."""
    until(lambda: job_view(client, job)[field] == value, why=f"{field} = {value!r}")
    view: dict[str, Any] = dict(job_view(client, job))
    return view


# --- the text of a notice ---


def test_notice_when_a_worker_reports_then_ls_show_and_top_show_it(shared: DaemonProcess, gate: Gate) -> None:
    with shared.client() as client:
        job = submit(client, speaker(gate, "READY=1", "X_STOKER_PROGRESS=42\nSTATUS=half \x1b[31mway"))
        view = reported(client, job, "progress", 42)
        (listed,) = [each for each in client.call("job.list", {"states": ["running"]})["jobs"] if each["id"] == job]

        assert (view["status_text"], listed["progress"]) == ("half \x1b[31mway", 42)
        for command in (["ls"], ["show", str(job)], ["top"]):
            shown = shared.cli(*command).stdout
            assert "42%, half" in shown, command
            assert "\x1b[31m" not in shown

        gate.open()
        assert end_of(client, job)[0] == "succeeded"
        assert job_view(client, job)["progress"] is None
    assert not list((shared.state_dir / "work").glob("*.notify"))


@pytest.mark.skipif(SYSTEMD_NOTIFY is None, reason="no systemd-notify here")
def test_notice_when_systemd_notify_sends_it_then_it_is_heard_and_the_program_ends(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = (
        f"{SYSTEMD_NOTIFY} --status='real words' X_STOKER_PROGRESS=7; echo $? >> {out}; "
        f"{SYSTEMD_NOTIFY} WATCHDOG=1; echo $? >> {out}; read _ < {gate.path}"
    )

    job = submit(client, shell(script, notify=True))

    view = reported(client, job, "status_text", "real words")
    until(lambda: job_view(client, job)["last_heartbeat"], why="a sign of life")
    assert view["progress"] == 7
    until(lambda: lines(out) == ["0", "0"], why="both to be over, well before any limit of theirs")


def test_notice_when_it_is_hostile_then_it_is_counted_and_the_next_one_is_heard(
    client: stoker.Client, gate: Gate
) -> None:
    bad = ["no assignment", "STATUS=" + "x" * 5_000, "X_STOKER_PROGRESS=400", "STATUS=\xff", "=", "\n"]

    job = submit(client, speaker(gate, "STATUS=before", *bad, "X_STOKER_PROGRESS=1"))

    view = reported(client, job, "progress", 1)
    assert (view["status_text"], view["notices_ignored"]) == ("before", len(bad))


def test_notice_when_it_comes_from_outside_of_the_tree_then_it_is_ignored(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    job = submit(client, speaker(gate, "STATUS=mine"))
    reported(client, job, "status_text", "mine")
    (name,) = (shared.state_dir / "work").glob(f"{job}.*.notify")
    assert name.stat().st_mode & 0o777 == 0o600

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"STATUS=not mine", str(name))

    until(lambda: job_view(client, job)["notices_ignored"] == 1, why="the stranger to be counted")
    assert job_view(client, job)["status_text"] == "mine"


def test_notice_when_it_was_not_asked_for_then_there_is_no_socket(client: stoker.Client, tmp_path: Path) -> None:
    out = tmp_path / "out"

    job = submit(client, shell(f'echo "${{NOTIFY_SOCKET-none}} ${{WATCHDOG_USEC-none}}" > {out}'))

    assert end_of(client, job)[0] == "succeeded"
    assert lines(out) == ["none none"]


def test_notice_when_the_state_directory_is_long_then_the_address_is_abstract(gate: Gate) -> None:
    daemon = DaemonProcess()
    daemon.state_dir = daemon.home / ("long" * 30)
    with daemon, daemon.client() as client:
        job = submit(client, speaker(gate, "STATUS=from afar"))

        reported(client, job, "status_text", "from afar")


# --- silence ------------------------------------------------------------------------------------------------


def test_heartbeat_when_it_comes_then_the_worker_is_left_alone_whatever_the_limits(
    client: stoker.Client, tmp_path: Path
) -> None:
    """Heartbeats may be rare on a busy machine, so the limits grow until the worker is left alone."""
    for kill_ms in scales(800):
        limits = {"unresponsive_warn_ms": kill_ms // 2, "unresponsive_kill_ms": kill_ms}
        job = submit(client, beater(tmp_path / "beats", **limits))
        until(lambda: far_beyond(job_view(client, job), kill_ms), why="life far beyond the limit, or its end")  # noqa: B023
        left_alone = (job_view(client, job)["state"], job_view(client, job)["unresponsive"]) == ("running", False)
        if left_alone:
            client.call("job.cancel", {"id": job})
            break

    assert left_alone


def far_beyond(job: Mapping[str, Any], limit_ms: int) -> bool:
    heard = job["last_heartbeat"] or 0
    return heard > job["created_at"] + 3 * limit_ms or job["finished_at"] is not None


def test_heartbeat_when_the_worker_is_stopped_then_it_is_warned_killed_and_retried(
    shared: DaemonProcess, client: stoker.Client, tmp_path: Path
) -> None:
    job = submit(client, beater(tmp_path / "beats", unresponsive_kill_ms=2_000, max_attempts=2, base_delay_ms=1))
    pids: list[int] = []

    def beating_anew() -> int | None:
        """The pid of a worker that the test has not stopped yet, once it has sent a heartbeat."""
        view = job_view(client, job)
        return view["pid"] if view["last_heartbeat"] and view["pid"] not in pids else None

    for _ in range(2):
        pid = until(beating_anew, why="a sign of life")
        assert pid is not None
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: not alive(pid), why="the stop")  # type: ignore[misc]

    assert end_of(client, job) == ("failed", "unresponsive")

    attempts = client.history(job)["attempts"]
    assert [attempt["stop_reason"] for attempt in attempts] == ["unresponsive", "unresponsive"]
    assert job_view(client, job)["failures"] == 2
    warnings = shared.logged("worker_unresponsive", 2, job=job)
    assert {event["level"] for event in warnings} == {"warning"}
    assert len([event for event in warnings if event.get("silent_ms", 0) >= 300]) >= 2


def test_heartbeat_when_it_comes_again_after_the_warning_then_nothing_was_wrong(
    client: stoker.Client, tmp_path: Path
) -> None:
    beats = tmp_path / "beats"
    job = submit(client, beater(beats, unresponsive_kill_ms=60_000))
    until(lambda: job_view(client, job)["last_heartbeat"], why="a sign of life")
    beats.unlink()
    reported(client, job, "unresponsive", value=True)
    assert client.why(job)["code"] == "unresponsive"

    beats.touch()

    until(lambda: client.why(job)["code"] == "running", why="a job that is well again")
    client.call("job.cancel", {"id": job})


def test_heartbeat_when_only_other_words_come_then_that_is_no_sign_of_life(client: stoker.Client, gate: Gate) -> None:
    limits = {"heartbeat_ms": 50, "unresponsive_warn_ms": 200, "unresponsive_kill_ms": 400}

    job = submit(client, speaker(gate, "STATUS=busy", "READY=1", **limits))

    assert end_of(client, job) == ("failed", "unresponsive")


def test_trigger_when_a_worker_calls_itself_hung_then_it_is_stopped_at_once(client: stoker.Client, gate: Gate) -> None:
    job = submit(client, speaker(gate, "WATCHDOG=trigger"))

    assert end_of(client, job) == ("failed", "unresponsive")


def test_heartbeat_when_the_daemon_stood_still_then_no_worker_is_blamed(tmp_path: Path, daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        job = submit(client, beater(tmp_path / "beats", unresponsive_warn_ms=2_500))
        first = until(lambda: job_view(client, job)["last_heartbeat"], why="a sign of life")
        clock = submit_running(client, shell("sleep 5"))
        pid = job_view(client, clock)["pid"]
        daemon.signal(signal.SIGSTOP)
        until(lambda: not alive(pid), why="the time to pass, which a process tells")
        daemon.signal(signal.SIGCONT)

        until(lambda: job_view(client, job)["last_heartbeat"] > first + 5_000, why="a sign of life behind it")
        assert job_view(client, job)["state"] == "running"


# --- another daemon -----------------------------------------------------------------------------------------


@pytest.fixture
def adopted(daemon: DaemonProcess, tmp_path: Path) -> tuple[DaemonProcess, int]:
    """A daemon that was killed and started again, and the surviving job, which sends heartbeats all the time."""
    with daemon.client() as client:
        job = submit(client, beater(tmp_path / "beats", survive=True, unresponsive_kill_ms=4_000))
        until(lambda: job_view(client, job)["last_heartbeat"], why="a sign of life")
    daemon.kill_and_start()
    return daemon, job


def test_heartbeat_when_another_daemon_adopts_the_worker_then_its_address_stays(
    adopted: tuple[DaemonProcess, int],
) -> None:
    daemon, job = adopted
    with daemon.client() as client:
        until(lambda: job_view(client, job)["last_heartbeat"], why="a sign of life after the start")

        assert job_view(client, job)["attempts"] == 1


def test_heartbeat_when_an_adopted_worker_falls_silent_then_it_is_stopped_too(
    adopted: tuple[DaemonProcess, int], tmp_path: Path
) -> None:
    daemon, job = adopted
    (tmp_path / "beats").unlink()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "unresponsive")
