"""A disk that fails, and one that is full: acceptance stops, truth does not.

Owns EIO at fdatasync and fsync, ENOSPC at pwrite64 (strace injects them, at points drawn by the seed) and a tmpfs
that is really full. Refuses to pass when no fault fired. Without strace or a mount a test is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import DaemonUnreachable, DiskFull
from tests.support import strace
from tests.support.chains import broken_links, chains_of
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.disks import fill
from tests.support.facts import until
from tests.support.flows import flow, flow_end, send
from tests.support.lives import Lives
from tests.support.strace import Call, Strace
from tests.support.work import Gate, alive, end_of, running, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker

LIVES = int(os.environ.get("STOKER_FAULTS", "8"))
MISSING = strace.why_not()
EX_IOERR = 74
EX_TEMPFAIL = 75
SYNCS = ["fdatasync", "fsync"]
WRITES = ["pwrite64", "fallocate"]
# SQLite ignores an error of its sync of the directory; our own sync after it does not.
PASSED_OVER = Call("fdatasync", "state", injected=True)

traced = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
long = pytest.mark.timeout(300 + 8 * LIVES)


def borne(call: Call) -> bool:
    """Whether the daemon may go on: what is not the database is written again."""
    of_archive = call.file == "archive" or call.file.endswith(".json.gz.new")
    of_backup = call.file == "backups" or ".db." in call.file
    of_journal = call.file == "journal" or call.file.endswith(".jsonl")
    return call == PASSED_OVER or of_archive or of_backup or of_journal or call.file == "outcomes"


@traced
@long
def test_promises_when_a_sync_fails_then_the_daemon_stops_without_loss(tortured: DaemonProcess, seed: int) -> None:
    lives, around = Lives(tortured, seed, LIVES), Strace(tortured)
    drawn = lives.draw(lives.explore(around, SYNCS))
    struck: Counter[str] = Counter()

    for point in drawn:
        for_good = "+" if lives.dice.random() < 0.5 else ""
        around.set(f"trace={','.join(SYNCS)}", f"inject={point.syscall}:error=EIO:when={point.number}{for_good}")
        with contextlib.suppress(DaemonDied, DaemonUnreachable):
            tortured.start()
            lives.work()
        hit = [call for call in around.calls() if call.injected]
        struck.update(f"{call.syscall} {call.file}" for call in hit[:1])
        lives.fired += bool(hit)
        if all(borne(call) for call in hit):
            tortured.kill9()
        else:
            assert tortured.wait() == EX_IOERR, f"{hit}\n{tortured.tail()}"

    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={LIVES}: EIO at {dict(struck)}: ")
    around.set("trace=none")
    tortured.start()
    assert lives.complaints() == []
    assert lives.fired > len(drawn) // 3


@traced
def test_start_when_sqlite_ignores_a_failed_directory_sync_then_we_sync_it_first(
    tortured: DaemonProcess,
) -> None:
    around = Strace(tortured)
    assert tortured.stop() == 0  # its WAL goes with it, and the next start makes one

    around.set(f"trace={','.join(SYNCS)},bind", "inject=fdatasync:error=EIO:when=2")
    tortured.start()

    calls = around.calls()
    passed_over = calls.index(PASSED_OVER)
    listens = [call.syscall for call in calls].index("bind", passed_over)
    assert Call("fsync", "state", injected=False) in calls[passed_over:listens]


@traced
@long
def test_promises_when_a_write_meets_a_full_disk_then_the_daemon_accepts_again_later(
    tortured: DaemonProcess, seed: int
) -> None:
    lives, around = Lives(tortured, seed, LIVES), Strace(tortured)
    drawn = lives.draw(lives.explore(around, WRITES))
    struck: Counter[str] = Counter()

    for point in drawn:
        error = lives.dice.choice(["ENOSPC", "EDQUOT"] if point.syscall == "fallocate" else ["ENOSPC"])
        around.set(f"trace={','.join(WRITES)}", f"inject={point.syscall}:error={error}:when={point.number}")
        started = starts(tortured)
        if started:
            with contextlib.suppress(DiskFull):
                lives.work()
        hit = [call for call in around.calls() if call.injected]
        struck.update(f"{call.syscall} {call.file}" for call in hit[:1])
        lives.fired += bool(hit)
        if started:
            with tortured.client() as client:
                until(lambda: lives.accepted(client), why="a daemon that accepts again by itself")
            tortured.kill9()

    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={LIVES}: no space at {dict(struck)}: ")
    around.set("trace=none")
    tortured.start()
    assert lives.complaints() == []
    assert lives.fired > len(drawn) // 3


def starts(daemon: DaemonProcess) -> bool:
    """Whether it starts. Without room for a start it must refuse with a temporary error."""
    try:
        daemon.start()
    except DaemonDied:
        assert daemon.wait() == EX_TEMPFAIL, daemon.tail()
        return False
    return True


def accepted(client: stoker.Client) -> bool:
    """Whether a submit is accepted. Only a full disk may refuse it, with a hint."""
    refused = None
    try:
        submit(client, shell(":"), idempotency_key="again")
    except DiskFull as full:
        refused = full
    assert refused is None or (refused.transient and refused.hint)
    return refused is None


def test_disk_when_really_full_then_submits_are_refused_until_there_is_room_again(
    small_disk: DaemonProcess,
) -> None:
    gate, filler = Gate(small_disk.home / "gate"), small_disk.state_dir / "filler"
    with small_disk.client() as client:
        jobs = [submit(client, gate.spec("exit 3"), on_orphan="requeue") for _ in range(8)]
        running(client, *jobs)

        fill(filler)
        until(lambda: not accepted(client), why="submits to be refused")
        gate.open()
        ends = [end_of(client, job) for job in jobs]
        full = client.status()["disk"]["full"]
        filler.unlink()
        until(lambda: accepted(client), why="a daemon that accepts again by itself")

    assert ends == [("failed", "exit")] * len(jobs)
    assert full
    assert small_disk.stop() == 0


def test_checkpoint_when_the_disk_is_full_then_saves_fail_and_the_workflow_ends(
    small_disk: DaemonProcess,
) -> None:
    gate, filler, token = Gate(small_disk.home / "gate"), small_disk.state_dir / "filler", small_disk.home / "token"
    saves = gate.spec()["args"][-1]
    steps = {"a": shell(f"echo $STOKER_TOKEN > {token}.part; mv {token}.part {token}; {saves}")}
    with small_disk.client() as client:
        answer = send(client, flow(steps))
        until(token.exists, why="the token of the step")
        part = {"token": token.read_text().strip(), "data": "eA=="}
        kept = client.call("checkpoint.save", part)["seq"]

        fill(filler)
        until(lambda: not accepted(client), why="submits to be refused")
        with pytest.raises(DiskFull):
            client.call("checkpoint.save", part)
        warnings = until(lambda: small_disk.events("checkpoint_failed"), why="the warning")
        filler.unlink()
        until(lambda: accepted(client), why="a daemon that accepts again by itself")
        again = client.call("checkpoint.save", part)["seq"]
        gate.open()

        assert flow_end(client, answer["id"]) == "succeeded"
    small_disk.kill9()
    with sqlite3.connect(small_disk.state_dir / "stoker.db") as database:
        links = chains_of(database)["w1"]
    database.close()
    assert (again, len(warnings)) == (kept + 1, 1)
    assert list(broken_links("workflow 1", links)) == []


def test_daemon_when_killed_and_drained_on_a_full_disk_then_it_recovers_and_ends(
    small_disk: DaemonProcess,
) -> None:
    gate, filler = Gate(small_disk.home / "gate"), small_disk.state_dir / "filler"
    with small_disk.client() as client:
        job = submit_running(client, gate.spec("exit 3"), survive=True)
    fill(filler)

    small_disk.kill_and_start()
    gate.open()
    with small_disk.client() as client:
        end = end_of(client, job)
        refused = not accepted(client)
        fill(filler)
    status = small_disk.stop()

    assert (end, refused, status) == (("failed", "exit"), True, 0)


@pytest.mark.parametrize("room", [True, False], ids=["room again", "still full"])
def test_outcome_when_its_launcher_has_a_full_disk_then_it_is_kept_until_settled(
    small_disk: DaemonProcess, *, room: bool
) -> None:
    """No daemon is connected, and the outcome cannot be written."""
    gate, filler = Gate(small_disk.home / "gate"), small_disk.state_dir / "filler"
    with small_disk.client() as client:
        job = submit_running(client, gate.spec("exit 3"), survive=True)
        worker = client.get(job)["pid"]
    small_disk.kill9()
    fill(filler)

    gate.open()
    until(lambda: not alive(worker), why="the end of the worker")
    (log,) = until(lambda: list((small_disk.state_dir / "outcomes").glob("*.log")), why="the launcher's attempt")
    whole_lines = log.read_bytes().split(b"\n")[:-1]
    if room:
        filler.unlink()
    small_disk.start()
    with small_disk.client() as client:
        end = end_of(client, job)

    assert whole_lines == []
    assert end == ("failed", "exit")
