"""Submitting to a daemon that is full, silent or restarting, and ending `stoker run` before its job."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest

from stoker.core.errors import NoAnswer
from tests.support.daemon import DaemonProcess
from tests.support.facts import DEADLINE_S, line_with, until
from tests.support.work import Gate, attempts_of, end_of, running, submit

PLACES = 8
SETTINGS = f"[daemon]\nmax_running = 8\n[rpc]\nmax_connections_per_uid = {PLACES}\n"


def begin(daemon: DaemonProcess, *arguments: str) -> subprocess.Popen[str]:
    command = [str(daemon.programs / "stoker"), *arguments]
    return subprocess.Popen(
        command, env=daemon.client_environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def waits_in_every_place(daemon: DaemonProcess, job: int) -> list[subprocess.Popen[str]]:
    """Clients that wait for a job and hold all ordinary connections."""
    waits = [begin(daemon, "wait", str(job)) for _ in range(PLACES)]
    until(lambda: connections(daemon) > PLACES, why="every place taken")
    return waits


def connections(daemon: DaemonProcess) -> int:
    """How many are open, counted through a new one: one that stays open would keep a place from a client that waits."""
    with daemon.client() as client:
        return client.status()["connections"]


# --- a daemon that is full, or not there for a while ----------------------------------------------------------


def test_run_when_clients_exceed_the_connections_then_each_runs_exactly_once(
    daemon: DaemonProcess,
) -> None:
    runs = [begin(daemon, "run", "--", "sh", "-c", "sleep 0.1; exit 3") for _ in range(4 * PLACES)]
    beside = [daemon.cli("status").returncode for _ in range(3)]
    ends = [end(run) for run in runs]

    assert [status for status, _, _ in ends] == [3] * len(runs)
    assert beside == [0] * 3
    with daemon.client() as client:
        assert len(client.list(limit=1000)["jobs"]) == len(runs)


def test_control_when_waits_hold_all_connections_then_it_and_checkpoints_get_through(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    with daemon.client() as client:
        job = submit(
            client,
            gate.spec("echo state | stoker checkpoint save"),
            working_dir=str(tmp_path),
            env={"PATH": daemon.environ["PATH"]},
        )
        running(client, job)
    waits = waits_in_every_place(daemon, job)

    for command in (["status"], ["queue", "pause", "default"], ["queue", "resume", "default"], ["hold", "99"]):
        assert "connections are open" not in daemon.cli(*command).stderr
    gate.open()

    assert {end(wait)[0] for wait in waits} == {0}
    assert daemon.cli("checkpoint", "ls", "--job", str(job)).stdout.count("saved") == 1


def test_submit_when_the_daemon_dies_before_the_answer_then_one_job_is_stored(
    daemon: DaemonProcess,
) -> None:
    daemon.signal(signal.SIGSTOP)
    submitting = begin(daemon, "submit", "--", "true")
    until(lambda: has_sent(submitting), why="the request sent")
    daemon.kill9()
    line = line_with(submitting, submitting.stderr, "trying again")
    daemon.start()
    status, out, _ = end(submitting)

    assert "daemon" in line
    with daemon.client() as client:
        jobs = [job["id"] for job in client.list()["jobs"]]
    assert (status, [int(out)]) == (0, jobs)


def test_submit_when_patience_is_over_then_it_says_that_the_job_is_not_stored(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    with daemon.client() as client:
        job = submit(client, gate.spec())
    waits = waits_in_every_place(daemon, job)

    # A connection takes its place when it begins to wait, which may be a moment after it is open.
    while (refused := daemon.cli("submit", "--patience", "200ms", "--", "true")).returncode == 0:
        pass
    gate.open()

    assert refused.returncode == 75
    assert "gave up; the job is not stored" in refused.stderr
    assert {end(wait)[0] for wait in waits} == {0}


def test_batch_when_the_daemon_dies_before_the_answer_then_each_line_is_stored_once(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    lines = tmp_path / "jobs.ndjson"
    lines.write_text('{"command":"true"}\n' * 2_500)
    daemon.signal(signal.SIGSTOP)
    submitting = begin(daemon, "submit", "--batch", str(lines))
    until(lambda: has_sent(submitting), why="the request sent")
    daemon.kill9()
    line = line_with(submitting, submitting.stderr, "trying again")
    daemon.start()
    status, out, _ = end(submitting)

    assert "daemon" in line
    assert (status, len(out.split())) == (0, 2_500)
    with daemon.client() as client:
        assert client.list(limit=1)["jobs"][0]["id"] == 2_500


def test_batch_when_patience_is_over_then_it_names_the_lines_that_are_not_stored(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    lines = tmp_path / "jobs.ndjson"
    lines.write_text('{"command":"true"}\n' * 3)
    with daemon.client() as client:
        job = submit(client, gate.spec())
    waits = waits_in_every_place(daemon, job)

    while (refused := daemon.cli("submit", "--patience", "200ms", "--batch", str(lines))).returncode == 0:
        pass
    gate.open()

    assert refused.returncode == 75
    assert "gave up at lines 1 to 3: they are not stored" in refused.stderr
    assert {end(wait)[0] for wait in waits} == {0}


def test_submit_when_there_is_no_daemon_then_it_fails_at_once(daemon: DaemonProcess) -> None:
    daemon.stop()

    refused = daemon.cli("submit", "--", "true")

    assert refused.returncode == 69
    assert "trying again" not in refused.stderr


def test_call_when_the_daemon_is_silent_then_the_status_is_try_again(daemon: DaemonProcess) -> None:
    daemon.signal(signal.SIGSTOP)
    try:
        with pytest.raises(NoAnswer) as silent, daemon.client(timeout_s=0.2) as client:
            client.status()
    finally:
        daemon.signal(signal.SIGCONT)

    assert silent.value.exit_status == 75


def has_sent(process: subprocess.Popen[str]) -> bool:
    """Whether a client has sent something to a daemon that is stopped, and so reads nothing."""
    listed = subprocess.run(["ss", "-xH"], capture_output=True, text=True, check=False).stdout
    sent = {inode for _, _, _, send_queue, _, inode, *_ in map(str.split, listed.splitlines()) if send_queue != "0"}
    return not sent.isdisjoint(sockets_of(process.pid))


def sockets_of(pid: int) -> set[str]:
    """The inodes of its sockets."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            links.append(str(descriptor.readlink()))
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


