"""`stoker recover --dry-run`: the plan that the next start follows, from a directory that stays as it is to the byte.

Owns the comparison of both: every file with its content and times before and after a look, and the plan with the row of
`recoveries` that the daemon then wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import EX_CONFIG, EX_TEMPFAIL, EX_USAGE
from stoker.core.job.model import OnOrphan
from stoker.store.directory import StateDirectory
from stoker.store.inspect import inspecting
from tests.support import past
from tests.support.facts import until
from tests.support.flows import job_of, sent_flow, settled, step
from tests.support.work import Gate, alive, job_view, kill9, lines, running, shell, submit, submit_running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

NOBODY = 65_534
TRIES = 20
LARGE = 3 << 30  # of zeros: seconds to hash, and no room on the disk
PLANNED = "SELECT plan FROM recoveries ORDER BY epoch DESC LIMIT 1"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    closed = Gate(tmp_path / "gate")
    yield closed
    closed.open()


def as_found(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file to the byte and when it was written; not when its owner was set, which SQLite does again as root."""
    entries: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        entries[str(path)] = (status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, content)
    return entries


def empty(root: Path) -> None:
    """As a directory in which nothing was ever started."""
    for path in root.iterdir():
        if path.is_file():
            path.unlink()


def dry_run(daemon: DaemonProcess, *options: str) -> subprocess.CompletedProcess[str]:
    return daemon.cli("recover", "--dry-run", "--state-dir", str(daemon.state_dir), *options)


def preview(daemon: DaemonProcess) -> dict[str, Any]:
    """The plan, after a look that must leave no trace."""
    before = as_found(daemon.state_dir)
    shown = dry_run(daemon, "--json")
    assert as_found(daemon.state_dir) == before
    assert (shown.returncode, shown.stderr) == (0, "")
    return dict(json.loads(shown.stdout))


def followed(daemon: DaemonProcess) -> dict[int, tuple[str, str | None]]:
    """The action of the last start for each job, and the state of the job after it; None while its worker runs."""
    ((plan,),) = daemon.rows(PLANNED)
    return {step["job_id"]: (step["action"], step["then"]) for step in json.loads(plan)}


def end(daemon: DaemonProcess) -> None:
    """Kill it with nothing running; its launcher then leaves by itself, and takes its files with it."""
    daemon.kill9()
    until(lambda: not list(daemon.processes()), why="the end of the launcher")


def leave(daemon: DaemonProcess, gate: Gate) -> dict[str, int]:
    """Jobs of all promises, running when their daemon is killed."""
    with daemon.client() as client:
        jobs = {
            "unsafe": submit(client, gate.spec(name="film")),
            "safe": submit(client, gate.spec(), on_orphan="requeue"),
            "survivor": submit(client, gate.spec(), survive=True),
        }
        running(client, *jobs.values())
    daemon.kill9()
    return jobs


