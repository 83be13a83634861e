"""What becomes of running jobs when the daemon, or a launcher, dies; and what a second daemon may not do.

Owns the fates of DESIGN section 7 that need no torture. Each test kills its own daemon.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.work import Gate, alive, changes, end_of, lines, running, shell, state, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess() as started:
        yield started


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


def crash(daemon: DaemonProcess) -> None:
    daemon.kill9()
    daemon.start()


def launcher_pid(client: stoker.Client) -> int:
    return int(client.status()["launchers"][-1]["pid"])


def restarted_with(daemon: DaemonProcess, gate: Gate, **options: object) -> tuple[str, str | None]:
    with daemon.client() as client:
        job = submit(client, gate.spec(), **options)
        running(client, job)
    crash(daemon)
    with daemon.client() as client:
        until(lambda: state(client, job) != "running", why="the end of the orphan")
        found = client.get(job)
        return found["state"], found["reason"]


def test_unsafe_job_when_the_daemon_is_killed_then_it_is_stopped_and_failed_as_orphaned(
    daemon: DaemonProcess, gate: Gate
) -> None:
    assert restarted_with(daemon, gate) == ("failed", "orphaned")


def test_job_to_hold_when_the_daemon_is_killed_then_a_person_decides(daemon: DaemonProcess, gate: Gate) -> None:
    assert restarted_with(daemon, gate, on_orphan="hold") == ("held", "orphaned")


def test_safe_job_when_the_daemon_is_killed_then_it_runs_again_and_never_beside_itself(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ledger, flag = tmp_path / "ledger", tmp_path / "flag"
    script = f"echo start $$ >> {ledger}; until [ -e {flag} ]; do sleep 0.02; done; echo end $$ >> {ledger}"
    with daemon.client() as client:
        job = submit(client, shell(script), on_orphan="requeue", grace_ms=200)
        until(lambda: lines(ledger), why="the first start")
        first = int(lines(ledger)[0].split()[1])

    crash(daemon)
    until(lambda: len(lines(ledger)) > 1, why="the second start")
    overlapped = alive(first)
    flag.touch()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert not overlapped
        assert [line.split()[0] for line in lines(ledger)] == ["start", "start", "end"]
        assert client.get(job)["orphanings"] == 1


def test_surviving_job_when_the_daemon_is_killed_then_it_is_adopted_with_its_start_and_true_exit_code(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec("exit 7"), survive=True)
        running(client, job)
        pid = client.get(job)["pid"]

    crash(daemon)

    with daemon.client() as client:
        found = until(lambda: client.get(job)["started_at"] and client.get(job), why="its start")
        assert (found["state"], found["pid"]) == ("running", pid)
        gate.open()
        (standing,) = client.wait(job)
        assert (standing["state"], standing["exit_code"]) == ("failed", 7)
        assert changes(client, job, "adopted")


def test_surviving_job_when_it_ends_while_no_daemon_is_there_then_its_outcome_was_kept(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec("exit 9"), survive=True)
        running(client, job)
        pid = client.get(job)["pid"]
    daemon.kill9()
    gate.open()
    until(lambda: not alive(pid), why="the end of the worker")

    daemon.start()

    with daemon.client() as client:
        (standing,) = client.wait(job)
        assert (standing["state"], standing["exit_code"]) == ("failed", 9)


def test_surviving_job_when_it_was_adopted_then_its_time_limit_still_holds(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        job = submit(client, {"command": "sleep", "args": ["60"]}, survive=True, timeout_ms=1_500, grace_ms=100)
        running(client, job)

    crash(daemon)

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "timeout")


def test_cancel_when_it_was_committed_before_the_daemon_died_then_it_beats_survive(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    with daemon.client() as client:
        job = submit(client, shell(f'trap "" TERM; touch {ready}; sleep 60'), survive=True, grace_ms=3_000)
        until(ready.exists, why="the trap")
        client.cancel(job)

    crash(daemon)

    with daemon.client() as client:
        assert end_of(client, job) == ("cancelled", "user")


@pytest.mark.parametrize(("policy", "end"), [("fail", "failed"), ("hold", "held")])
def test_launcher_when_killed_under_a_living_daemon_then_its_attempts_end_unseen_and_new_ones_start(
    daemon: DaemonProcess, gate: Gate, policy: str, end: str
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec(), on_orphan=policy, grace_ms=200)
        running(client, job)
        pid = client.get(job)["pid"]

        os.kill(launcher_pid(client), signal.SIGKILL)

        assert end_of(client, job) == (end, "orphaned")
        until(lambda: not alive(pid), why="the end of the orphan")
        assert end_of(client, submit(client, {"command": "true"})) == ("succeeded", "exit")


def test_daemon_and_launcher_when_both_are_killed_then_the_worker_is_proven_and_stopped(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec(), grace_ms=200)
        running(client, job)
        until(lambda: client.get(job)["attempts_list"][0]["pid"], why="its identity")
        pid, launcher = client.get(job)["pid"], launcher_pid(client)
    daemon.kill9()
    os.kill(launcher, signal.SIGKILL)

    daemon.start()

    with daemon.client() as client:
        until(lambda: state(client, job) == "failed", why="the end of the orphan")
        assert client.get(job)["reason"] == "orphaned"
        assert not alive(pid)


def test_worker_when_it_outlived_its_settled_attempt_then_the_next_start_sweeps_it(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec(), grace_ms=200)
        running(client, job)
        run = client.get(job)["attempts_list"][0]["run_id"]
        instance = client.status()["instance"]
    leaked = os.posix_spawn(
        "/bin/sleep", ["sleep", "60"], {"STOKER_INSTANCE": instance, "STOKER_RUN_ID": f"{run}0"}, setsid=True
    )

    crash(daemon)

    assert os.waitstatus_to_exitcode(os.waitpid(leaked, 0)[1]) < 0
    with daemon.client() as client:
        until(lambda: client.status()["recovery"]["swept"], why="the count")


def test_poison_when_a_safe_job_ended_unseen_three_times_then_it_is_held(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        job = submit(client, {"command": "sleep", "args": ["60"]}, on_orphan="requeue", grace_ms=100)
    for _ in range(3):
        with daemon.client() as client:
            running(client, job)
        crash(daemon)

    with daemon.client() as client:
        assert end_of(client, job) == ("held", "poison")
        assert client.get(job)["failures"] == 0


def test_state_directory_when_copied_then_the_copy_signals_nothing(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec(), on_orphan="requeue")
        running(client, job)
        until(lambda: client.get(job)["attempts_list"][0]["pid"], why="its identity")
        pid = client.get(job)["pid"]
    daemon.kill9()
    with DaemonProcess() as copy:
        copy.stop()
        shutil.rmtree(copy.state_dir)
        shutil.copytree(
            daemon.state_dir,
            copy.state_dir,
            ignore=lambda _, names: [n for n in names if "." in n and n.endswith("sock")],
        )

        copy.start()

        with copy.client() as client:
            assert end_of(client, job) == ("held", "stuck")
            assert client.status()["instance"] not in daemon.tail(1_000)
            assert alive(pid)


def test_second_daemon_when_the_directory_is_taken_then_it_exits_at_once_and_names_the_holder(
    daemon: DaemonProcess,
) -> None:
    first = daemon.pid
    before = daemon.process

    second = daemon.spawn()
    status = second.wait(30)

    daemon.process = before
    assert status == 75
    assert f"pid {first}" in daemon.tail()
    with daemon.client() as client:
        assert client.call("system.health")["ok"]


def test_drain_when_jobs_run_then_survivors_stay_and_the_rest_is_stopped(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with DaemonProcess("[daemon]\ndrain_timeout_ms = 100\n") as daemon:
        with daemon.client() as client:
            stays = submit(client, gate.spec("exit 3"), survive=True)
            ends = submit(client, gate.spec(), grace_ms=200)
            running(client, stays, ends)
            pid = client.get(stays)["pid"]

        assert daemon.stop() == 0
        stayed = alive(pid)
        daemon.start()

        with daemon.client() as client:
            assert stayed
            assert client.get(ends)["reason"] == "shutdown"
            gate.open()
            (standing,) = client.wait(stays)
            assert standing["exit_code"] == 3