# --- ending run before its job --------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_run_when_it_gets_sigterm_then_it_names_its_job_which_goes_on(
    daemon: DaemonProcess, tmp_path: Path, signum: signal.Signals
) -> None:
    gate = Gate(tmp_path / "gate")
    spec = gate.spec("exit 0")
    run = begin(daemon, "run", "--", spec["command"], *spec["args"])
    with daemon.client() as client:
        until(lambda: client.list()["jobs"], why="the job")
        running(client, 1)
        run.send_signal(signum)
        status, _, err = end(run)
        gate.open()

        assert (status, end_of(client, 1)) == (128 + signum, ("succeeded", "exit"))
    assert "job 1 goes on without this command" in err


def test_run_when_interrupted_before_the_answer_then_the_job_is_cancelled_after_it(
    daemon: DaemonProcess,
) -> None:
    daemon.signal(signal.SIGSTOP)
    run = begin(daemon, "run", "--", "sleep", "600")
    until(lambda: has_sent(run), why="the request sent")
    run.send_signal(signal.SIGINT)
    line_with(run, run.stderr, "waiting for the daemon's answer")
    daemon.signal(signal.SIGCONT)
    line = line_with(run, run.stderr, "cancelling job 1")
    status, _, _ = end(run)

    assert "Ctrl-C again" in line
    assert status == 130
    with daemon.client() as client:
        assert client.get(1)["state"] == "cancelled"


def test_run_when_its_stderr_has_no_reader_then_ctrl_c_cancels_and_leaves(daemon: DaemonProcess) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4_096)
    os.write(writer, bytes(4_096))
    command = [str(daemon.programs / "stoker"), "run", "--grace", "10m", "--", "sh", "-c", "trap '' TERM; sleep 600"]

    with (
        subprocess.Popen(command, env=daemon.client_environ, stdout=subprocess.DEVNULL, stderr=writer) as run,
        daemon.client() as client,
    ):
        until(lambda: client.list()["jobs"], why="the job")
        running(client, 1)
        run.send_signal(signal.SIGINT)
        until(lambda: attempts_of(client, 1)[0]["stop_reason"] == "cancel", why="the cancel")
        run.send_signal(signal.SIGINT)
        status = run.wait(timeout=DEADLINE_S)

    os.close(reader)
    os.close(writer)
    assert status == 130


def test_run_when_the_reader_of_its_output_leaves_then_the_job_is_named_and_goes_on(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    run = begin(daemon, "run", "--", "sh", "-c", f"echo first; {gate.spec('exit 0')['args'][-1]}")
    assert line_with(run, run.stdout, "first") == "first\n"
    assert run.stdout is not None
    run.stdout.close()
    line = line_with(run, run.stderr, "job 1")
    run.wait(DEADLINE_S)

    assert line.startswith("stoker: job 1 goes on without this command")
    assert run.returncode == 141
    gate.open()
    with daemon.client() as client:
        assert end_of(client, 1) == ("succeeded", "exit")
    assert run.stderr is not None
    run.stderr.close()


def test_submit_when_its_queue_is_full_then_it_says_when_to_try_again(daemon: DaemonProcess) -> None:
    daemon.cli("queue", "set", "small", "--max-queued", "1")
    daemon.cli("queue", "pause", "small")
    daemon.cli("submit", "--queue", "small", "--", "true")

    refused = daemon.cli("submit", "--queue", "small", "--", "true")

    assert refused.returncode == 75
    assert "; try again in 1" in refused.stderr