def test_dry_run_when_the_launchers_are_dead_then_it_shows_the_next_start(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        (launcher,) = client.call("system.status")["launchers"]
    jobs = leave(daemon, gate)
    kill9(launcher["pid"])

    planned = preview(daemon)
    shown = dry_run(daemon)

    steps = {step["job"]: step for step in planned["steps"]}
    assert {name: (steps[job]["found"], steps[job]["would"]) for name, job in jobs.items()} == {
        "unsafe": ("orphaned", "stop"), "safe": ("orphaned", "stop"), "survivor": ("orphaned", "adopt"),
    }  # fmt: skip
    assert [steps[job]["then"] for job in jobs.values()] == ["failed", "queued", "running"]
    assert planned["launchers"] == {launcher["id"]: False}
    assert "film" in shown.stdout
    assert "failed orphaned" in shown.stdout
    assert all(alive(step["pid"]) for step in steps.values() if step["pid"] is not None)
    daemon.start()
    assert {job: action for job, (action, _) in followed(daemon).items()} == {
        job: step["would"] for job, step in steps.items()
    }


def test_dry_run_when_a_launcher_lives_then_it_is_not_taken_over(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    other = Gate(tmp_path / "other")
    with daemon.client() as client:
        (launcher,) = client.call("system.status")["launchers"]
        ended = submit_running(client, other.spec("exit 3"))
    jobs = leave(daemon, gate)
    other.open()
    until(lambda: list((daemon.state_dir / "outcomes").glob("*.log")), why="an outcome on disk")

    planned = preview(daemon)

    steps = {step["job"]: step for step in planned["steps"]}
    assert planned["launchers"] == {launcher["id"]: True}
    assert (steps[ended]["found"], steps[ended]["would"], steps[ended]["then"]) == ("ended", "settle", "failed")
    assert (steps[jobs["unsafe"]]["found"], steps[jobs["unsafe"]]["would"]) == ("owned", "stop")
    assert (steps[jobs["survivor"]]["found"], steps[jobs["survivor"]]["would"]) == ("owned", "adopt")
    daemon.start()
    assert {job: action for job, (action, _) in followed(daemon).items()} == {
        job: step["would"] for job, step in steps.items()
    }


def test_dry_run_when_workers_are_long_gone_then_each_job_ends_as_planned(daemon: DaemonProcess) -> None:
    daemon.cli("queue", "pause", "default")
    end(daemon)
    past.leave_open(daemon.state_dir / "stoker.db", past.KINDS)

    planned = preview(daemon)

    assert {step["would"] for step in planned["steps"]} == {"unseen"}
    daemon.start()
    expected = {step["job"]: (step["would"], step["then"]) for step in planned["steps"]}
    assert followed(daemon) == expected
    assert {then for _, then in expected.values()} == {"failed", "queued", "held"}


def test_start_when_the_daemon_died_while_it_hashed_sources_then_the_step_runs(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Not killed in time, the daemon has kept the hashes: then the next try counts."""
    large, ledger = tmp_path / "large", tmp_path / "ledger"
    for _ in range(TRIES):
        with large.open("wb") as file:
            file.truncate(LARGE)
        ledger.unlink(missing_ok=True)
        with daemon.client() as client:
            flow = sent_flow(client, {"a": step(f"echo ran >> {ledger}", sources=[str(large)])})
            job = job_of(client, flow, "a")
            until(lambda: job_view(client, job)["state"] != "queued", why="an open attempt")  # noqa: B023 - at once
        end(daemon)
        in_time = not list((daemon.state_dir / "work").glob("*.sources")) and not ledger.exists()
        planned = preview(daemon)
        large.write_bytes(b"")
        daemon.start()
        if in_time:
            break

    assert [(each["found"], each["would"], each["then"]) for each in planned["steps"]] == [
        ("never_started", "requeue", "queued")
    ]
    assert followed(daemon) == {job: ("requeue", "queued")}
    with daemon.client() as client:
        assert settled(client, flow) == "succeeded"
    assert lines(ledger) == ["ran"]


def test_dry_run_when_a_launcher_is_of_another_user_then_it_is_not_called_dead(daemon: DaemonProcess) -> None:
    """Its lock and the ends that it wrote down are in a directory of that user."""
    end(daemon)
    past.leave_open(daemon.state_dir / "stoker.db", [past.Kind(), past.Kind(OnOrphan.REQUEUE)])
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection, connection:
        connection.execute("UPDATE attempts SET launcher = '1-deadbeef-70001' WHERE ended_at IS NULL")

    planned = preview(daemon)

    assert [(step["found"], step["would"]) for step in planned["steps"]] == [("silent", "wait")] * 2
    assert "the directory of uid 70001 is not read here" in planned["steps"][0]["why"]
    assert dry_run(daemon).stdout.count(" ? ") == 2


def test_dry_run_when_two_attempts_claim_a_process_then_the_plan_is_invalid(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        (launcher,) = client.call("system.status")["launchers"]
        jobs = [submit(client, gate.spec()), submit(client, gate.spec())]
        running(client, *jobs)
        pid = job_view(client, jobs[0])["pid"]
    daemon.kill9()
    kill9(launcher["pid"])
    past.claim(daemon.state_dir / "stoker.db", jobs, pid)

    shown = dry_run(daemon)

    assert shown.returncode == 1
    assert f"process {pid} is claimed by {jobs[0]}.1." in shown.stdout
    assert "safe mode" in shown.stdout


def test_dry_run_when_a_daemon_runs_then_it_points_to_the_status(daemon: DaemonProcess) -> None:
    refused = dry_run(daemon)

    assert refused.returncode == EX_TEMPFAIL
    assert f"pid {daemon.pid}" in refused.stderr
    assert "hint: stoker status" in refused.stderr


def test_daemon_when_a_command_only_reads_then_it_cannot_start_meanwhile(daemon: DaemonProcess) -> None:
    daemon.kill9()
    with inspecting(StateDirectory(daemon.state_dir)), inspecting(StateDirectory(daemon.state_dir)):
        daemon.spawn()
        assert daemon.wait() == EX_TEMPFAIL

    daemon.start()


def test_recover_when_dry_run_is_missing_then_the_error_names_the_commands(daemon: DaemonProcess) -> None:
    refused = daemon.cli("recover")

    assert refused.returncode == EX_USAGE
    assert "stoker recover --dry-run" in refused.stderr
    assert "stoker status" in refused.stderr


@pytest.mark.parametrize("lost", ["stoker.db-shm", "stoker.db-wal"])
def test_dry_run_when_a_file_of_sqlite_is_missing_then_the_others_stay_as_they_are(
    daemon: DaemonProcess, lost: str
) -> None:
    with daemon.client() as client:
        client.wait(submit(client, shell("exit 0")))
    end(daemon)
    if lost == "stoker.db-wal":  # closing in order leaves none, and the database whole
        with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (daemon.state_dir / lost).unlink(missing_ok=True)

    assert preview(daemon)["steps"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("lost", [None, "stoker.db-shm"])
def test_dry_run_when_root_looks_at_a_service_then_its_files_stay_its_own(
    daemon: DaemonProcess, lost: str | None
) -> None:
    with daemon.client() as client:
        client.wait(submit(client, shell("exit 0")))
    end(daemon)
    if lost:
        (daemon.state_dir / lost).unlink()
    files = [daemon.state_dir, *daemon.state_dir.rglob("*")]
    for path in files:
        os.chown(path, NOBODY, NOBODY)

    assert preview(daemon)["steps"] == []

    assert {path.stat().st_uid for path in [daemon.state_dir, *daemon.state_dir.rglob("*")]} == {NOBODY}


UNFIT: dict[str, Callable[[Path], object]] = {
    "no directory": shutil.rmtree,
    "a new directory": empty,
    "a lost database": lambda root: (root / "stoker.db").unlink(),
    "an empty database": lambda root: (root / "stoker.db").write_bytes(b""),
    "a foreign file": lambda root: (root / "stoker.db").write_bytes(b"precious" * 99),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_dry_run_when_no_daemon_could_start_then_it_is_refused_untouched(daemon: DaemonProcess, unfit: str) -> None:
    end(daemon)
    UNFIT[unfit](daemon.state_dir)
    before = as_found(daemon.state_dir) if daemon.state_dir.exists() else {}

    refused = dry_run(daemon)

    assert refused.returncode == EX_CONFIG, refused.stderr
    assert "hint: " in refused.stderr
    assert (as_found(daemon.state_dir) if daemon.state_dir.exists() else {}) == before
