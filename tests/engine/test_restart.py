"""Survivors: workers that live through the death of the daemon and are adopted by the next one.

Owns the facts that an adoption keeps: the process, its start, its limits, its true exit code, also if it ended while no
daemon ran.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.facts import scales, until
from tests.support.policies import identities_on_disk
from tests.support.work import (
    alive,
    attempts_of,
    changes,
    end_of,
    job_view,
    kill9,
    lines,
    shell,
    submit,
    submit_running,
)

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

ROUNDING_MS = 2  # between two clocks


def test_survivor_when_the_daemon_is_killed_then_the_next_adopts_the_same_process(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec("exit 7"), survive=True)
        before = attempts_of(client, job)[0]
    daemon.kill9()
    assert alive(before["pid"])

    daemon.start()

    with daemon.client() as client:
        after = attempts_of(client, job)[0]
        assert (after["pid"], after["run_id"]) == (before["pid"], before["run_id"])
        assert abs(after["started_at"] - before["started_at"]) <= ROUNDING_MS
        assert after["adopted"] == 1
        assert [change["cause"] for change in changes(client, job)] == ["submitted", "dispatched", "adopted"]
        gate.open()
        assert end_of(client, job) == ("failed", "exit")
        assert job_view(client, job)["exit_code"] == 7
        assert job_view(client, job)["attempts"] == 1


@pytest.mark.parametrize("survive", [True, False])
def test_worker_when_it_ends_while_no_daemon_runs_then_its_true_exit_code_is_kept(
    daemon: DaemonProcess, gate: Gate, *, survive: bool
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec("exit 11"), survive=survive)
        pid = job_view(client, job)["pid"]
    daemon.kill9()
    gate.open()
    until(lambda: not alive(pid), why="the end of the worker")

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "exit")
        assert job_view(client, job)["exit_code"] == 11


def test_worker_when_it_fails_while_no_daemon_runs_then_it_is_retried_by_its_spec(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec('[ "$STOKER_ATTEMPT" = 2 ]'), max_attempts=3, base_delay_ms=10)
        pid = job_view(client, job)["pid"]
    daemon.kill9()
    gate.open()
    until(lambda: not alive(pid), why="the end of the worker")

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert (job_view(client, job)["attempts"], job_view(client, job)["failures"]) == (2, 1)


def test_survivor_when_adopted_then_its_timeout_still_counts_from_its_start(daemon: DaemonProcess, gate: Gate) -> None:
    """If the timeout were counted anew, the job would end a whole timeout after its adoption."""
    for timeout_ms in scales(1_500):
        with daemon.client() as client:
            job = submit(client, gate.spec(), survive=True, timeout_ms=timeout_ms)
            until(lambda: job_view(client, job)["attempts"], why="its start")  # noqa: B023
        daemon.kill_and_start()
        with daemon.client() as client:
            end = end_of(client, job)
            attempt = attempts_of(client, job)[-1]  # a kill before the launch leaves one that never started
            (adopted,) = changes(client, job, "adopted") or [{"at": 0}]
        if attempt["ended_at"] - adopted["at"] < timeout_ms:
            break

    assert (end, attempt["adopted"]) == (("failed", "timeout"), 1)
    assert attempt["ended_at"] - attempt["started_at"] >= timeout_ms - 20


def test_survivor_when_adopted_then_it_can_be_followed_and_cancelled(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit_running(client, shell(f"echo before; read _ < {gate.path}"), survive=True)
        pid = job_view(client, job)["pid"]
    daemon.kill_and_start()

    with daemon.client() as client, daemon.client() as reader:
        log = reader.logs(job, follow=True)
        assert next(log) == b"before\n"
        client.cancel(job)

        assert end_of(client, job) == ("cancelled", "user")
        assert list(log) == []
    assert not alive(pid)


def test_survivor_when_the_daemon_dies_again_and_again_then_it_still_runs_once(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    with daemon.client() as client:
        job = submit_running(
            client, gate.spec(), survive=True, args=["-c", f"echo run >> {ledger}; read _ < {gate.path}; :"]
        )
    for _ in range(3):
        daemon.kill_and_start()

    with daemon.client() as client:
        assert attempts_of(client, job)[0]["adopted"] == 3
        launchers = client.call("system.status")["launchers"]
        assert sorted(launcher["running"] for launcher in launchers) == [0, 1], launchers
        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")
    assert lines(ledger) == ["run"]


def test_survivors_when_they_hold_resources_and_slots_then_the_next_one_counts_them(
    stopped_daemon: DaemonProcess, gate: Gate
) -> None:
    stopped_daemon.config.write_text("[daemon]\nmax_running = 2\n")
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        client.call("resource.set", {"name": "repo", "capacity": 1})
        holder = submit_running(client, gate.spec(), survive=True, resources={"repo": 1})
    stopped_daemon.kill_and_start()

    with stopped_daemon.client() as client:
        waits = submit(client, shell("exit 0"), resources={"repo": 1})
        assert client.why(waits)["details"]["holders"] == [holder]
        gate.open()
        assert end_of(client, waits) == ("succeeded", "exit")


def test_survive_when_it_is_set_for_all_then_jobs_without_a_choice_survive(
    stopped_daemon: DaemonProcess, gate: Gate
) -> None:
    stopped_daemon.config.write_text("[recovery]\nsurvive = true\n")
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        job = submit_running(client, gate.spec())
    stopped_daemon.kill_and_start()

    with stopped_daemon.client() as client:
        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")


def test_survivor_when_its_launcher_is_killed_then_it_is_adopted_and_ends_as_lost(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), survive=True)
        pid = job_view(client, job)["pid"]
        launcher = client.call("system.status")["launchers"][0]["pid"]
    daemon.kill9()
    kill9(launcher)

    daemon.start()

    with daemon.client() as client:
        assert (job_view(client, job)["state"], job_view(client, job)["pid"]) == ("running", pid)
        gate.open()
        assert end_of(client, job) == ("failed", "lost")


def test_survivor_when_its_main_process_died_too_then_its_session_is_looked_at(
    daemon: DaemonProcess, gate: Gate
) -> None:
    named = f"sh -c 'read _ < {gate.path}'"
    nameless = f"prlimit --rttime=unlimited env -i {named}"
    with daemon.client() as client:
        job = submit_running(client, shell(f"{nameless} & {named} & wait"), survive=True)
        pid = job_view(client, job)["pid"]
        launcher = client.call("system.status")["launchers"][0]["pid"]
        until(lambda: len(in_session(pid)) == 3 and shows_nothing(pid), why="both children, one without a name")
    until(lambda: identities_on_disk(daemon) == [pid], why="the identity on disk")
    daemon.kill9()
    kill9(launcher)
    kill9(pid)

    daemon.start()

    with daemon.client() as client:
        assert (end_of(client, job), len(in_session(pid))) == (("held", "stuck"), 1)
        gate.open()
        until(lambda: attempts_of(client, job)[0]["ended_at"], why="the look after the end of the last child")


def shows_nothing(leader: int) -> bool:
    """Whether a process of that session has no environment."""
    return any(not Path(f"/proc/{pid}/environ").read_bytes() for pid in in_session(leader))


def in_session(leader: int) -> list[int]:
    """The living processes of that session."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session, *_ = stat.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                pids.append(int(stat.parent.name))
    return pids


def test_daemon_when_the_directory_has_one_then_it_exits_75_and_names_the_first(
    daemon: DaemonProcess,
) -> None:
    command = [str(daemon.programs / "stokerd"), "--state-dir", str(daemon.state_dir), "--socket"]

    same = subprocess.run(
        [*command, str(daemon.socket)], env=daemon.environ, capture_output=True, text=True, check=False
    )
    other = subprocess.run(
        [*command, f"{daemon.socket}2"], env=daemon.environ, capture_output=True, text=True, check=False
    )

    assert (same.returncode, other.returncode) == (75, 75)
    assert str(daemon.pid) in other.stderr
    assert str(daemon.pid) in same.stderr
    with daemon.client() as client:
        assert client.call("system.health")["ok"]


def test_daemon_when_another_directory_has_the_same_socket_then_it_exits_75(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    command = [str(daemon.programs / "stokerd"), "--state-dir", str(tmp_path / "state"), "--socket", str(daemon.socket)]

    second = subprocess.run(command, env=daemon.environ, capture_output=True, text=True, check=False)

    assert second.returncode == 75
    with daemon.client() as client:
        assert client.call("system.health")["ok"]
