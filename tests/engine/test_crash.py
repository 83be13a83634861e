"""Unseen ends: kill -9 of the daemon, of launchers, of everything, and the processes that are left.

Owns the table of `on_orphan`, the poison guard, leaked workers, and the promise that in a copied directory nothing is
signalled.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.policies import identities_on_disk
from tests.support.work import (
    DeafWorker,
    alive,
    changes,
    end_of,
    job_view,
    kill9,
    lines,
    running,
    shell,
    state,
    submit,
    submit_many,
    submit_running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.work import Gate


def launchers(client: stoker.Client) -> list[int]:
    return [launcher["pid"] for launcher in client.call("system.status")["launchers"]]


def recovery(client: stoker.Client) -> dict[str, Any]:
    """The record of the recovery of the last start, once it is complete."""
    until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
    return dict(client.status()["recovery"])


# --- kill -9 of the daemon ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_orphan", "expected", "why"),
    [
        ("fail", ("failed", "orphaned"), "failed: ran or ended while no daemon was there"),
        ("hold", ("held", "orphaned"), "ran while no daemon was there and was stopped"),
    ],
)
def test_orphan_when_the_daemon_was_killed_then_it_is_stopped_and_on_orphan_decides(
    daemon: DaemonProcess, gate: Gate, on_orphan: str, expected: tuple[str, str], why: str
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), on_orphan=on_orphan, max_attempts=5)
        pid = job_view(client, job)["pid"]
    daemon.kill9()
    assert alive(pid)

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == expected
        assert not alive(pid)
        assert job_view(client, job)["attempts"] == 1
        assert client.why(job)["message"].startswith(why)
        assert recovery(client)["stopped"] == 1
        assert daemon.logged("job_orphaned" if on_orphan == "fail" else "job_held")


def test_orphan_when_its_job_is_safe_then_it_runs_again_once_the_old_worker_is_gone(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    script = f"trap '' TERM; echo $$ >> {ledger}; read _ < {gate.path}; :"
    with daemon.client() as client:
        job = submit(client, shell(script), on_orphan="requeue", grace_ms=300)
        until(lambda: lines(ledger), why="the first worker")
    daemon.kill_and_start()

    with daemon.client() as client:
        until(lambda: len(lines(ledger)) == 2, why="the second worker")
        assert not alive(int(lines(ledger)[0]))
        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")
        view = job_view(client, job)
        assert (view["attempts"], view["failures"], view["orphanings"]) == (2, 0, 1)


def test_orphans_when_the_daemon_was_killed_under_load_then_no_unsafe_job_ran_twice(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    with daemon.client() as client:
        answers = submit_many(client, [shell(f"echo $STOKER_JOB_ID >> {ledger}")] * 300)
        ids = [answer["id"] for answer in answers]
        until(lambda: len(lines(ledger)) > 20, why="some runs")
    daemon.kill_and_start()

    with daemon.client() as client:
        client.wait(*ids)
        ran = lines(ledger)
        ends = {job: end_of(client, job) for job in ids}

    assert len(ran) == len(set(ran))
    assert set(ends.values()) <= {("succeeded", "exit"), ("failed", "orphaned")}
    assert {str(job) for job, end in ends.items() if end[0] == "succeeded"} <= set(ran)


def kill_everything(daemon: DaemonProcess, job: int) -> None:
    """Kill everything once the job runs, as if it had brought the host down; then start again."""
    with daemon.client() as client:
        running(client, job)
    daemon.kill_all()
    daemon.start()


def test_poison_when_a_safe_job_ended_unseen_three_times_then_it_is_held(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec(), on_orphan="requeue", max_attempts=1)
    for _ in range(3):
        kill_everything(daemon, job)

    with daemon.client() as client:
        assert end_of(client, job) == ("held", "poison")
        view = job_view(client, job)
    assert (view["attempts"], view["failures"], view["orphanings"]) == (3, 0, 3)
    assert "poison" in daemon.cli("show", str(job)).stdout
    assert "may be what brings the host down" in daemon.cli("why", str(job)).stdout

    assert daemon.cli("release", str(job)).returncode == 0
    kill_everything(daemon, job)

    with daemon.client() as client:
        running(client, job)
        again = job_view(client, job)["orphanings"]
        client.cancel(job)
        assert end_of(client, job) == ("cancelled", "user")
        client.call("job.retry", {"id": job})
        afresh = job_view(client, job)["orphanings"]
        gate.open()
        assert (again, afresh) == (1, 0)
        assert end_of(client, job) == ("succeeded", "exit")


def test_orphan_when_it_was_being_cancelled_then_it_ends_cancelled_and_not_orphaned(
    daemon: DaemonProcess, deaf: DeafWorker
) -> None:
    with daemon.client() as client:
        job = deaf.submit(client, grace_ms=1_000, on_orphan="requeue")
        client.cancel(job)
    daemon.kill_and_start()

    with daemon.client() as client:
        assert end_of(client, job) == ("cancelled", "user")


# --- launchers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("failed", "orphaned")),
        ({"on_orphan": "hold"}, ("held", "orphaned")),
        ({"survive": True}, ("failed", "lost")),
    ],
)
def test_launcher_when_killed_under_a_daemon_then_its_jobs_end_and_new_ones_run(
    daemon: DaemonProcess, gate: Gate, options: dict[str, Any], expected: tuple[str, str]
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), **options)
        pid = job_view(client, job)["pid"]
        (launcher,) = launchers(client)

        kill9(launcher)

        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
        if "survive" in options:
            until(lambda: daemon.events("recovery_planned")[1:], why="the adoption of its worker")
            assert (state(client, job), alive(pid)) == ("running", True)
            gate.open()
        assert end_of(client, job) == expected
        assert not alive(pid)
        assert launchers(client) != [launcher]


def test_launcher_when_killed_then_a_safe_job_runs_again(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(), on_orphan="requeue")

        kill9(launchers(client)[0])

        until(lambda: job_view(client, job)["attempts"] == 2, why="the second attempt")
        gate.open()
        assert end_of(client, job) == ("succeeded", "exit")


def test_workers_when_all_else_was_killed_then_they_are_found_by_their_environment(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    pids = tmp_path / "said"
    child = f"echo $$ >> {pids}; read _ < {gate.path}"
    with daemon.client() as client:
        job = submit(client, shell(f"setsid sh -c '{child}' & {child}"))
        until(lambda: len(lines(pids)) == 2, why="the tree")
        launcher = launchers(client)[0]
    os.kill(launcher, signal.SIGSTOP)
    daemon.kill9()
    kill9(launcher)

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "orphaned")
    assert [pid for pid in lines(pids) if alive(int(pid))] == []


def test_everything_when_killed_and_the_worker_is_gone_too_then_the_end_is_unseen(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec())
        pid, launcher = job_view(client, job)["pid"], launchers(client)[0]
    daemon.kill9()
    kill9(launcher)
    kill9(pid)

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "orphaned")
        assert recovery(client)["unseen"] == 1
        assert [change["cause"] for change in changes(client, job)] == ["submitted", "dispatched", "ended"]
    shown = [" ".join(line.split()) for line in daemon.cli("show", str(job)).stdout.splitlines()]
    assert "state failed: ran or ended while no daemon was there" in shown
    assert "attempts 1 so far, 0 of 1 allowed failures, 1 ended unseen" in shown
    assert "unseen" in shown[-1].split()


# --- what is left behind ------------------------------------------------------------------------------------


def test_leaked_worker_when_no_attempt_owns_it_then_the_start_stops_and_counts_it(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        instance = client.status()["instance"]
    daemon.kill9()
    marks = {"STOKER_INSTANCE": instance, "STOKER_RUN_ID": "77.1.0123456789abcdef"}
    leaked = os.posix_spawn("/bin/sh", ["sh", "-c", f"read _ < {gate.path}"], {**marks, "PATH": os.environ["PATH"]})
    until(lambda: b"STOKER_RUN_ID" in Path(f"/proc/{leaked}/environ").read_bytes(), why="its environment")

    daemon.start()

    with daemon.client() as client:
        assert recovery(client)["swept"] == 1
    assert not alive(leaked)
    os.waitpid(leaked, 0)
    assert daemon.logged("worker_leaked")


def test_strangers_when_they_carry_another_instance_then_they_get_no_signal(daemon: DaemonProcess, gate: Gate) -> None:
    marks = {"STOKER_INSTANCE": "0123456789abcdef", "STOKER_RUN_ID": "1.1.0123456789abcdef"}
    stranger = os.posix_spawn(
        "/bin/sh", ["sh", "-c", f"read _ < {gate.path}; :"], {**marks, "PATH": os.environ["PATH"]}
    )
    daemon.kill_and_start()

    with daemon.client() as client:
        assert recovery(client)["swept"] == 0
    assert alive(stranger)
    gate.open()
    assert os.waitpid(stranger, 0)[1] == 0


@pytest.fixture
def copy(daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """A daemon for another directory, which a test makes as a copy of the first one's."""
    other = DaemonProcess()
    yield other
    other.end()


