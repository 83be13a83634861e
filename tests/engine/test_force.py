"""Restarts that do not wait: `--force` for a grace, `--reassign` for a launcher that does not answer.

A launcher is made silent by SIGSTOP. Owns that no second worker is ever there while the first may be.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from stoker.process.attempt_logs import log_of
from tests.support.facts import until
from tests.support.work import alive, attempts_of, changes, end_of, lines, running, shell, state, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

SETTINGS = "[launcher]\nstuck_ms = 1000\n"
AGES_MS = 3_600_000


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def stubborn(gate: Gate, ledger: Path, **options: Any) -> dict[str, Any]:
    """A worker that ignores SIGTERM and waits for the gate; each run writes a line."""
    wait = f"while [ -p {gate.path} ]; do read _ < {gate.path}; done"
    script = f"trap '' TERM; echo $STOKER_ATTEMPT >> {ledger}; {wait}; exit 0"
    return shell(script, grace_ms=AGES_MS, **options)


def restart(client: stoker.Client, job: int, **how: bool) -> None:
    client.call("job.restart", {"id": job, "yes": True, **how})


def launcher_of(client: stoker.Client, job: int) -> int:
    name = client.history(job)["attempts"][-1]["launcher"]
    pids: dict[str, int] = {one["id"]: one["pid"] for one in client.call("system.status")["launchers"]}
    return pids[name]


# --- force --------------------------------------------------------------------------------------------------


def test_restart_when_forced_then_there_is_no_grace(client: stoker.Client, gate: Gate, ledger: Path) -> None:
    job = submit(client, stubborn(gate, ledger))
    until(lambda: lines(ledger) == ["1"], why="the first run")

    restart(client, job, force=True)

    until(lambda: lines(ledger) == ["1", "2"], why="the second run")
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")
    first, _ = client.history(job)["attempts"]
    assert (first["stop_reason"], first["signal"]) == ("restart", 9)


def test_restart_when_a_stop_is_under_way_then_force_hastens_it_and_its_reason_stays(
    client: stoker.Client, gate: Gate, ledger: Path
) -> None:
    job = submit(client, stubborn(gate, ledger))
    until(lambda: lines(ledger) == ["1"], why="the first run")
    client.call("job.cancel", {"id": job})
    assert state(client, job) == "running"

    restart(client, job, force=True)

    assert end_of(client, job) == ("cancelled", "user")
    assert lines(ledger) == ["1"]


# --- reassign -----------------------------------------------------------------------------------------------


@pytest.fixture
def silenced(shared: DaemonProcess) -> Iterator[list[int]]:
    """Launchers that a test has stopped; they are continued after it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    with shared.client() as client:
        until(lambda: all(one["state"] == "ok" for one in client.call("system.status")["launchers"]), why="launchers")


def test_reassign_when_the_launcher_is_stuck_then_the_next_run_begins_elsewhere(
    client: stoker.Client, gate: Gate, ledger: Path, silenced: list[int]
) -> None:
    job = submit(client, stubborn(gate, ledger))
    until(lambda: lines(ledger) == ["1"], why="the first run")
    running(client, job)
    pid, launcher = client.get(job)["pid"], launcher_of(client, job)
    os.kill(launcher, signal.SIGSTOP)
    silenced.append(launcher)

    restart(client, job, force=True, reassign=True)

    until(lambda: lines(ledger) == ["1", "2"], why="the second run")
    assert not alive(pid)
    assert launcher_of(client, job) != launcher
    os.kill(launcher, signal.SIGCONT)  # its next report is of a run that is settled
    until(lambda: all(one["state"] == "ok" for one in client.call("system.status")["launchers"]), why="its answer")
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")
    assert lines(ledger) == ["1", "2"]
    assert [attempt["outcome"] for attempt in client.history(job)["attempts"]] == ["unseen", "exit"]


def test_reassign_when_the_run_may_have_begun_then_the_job_is_held_and_not_run_twice(
    client: stoker.Client, gate: Gate, ledger: Path, silenced: list[int]
) -> None:
    other = submit_running(client, gate.spec())
    launcher = launcher_of(client, other)
    os.kill(launcher, signal.SIGSTOP)
    silenced.append(launcher)
    job = submit(client, shell(f"echo $STOKER_ATTEMPT >> {ledger}", on_orphan="requeue"))
    until(lambda: state(client, job) == "running", why="the launch")

    restart(client, job, force=True, reassign=True)

    until(lambda: state(client, job) == "held", why="the doubt")
    assert "its last worker cannot be proven gone" in client.why(job)["message"]
    (doubt,) = changes(client, job, "stuck")
    assert "may still start" in doubt["note"]
    os.kill(launcher, signal.SIGCONT)
    until(lambda: client.history(job)["attempts"][0]["outcome"], why="the word of the launcher")
    assert state(client, job) == "held"
    assert lines(ledger) in ([], ["1"])
    client.call("job.cancel", {"id": job})


def test_reassign_when_the_launcher_refuses_it_later_then_the_job_can_go_on(
    shared: DaemonProcess, client: stoker.Client, gate: Gate, ledger: Path, silenced: list[int]
) -> None:
    """The log of the attempt is there before it: the launcher refuses its order after the attempt became stuck."""
    other = submit_running(client, gate.spec())
    launcher = launcher_of(client, other)
    path = log_of(shared.state_dir, f"{other + 1}.1.forgotten")
    path.parent.mkdir(parents=True)
    path.touch()
    os.kill(launcher, signal.SIGSTOP)
    silenced.append(launcher)
    job = submit(client, shell(f"echo $STOKER_ATTEMPT >> {ledger}"))
    assert job == other + 1
    until(lambda: state(client, job) == "running", why="the launch")
    restart(client, job, force=True, reassign=True)
    until(lambda: state(client, job) == "held", why="the doubt")

    os.kill(launcher, signal.SIGCONT)

    first = until(lambda: attempts_of(client, job)[0]["outcome"] and attempts_of(client, job)[0], why="the refusal")
    assert (first["outcome"], first["error"]) == ("never_started", f"{path}: the disk is ahead of the database")
    assert (state(client, job), lines(ledger)) == ("held", [])
    client.call("job.release", {"id": job})
    assert end_of(client, job) == ("succeeded", "exit")
    assert lines(ledger) == ["2"]


def test_reassign_when_the_launcher_answers_then_it_is_a_restart_as_any(
    client: stoker.Client, gate: Gate, ledger: Path
) -> None:
    job = submit(client, stubborn(gate, ledger))
    until(lambda: lines(ledger) == ["1"], why="the first run")

    restart(client, job, force=True, reassign=True)

    until(lambda: lines(ledger) == ["1", "2"], why="the second run")
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")
    assert client.history(job)["attempts"][0]["outcome"] == "signal"
