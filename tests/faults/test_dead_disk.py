"""File systems that hang: workers that no signal reaches, and launchers that are stuck in a spawn.

Owns a frozen ext4 (its writers sleep through SIGKILL) and a directory whose file system never answers. A test goes on
once the fault is seen: a worker in state D, a launcher that is reported as stuck. Every test asks: a process that may
live keeps its resources, and all other jobs and clients are served.
"""

from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.service.preflight import THREADS
from tests.support import disks, locked_memory
from tests.support.daemon import DaemonProcess
from tests.support.disks import DeadDirectory, Disk
from tests.support.facts import until
from tests.support.policies import identities_on_disk
from tests.support.rpc import RawClient, request
from tests.support.torture import launchers
from tests.support.work import Gate, alive, end_of, job_view, kill9, running, shell, state, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker

SETTINGS = """
[daemon]
max_running = 8
[launcher]
stuck_ms = 1000
[cpu]
throttle_threshold = 100
"""

# The identity of the only open attempt, as stored and as a kernel before 6.9 would report it.
KNOWN = "SELECT count(*) FROM attempts WHERE ended_at IS NULL AND pid > 0 AND job_id = 1"
UNMARKED = 1_000_000  # microseconds of RLIMIT_RTTIME, which is no mark
FORGET_INODES = "UPDATE attempts SET pidfs_inode = NULL"


@pytest.fixture
def patient(stopped_daemon: DaemonProcess) -> DaemonProcess:
    """A daemon with one unit of a resource, and enough slots besides the jobs that hang."""
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        client.call("resource.set", {"name": "tape", "capacity": 1})
    return stopped_daemon


@pytest.fixture
def disk(patient: DaemonProcess, tmp_path: Path) -> Iterator[Disk]:
    """A frozen file system on which workers work."""
    missing = disks.why_not("ext4", tmp_path)
    if missing is not None:
        pytest.skip(missing)
    with Disk(patient.home / "image", "ext4", patient.home / "data") as mounted:
        mounted.freeze()
        yield mounted


@pytest.fixture
def thawed(disk: Disk) -> Disk:
    """The same, not frozen yet."""
    disk.thaw()
    return disk


@pytest.fixture(params=["marks", "no marks"])
def either(request: pytest.FixtureRequest, patient: DaemonProcess) -> DaemonProcess:
    """The same, or one where RLIMIT_RTTIME leaves no room for marks, so that its launchers must read environments."""
    if request.param == "no marks":
        patient.stop()
        stokerd = patient.home / "stokerd"  # its file system is not frozen
        stokerd.write_text(f'#!/bin/sh\nexec prlimit --rttime={UNMARKED}:{UNMARKED} {patient.programs}/stokerd "$@"\n')
        stokerd.chmod(0o755)
        patient.programs = stokerd.parent
        patient.config.write_text(SETTINGS.replace("stuck_ms = 1000", "stuck_ms = 5000"))  # a read may take a second
        patient.start()
    return patient