def copied(of: DaemonProcess, to: DaemonProcess) -> None:
    shutil.copytree(of.state_dir, to.state_dir, ignore=shutil.ignore_patterns("*.sock"))
    to.state_dir.chmod(0o700)


def test_copied_directory_when_a_daemon_starts_then_it_holds_jobs_without_a_signal(
    daemon: DaemonProcess, copy: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        jobs = [submit(client, gate.spec("exit 5"), survive=survive) for survive in (True, False)]
        running(client, *jobs)
        pids = [job_view(client, job)["pid"] for job in jobs]
        instance = client.status()["instance"]
    until(lambda: identities_on_disk(daemon) == sorted(pids), why="the identities of both workers on disk")
    copied(daemon, copy)

    for _ in range(3):
        with copy.start().client() as client:
            assert [end_of(client, job) for job in jobs] == [("held", "stuck")] * 2
            assert client.status()["instance"] != instance
            assert recovery(client)["stuck"] == 2
            assert "look at pid" in client.why(jobs[0])["message"]
        copy.kill9()

    assert all(alive(pid) for pid in pids)
    with daemon.client() as client:
        gate.open()
        assert [end_of(client, job) for job in jobs] == [("failed", "exit")] * 2
        assert [job_view(client, job)["exit_code"] for job in jobs] == [5, 5]
    with copy.start().client() as client:
        assert [end_of(client, job) for job in jobs] == [("held", "lost")] * 2
        assert client.why(jobs[0])["hint"] == f"stoker release {jobs[0]}, or stoker cancel {jobs[0]}"
        client.cancel(jobs[0])
        assert end_of(client, jobs[0]) == ("cancelled", "user")


def test_copied_directory_when_its_launcher_dies_then_only_its_jobs_are_recovered(
    daemon: DaemonProcess, copy: DaemonProcess, gate: Gate
) -> None:
    copied(daemon, copy)
    with copy.start().client() as client:
        job = submit_running(client, gate.spec())

        kill9(launchers(client)[0])

        assert end_of(client, job) == ("failed", "orphaned")
