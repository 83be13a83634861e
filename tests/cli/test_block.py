"""`stoker submit --block` and `run --block`: a full queue is waited for at the daemon, and each job is stored once."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.support.facts import DEADLINE_S, line_with

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess


def begin(daemon: DaemonProcess, *arguments: str, name: str = "submit") -> subprocess.Popen[str]:
    """A submit or run that has printed that it waits for room."""
    command = [str(daemon.programs / "stoker"), "--socket", str(daemon.socket), *name.split(), "--block", *arguments]
    process = subprocess.Popen(command, env=daemon.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line_with(process, process.stderr, "waiting for room")
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, list[int]]:
    """The exit status and the ids that were printed."""
    out, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, [int(line) for line in out.split()]


def fill(daemon: DaemonProcess, queue: str, places: int = 1) -> list[int]:
    """Jobs that fill a queue, which is paused."""
    daemon.cli("queue", "set", queue, "--max-queued", str(places))
    daemon.cli("queue", "pause", queue)
    return [int(daemon.cli("submit", "--queue", queue, "--", "true").stdout) for _ in range(places)]


def test_block_when_the_queue_is_full_then_the_job_is_stored_once_there_is_room(shared: DaemonProcess) -> None:
    fill(shared, "one")
    waiting = [begin(shared, "--queue", "one", "--", "true") for _ in range(2)]

    shared.cli("queue", "resume", "one")

    ends = [end(process) for process in waiting]
    assert [status for status, _ in ends] == [0, 0]
    with shared.client() as client:
        assert {one["state"] for one in client.wait(*(job for _, ids in ends for job in ids))} == {"succeeded"}


def test_block_when_patience_is_over_then_the_job_is_not_stored(shared: DaemonProcess) -> None:
    (job,) = fill(shared, "never")

    done = shared.cli("submit", "--block", "--patience", "50ms", "--queue", "never", "--", "true")

    assert done.returncode == 75
    assert "queue 'never' holds 1 job not yet started, its limit max_queued is 1; gave up" in done.stderr
    with shared.client() as client:
        assert [one["id"] for one in client.list(queue="never")["jobs"]] == [job]


def test_block_when_a_batch_is_larger_than_the_queue_then_all_of_it_is_stored(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    fill(shared, "narrow", 2)
    shared.cli("queue", "set", "narrow", "--max-running", "1")
    lines = tmp_path / "jobs.ndjson"
    lines.write_text("".join(json.dumps({"command": "true", "name": f"n{n}"}) + "\n" for n in range(7)))
    waiting = begin(shared, "--queue", "narrow", "--batch", str(lines))

    shared.cli("queue", "resume", "narrow")

    status, ids = end(waiting)
    assert (status, len(set(ids))) == (0, 7)
    with shared.client() as client:
        assert {one["state"] for one in client.wait(*ids)} == {"succeeded"}
        assert [client.get(job)["name"] for job in ids] == [f"n{n}" for n in range(7)]


def test_block_when_the_daemon_is_killed_meanwhile_then_the_job_is_stored_once(daemon: DaemonProcess) -> None:
    fill(daemon, "one")
    waiting = begin(daemon, "--queue", "one", "--", "true")

    daemon.kill9()
    line_with(waiting, waiting.stderr, "trying again")
    daemon.start()
    daemon.cli("queue", "set", "one", "--max-queued", "9")

    status, ids = end(waiting)
    assert (status, len(ids)) == (0, 1)
    with daemon.client() as client:
        assert len(client.list(queue="one")["jobs"]) == 2


def test_run_when_the_queue_is_full_then_its_job_runs_once_there_is_room(shared: DaemonProcess) -> None:
    fill(shared, "ours")
    waiting = begin(shared, "--queue", "ours", "--", "sh", "-c", "echo hi; exit 7", name="run")

    shared.cli("queue", "resume", "ours")

    out, _ = waiting.communicate(timeout=DEADLINE_S)
    assert (waiting.returncode, out) == (7, "hi\n")


def test_run_when_interrupted_while_it_waits_for_room_then_it_ends_without_a_job(shared: DaemonProcess) -> None:
    jobs = fill(shared, "left")
    waiting = begin(shared, "--queue", "left", "--", "true", name="run")

    waiting.send_signal(signal.SIGINT)

    _, err = waiting.communicate(timeout=DEADLINE_S)
    assert (waiting.returncode, err) == (130, "stoker: no job was stored\n")
    with shared.client() as client:
        assert [one["id"] for one in client.list(queue="left")["jobs"]] == jobs


def test_run_when_patience_for_room_is_over_then_it_ends_without_a_job(shared: DaemonProcess) -> None:
    jobs = fill(shared, "full")

    done = shared.cli("run", "--block", "--patience", "50ms", "--queue", "full", "--", "true")

    assert (done.returncode, "its limit max_queued is 1; gave up" in done.stderr) == (75, True)
    with shared.client() as client:
        assert [one["id"] for one in client.list(queue="full")["jobs"]] == jobs


def test_block_when_it_is_asked_of_an_atomic_batch_then_it_is_refused(shared: DaemonProcess) -> None:
    done = shared.cli("submit", "--block", "--atomic", "--batch", "-")

    assert (done.returncode, "--atomic and --block exclude each other" in done.stderr) == (64, True)


def flow(folder: Path, queue: str, steps: int) -> str:
    path = folder / "flow.json"
    named = {f"s{number}": {"command": "true", "queue": queue} for number in range(steps)}
    path.write_text(json.dumps({"name": "x", "steps": named}))
    return str(path)


def test_block_when_a_workflow_finds_no_room_then_it_is_stored_once_all_steps_have(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    jobs = fill(shared, "steps", 3)
    waiting = begin(shared, flow(tmp_path, "steps", 2), name="workflow submit")

    shared.cli("cancel", str(jobs[0]))
    with shared.client() as client:
        assert client.call("queue.wait", {"name": "steps"})["places"] == 1
        assert client.call("workflow.list", {})["workflows"] == []
    shared.cli("cancel", str(jobs[1]))

    status, (workflow,) = end(waiting)
    assert status == 0
    with shared.client() as client:
        assert client.workflow(workflow)["counts"] == {"queued": 2}


def test_block_when_a_workflow_has_more_steps_than_places_then_it_is_refused(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    shared.cli("queue", "set", "tiny", "--max-queued", "2")

    refused = shared.cli("workflow", "submit", "--block", flow(tmp_path, "tiny", 3))

    assert refused.returncode == 65
    assert "3 steps never fit into queue 'tiny', whose max_queued is 2" in refused.stderr
    assert "stoker queue set tiny --max-queued 3" in refused.stderr


def test_block_when_patience_is_over_then_the_workflow_is_not_stored(shared: DaemonProcess, tmp_path: Path) -> None:
    fill(shared, "closed", 2)

    done = shared.cli("workflow", "submit", "--block", "--patience", "50ms", flow(tmp_path, "closed", 1))

    assert done.returncode == 75
    assert "its limit max_queued is 2; gave up" in done.stderr