@contextmanager
def locked_stranger(disk: Disk) -> Iterator[int]:
    """A process that is not ours, with its memory locked on that file system, which is frozen meanwhile."""
    command = [sys.executable, "-I", "-S", locked_memory.__file__, str(disk.where / "mapped")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdin is not None
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"mapped\n"
        disk.freeze()
        try:
            stranger.stdin.write(b"\n")
            stranger.stdin.flush()
            until(lambda: is_locked(stranger.pid), why="the lock of its memory")
            yield stranger.pid
        finally:
            disk.thaw()


def locking(disk: Disk, lock: Gate) -> str:
    """The command of a worker that locks its memory once `lock` is opened."""
    return f"{sys.executable} -I -S {locked_memory.__file__} {disk.where}/mapped < {lock.path}"


def is_unmarked(pid: int) -> bool:
    soft, _ = resource.prlimit(pid, resource.RLIMIT_RTTIME)
    return soft == UNMARKED


def is_locked(pid: int) -> bool:
    """Whether readers of its memory would hang: one of its threads waits in munmap(2)."""
    return any("munmap" in (task / "wchan").read_text() for task in Path(f"/proc/{pid}/task").iterdir())


def process_named(argument: str) -> int | None:
    """The pid of the Python process that has this argument."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"python") and argument.encode() in words:
                return int(path.parent.name)
    return None


def log_of(client: stoker.Client, job: int) -> str:
    return b"".join(client.logs(job)).decode()


@pytest.fixture
def dead(patient: DaemonProcess) -> Iterator[DeadDirectory]:
    """A directory that no process can enter or leave."""
    try:
        directory = DeadDirectory(patient.home / "dead")
    except OSError as error:
        pytest.skip(f"no file system of our own can be mounted here: {error}")
    with directory:
        yield directory


def asleep(client: stoker.Client, job: int) -> int:
    """The pid of the worker, once it sleeps uninterruptibly."""
    running(client, job)
    pid: int = job_view(client, job)["pid"]
    until(lambda: sleeps(pid), why=f"state D of {pid}")
    return pid


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


def kill_all_but_workers(daemon: DaemonProcess) -> None:
    daemon.kill9()
    for pid in launchers(daemon.state_dir).values():
        kill9(pid)


def test_worker_when_no_signal_reaches_it_then_only_its_own_job_stays_stopping(
    patient: DaemonProcess, disk: Disk
) -> None:
    with patient.client() as client:
        job = submit(
            client, shell(f": > {disk.where}/x", resources={"tape": 1}, timeout_ms=100, grace_ms=100, max_attempts=1)
        )
        waiting = submit(client, shell(":", resources={"tape": 1}))
        pid = asleep(client, job)
        until(lambda: "SIGKILL" in pending(pid), why="a SIGKILL that waits for it")

        blocker, blocked = client.why(job), client.why(waiting)
        client.cancel(job)
        other = end_of(client, submit(client, shell(":")))
        shown, alike = job_view(client, job), state(client, waiting)
        health = client.call("system.health")["ok"]
        disk.thaw()
        ends = [end_of(client, job), end_of(client, waiting)]

    assert blocker["code"] == "stopping"
    assert blocker["message"].startswith("is being stopped (timeout, 100ms an attempt); ")
    assert f"pid {pid} sleeps in the kernel where no signal reaches it" in blocker["message"]
    assert (blocked["code"], blocked["details"]["holders"]) == ("resource", [job])
    assert (other, shown["state"], shown["stopping"], alike, health) == (
        ("succeeded", "exit"), "running", True, "queued", True
    )  # fmt: skip
    assert ends == [("failed", "timeout"), ("succeeded", "exit")]


def pending(pid: int) -> set[str]:
    """The pending signals of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return {signum.name for signum in signal.Signals for mask in masks if mask >> (signum - 1) & 1}


def test_safe_job_when_its_worker_outlives_all_then_it_waits_for_proof_of_its_end(
    patient: DaemonProcess, disk: Disk
) -> None:
    with patient.client() as client:
        job = submit(client, shell(f": > {disk.where}/x", resources={"tape": 1}, grace_ms=100, on_orphan="requeue"))
        waiting = submit(client, shell(":", resources={"tape": 1}))
        pid = asleep(client, job)
    kill_all_but_workers(patient)

    patient.start()
    with patient.client() as client:
        until(lambda: "SIGKILL" in pending(pid), why="a SIGKILL that waits for it")
        until(lambda: patient.events("recovery_finished")[1:], why="the end of the recovery")
        other = end_of(client, submit(client, shell(":")))
        before = job_view(client, job)
        blocked = client.why(waiting)["details"]["holders"]
        disk.thaw()
        ends = [end_of(client, job), end_of(client, waiting)]
        outcomes = [attempt["outcome"] for attempt in job_view(client, job)["attempts_list"]]

    assert (other, before["state"], before["attempts"], blocked) == (("succeeded", "exit"), "running", 1, [job])
    assert ends == [("succeeded", "exit"), ("succeeded", "exit")]
    assert outcomes == ["unseen", "exit"]


def test_worker_when_its_owner_cannot_be_proven_then_it_is_stuck_until_it_is_gone(
    patient: DaemonProcess, disk: Disk
) -> None:
    with patient.client() as client:
        bare = shell(
            f"exec prlimit --rttime=unlimited env -i sh -c ': > {disk.where}/x'",
            resources={"tape": 1},
            on_orphan="requeue",
        )
        job = submit(client, bare)
        waiting = submit(client, shell(":", resources={"tape": 1}))
        pid = asleep(client, job)
        database = patient.state_dir / "stoker.db"
        until(lambda: submit(client, shell(":")) and ask(database, KNOWN) == [1], why="a commit that takes it along")
    kill_all_but_workers(patient)
    ask(database, FORGET_INODES)

    patient.start()
    with patient.client() as client:
        until(lambda: patient.events("recovery_finished")[1:], why="the end of the recovery")
        other = end_of(client, submit(client, shell(":")))
        held, blocked = job_view(client, job), client.why(waiting)["details"]["holders"]
        message, signals = client.why(job)["message"], pending(pid)
        disk.thaw()
        end = end_of(client, waiting)
        after = job_view(client, job)

    assert (other, held["state"], held["reason"], blocked) == (("succeeded", "exit"), "held", "stuck", [job])
    assert (signals, f"look at pid {pid}" in message) == (set(), True)
    assert (end, after["state"], after["attempts_list"][-1]["outcome"]) == (("succeeded", "exit"), "held", "unseen")
    assert (disk.where / "x").exists()


def ask(database: Path, question: str) -> list[int]:
    with closing(sqlite3.connect(database)) as connection, connection:
        return [row[0] for row in connection.execute(question)]


def test_launcher_when_stuck_in_a_dead_working_dir_then_another_takes_over(
    patient: DaemonProcess, dead: DeadDirectory
) -> None:
    gate = Gate(patient.home / "gate")
    with patient.client() as client:
        before = submit_running(client, gate.spec("exit 3"))
        hanging = submit(client, shell(":", working_dir=f"{dead.where}/x"))
        (stuck,) = until(lambda: patient.events("launcher_stuck"), why="a launcher that is told as stuck")

        after = end_of(client, submit(client, shell(":")))
        gate.open()
        messages = [client.why(job)["message"] for job in (before, hanging)]
        standing = {one["id"]: (one["state"], one["running"]) for one in client.call("system.status")["launchers"]}
        states, health = [state(client, before), state(client, hanging)], client.call("system.health")["ok"]
        dead.close()
        ends = [end_of(client, before), end_of(client, hanging)]
        until(lambda: len(client.call("system.status")["launchers"]) == 1, why="the leave of the empty one")

    assert (after, health, states) == (("succeeded", "exit"), True, ["running", "running"])
    assert standing.pop(stuck["launcher"]) == ("stuck", 2)
    assert list(standing.values()) == [("ok", 0)]
    assert all(f"its launcher {stuck['launcher']} lives and does not answer" in message for message in messages)
    assert ends == [("failed", "exit"), ("failed", "spawn_error")]
    assert [event["launcher"] for event in patient.logged("launcher_back")] == [stuck["launcher"]]
    assert [event["launcher"] for event in patient.logged("launcher_left")] == [stuck["launcher"]]


def test_submit_when_looks_into_a_dead_mount_hold_every_thread_then_all_are_answered(
    patient: DaemonProcess, dead: DeadDirectory
) -> None:
    with patient.client() as client, RawClient(patient.socket) as several:
        client.call("queue.pause", {"name": "default"})  # no launcher is to hang, too
        in_it = [f"{dead.where}/{number}" for number in range(THREADS + 1)]
        several.say(b"".join(request("job.submit", at, command=":", working_dir=at) for at in in_it))
        answers = [several.hear() for _ in in_it]
        other = submit(client, shell(":", working_dir=str(patient.home)))
        missing = several.ask("job.submit", command="no-such-program")
        health = client.call("system.health")["ok"]
        dead.close()
        client.call("queue.resume", {"name": "default"})
        end = end_of(client, other)

    assert [answer["result"]["state"] for answer in answers] == ["queued"] * len(in_it)
    assert missing["result"]["state"] == "queued"  # it could not be looked for
    assert (health, end) == (True, ("succeeded", "exit"))


def test_launcher_when_killed_beside_a_stuck_one_then_its_jobs_are_recovered_at_once(
    patient: DaemonProcess, dead: DeadDirectory
) -> None:
    gate = Gate(patient.home / "gate")
    with patient.client() as client:
        hanging = submit(client, shell(":", working_dir=f"{dead.where}/x"))
        until(lambda: patient.events("launcher_stuck"), why="a launcher that is told as stuck")
        job = submit_running(client, gate.spec(on_orphan="requeue", grace_ms=100))

        kill9(next(one["pid"] for one in client.call("system.status")["launchers"] if one["state"] == "ok"))
        until(lambda: job_view(client, job)["attempts"] == 2, why="a second attempt")
        gate.open()
        end, meanwhile = end_of(client, job), state(client, hanging)

    assert (end, meanwhile) == (("succeeded", "exit"), "running")


def test_daemon_when_restarted_beside_a_stuck_launcher_then_it_settles_late_outcomes(
    patient: DaemonProcess, dead: DeadDirectory
) -> None:
    gate = Gate(patient.home / "gate")
    with patient.client() as client:
        before = submit(client, gate.spec("exit 3"))
        lasting = submit(client, shell("exec tail -f /dev/null", survive=True))
        running(client, before, lasting)
        hanging = submit(client, shell(":", working_dir=f"{dead.where}/x", on_orphan="requeue"))
        (stuck,) = until(lambda: patient.events("launcher_stuck"), why="a launcher that is told as stuck")
        pid = next(one["pid"] for one in client.call("system.status")["launchers"] if one["state"] == "stuck")
    patient.kill9()
    gate.open()

    patient.start()
    with patient.client() as client:
        after = end_of(client, submit(client, shell(":")))
        standing = {
            one["id"]: (one["pid"], one["state"], one["running"]) for one in client.call("system.status")["launchers"]
        }
        message = client.why(before)["message"]
        states = [state(client, job) for job in (before, lasting, hanging)]
        dead.close()
        ends = [end_of(client, before), end_of(client, hanging)]
        adopted = until(lambda: job_view(client, lasting)["attempts_list"][-1]["adopted"], why="an adoption")
        client.cancel(lasting)
        ends.append(end_of(client, lasting))

    assert standing[stuck["launcher"]] == (pid, "stuck", 3)
    assert (after, states, adopted) == (("succeeded", "exit"), ["running"] * 3, 1)
    assert f"its launcher {stuck['launcher']} lives and does not answer" in message
    assert ends == [("failed", "exit"), ("failed", "spawn_error"), ("cancelled", "user")]


def test_stops_when_a_launcher_is_stuck_then_they_happen_and_are_reported_later(
    patient: DaemonProcess, dead: DeadDirectory
) -> None:
    lasting = {"command": "/bin/sh", "args": ["-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]}
    with patient.client() as client:
        early, late = (submit(client, lasting, grace_ms=60_000) for _ in range(2))
        running(client, early, late)
        pids = [job_view(client, job)["pid"] for job in (early, late)]
        hanging = submit(client, shell(":", working_dir=f"{dead.where}/x"))
        until(lambda: all(sleeps(pid) for pid in launchers(patient.state_dir).values()), why="a launcher in state D")

        client.cancel(early)
        until(lambda: patient.events("launcher_stuck"), why="a launcher that is told as stuck")
        client.cancel(late)
        for pid in pids:
            until(lambda pid=pid: not alive(pid), why=f"the end of {pid}")  # type: ignore[misc]
        before = [state(client, job) for job in (early, late)]
        dead.close()
        ends = [end_of(client, job) for job in (early, late, hanging)]

    assert before == ["running", "running"]
    assert ends == [("cancelled", "user"), ("cancelled", "user"), ("failed", "spawn_error")]


def test_start_when_a_stranger_has_locked_its_memory_then_the_daemon_recovers(
    patient: DaemonProcess, thawed: Disk
) -> None:
    with patient.client() as client:
        job = submit_running(client, shell("exec tail -f /dev/null", grace_ms=100))
    kill_all_but_workers(patient)
    with locked_stranger(thawed) as pid:
        patient.start()
        with patient.client() as client:
            until(lambda: patient.events("recovery_finished")[1:], why="the end of the recovery")
            ends = [end_of(client, job), end_of(client, submit(client, shell(":")))]
            locked = is_locked(pid)

    assert locked
    assert ends == [("failed", "orphaned"), ("succeeded", "exit")]


def test_launcher_when_a_child_it_adopts_has_locked_its_memory_then_it_serves_others(
    either: DaemonProcess, thawed: Disk, tmp_path: Path
) -> None:
    over, lock = Gate(tmp_path / "over"), Gate(tmp_path / "lock")
    with either.client() as client:
        job = submit(client, shell(f"setsid {locking(thawed, lock)} & read _ < {over.path}; exit 0", grace_ms=100))
        pid = until(lambda: process_named(f"{thawed.where}/mapped"), why="the child that locks its memory")
        assert pid is not None
        assert is_unmarked(pid) is (either.programs == either.home)
        until(lambda: "mapped" in log_of(client, job), why="its mapping")
        thawed.freeze()
        lock.open()
        until(lambda: is_locked(pid), why="the lock of its memory")
        over.open()
        ends = [end_of(client, submit(client, shell(":"))) for _ in range(3)]
        before, stuck = job_view(client, job)["state"], either.events("launcher_stuck")
        thawed.thaw()
        after = end_of(client, job)

    assert (ends, before, stuck) == ([("succeeded", "exit")] * 3, "running", [])
    assert after[0] == "succeeded"


def test_launcher_when_it_takes_the_log_of_a_locked_worker_then_it_serves_others(
    either: DaemonProcess, thawed: Disk, tmp_path: Path
) -> None:
    lock = Gate(tmp_path / "lock")
    with either.client() as client:
        job = submit_running(client, shell(f"exec {locking(thawed, lock)}", survive=True))
        until(lambda: "mapped" in log_of(client, job), why="its mapping")
        until(lambda: identities_on_disk(either), why="its identity on disk")
        pid = job_view(client, job)["pid"]
        (launcher,) = launchers(either.state_dir).values()  # reads the memory of all processes
        thawed.freeze()
        lock.open()
        until(lambda: is_locked(pid), why="the lock of its memory")
    either.kill9()
    kill9(launcher)

    either.start()
    with either.client() as client:
        until(lambda: either.events("recovery_finished")[1:], why="the end of the recovery")
        ends = [end_of(client, submit(client, shell(":"))) for _ in range(3)]
        stuck, before = either.events("launcher_stuck"), job_view(client, job)["state"]
        thawed.thaw()
        after = end_of(client, job)

    assert (ends, before, stuck) == ([("succeeded", "exit")] * 3, "running", [])
    assert after == ("failed", "lost")
