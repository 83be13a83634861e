"""The matrix of fates: every policy of a job against all that can happen to daemon, launcher and worker.

Owns the table, worked out from the promises, and one function for each row that makes it happen to six
jobs at once. A cell says state, reason and how often the job was STARTed; a row holds only if no worker is left, and
no two workers of a job were ever there at once. Nothing is left to luck: each race is stopped at its decisive point.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support import reuse
from tests.support.daemon import BIN, DaemonProcess
from tests.support.facts import DEADLINE_S, until
from tests.support.policies import POLICIES, Six, identities_on_disk
from tests.support.work import changes, kill9

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.work import Gate

FATES = """
                     fail              fail+survive      requeue           requeue+survive   hold              hold+survive
daemon_killed        failed/orphaned/1 failed/exit/1     failed/exit/2     failed/exit/1     held/orphaned/1   failed/exit/1
launcher_killed      failed/orphaned/1 failed/lost/1     failed/exit/2     failed/exit/2     held/orphaned/1   held/lost/1
both_killed          failed/orphaned/1 failed/lost/1     failed/exit/2     failed/exit/2     held/orphaned/1   held/lost/1
all_killed           failed/orphaned/1 failed/orphaned/1 failed/exit/2     failed/exit/2     held/orphaned/1   held/orphaned/1
rebooted             failed/orphaned/1 failed/orphaned/1 failed/exit/2     failed/exit/2     held/orphaned/1   held/orphaned/1
ended_meanwhile      failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1
ended_and_written    failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1
unacknowledged       failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1
frozen               failed/orphaned/1 failed/exit/1     failed/exit/2     failed/exit/1     held/orphaned/1   failed/exit/1
frozen_alone         failed/orphaned/1 failed/lost/1     failed/exit/2     failed/exit/2     held/orphaned/1   held/lost/1
late_launch          failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1
unknown_outcome      held/lost/0       held/lost/0       held/lost/0       held/lost/0       held/lost/0       held/lost/0
copied_directory     held/stuck/1      held/stuck/1      held/stuck/1      held/stuck/1      held/stuck/1      held/stuck/1
another_namespace    held/stuck/1      held/stuck/1      held/stuck/1      held/stuck/1      held/stuck/1      held/stuck/1
cancelled_unsent     cancelled/user/1  cancelled/user/1  cancelled/user/1  cancelled/user/1  cancelled/user/1  cancelled/user/1
exit_before_cancel   failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1     failed/exit/1
"""  # noqa: E501 - one row a line

SETTINGS = "[daemon]\nmax_running = 8\n"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
AS_ROOT = {"rebooted", "another_namespace"}


@pytest.fixture
def six(daemon: DaemonProcess, gate: Gate) -> Iterator[Six]:
    jobs = Six(daemon, gate)
    with jobs.moved:
        yield jobs


# --- what happens -------------------------------------------------------------------------------------------


def daemon_killed(six: Six) -> None:
    six.run()
    six.daemon.kill_and_start()


def launcher_killed(six: Six) -> None:
    six.run()
    kill9(six.launcher())


def both_killed(six: Six) -> None:
    six.run()
    kill_both(six)
    six.daemon.start()


def all_killed(six: Six) -> None:
    six.run()
    six.daemon.kill_all()
    six.daemon.start()


def rebooted(six: Six) -> None:
    """Another boot: the pids of the workers belong to foreign processes."""
    six.run()
    until(lambda: len(identities_on_disk(six.daemon)) == len(POLICIES), why="six identities on disk")
    pids = six.workers()
    kill_both(six)
    reuse.end(pids)
    decoys = [decoy for pid in pids if (decoy := reuse.take(pid, six.argv(), {})) is not None]
    boot = six.daemon.home / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    inside(six.daemon, "unshare", "-m", "sh", "-c", f'mount --bind {boot} {BOOT_ID} && exec "$@"', "sh")

    six.daemon.start()

    with six.daemon.client() as client:
        until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
    got = [decoy.got() for decoy in decoys]
    for decoy in decoys:
        decoy.reap()
    assert decoys
    assert not any(got)


def ended_meanwhile(six: Six) -> None:
    """The launcher lives and keeps the outcomes."""
    six.run()
    launcher = six.launcher()
    os.kill(launcher, signal.SIGSTOP)
    six.daemon.kill9()
    six.gate.open()
    until(lambda: not six.workers(), why="the end of the workers")
    os.kill(launcher, signal.SIGCONT)
    six.daemon.start()


def ended_and_written(six: Six) -> None:
    """The launcher has written the outcomes to its log and ended."""
    six.run()
    six.daemon.kill9()
    six.gate.open()
    until(lambda: not list(six.daemon.processes()), why="the end of the launcher")
    six.daemon.start()


def unacknowledged(six: Six) -> None:
    """The outcomes are committed; the acknowledgements never reached the launcher."""
    six.run()
    six.daemon.kill9()
    six.gate.open()
    until(lambda: not list(six.daemon.processes()), why="the end of the launcher")
    outcomes = six.daemon.state_dir / "outcomes"
    shutil.copytree(outcomes, six.daemon.home / "kept")
    with six.daemon.start().client() as client:
        client.wait(*six.jobs.values())
        until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
        before = {job: client.history(job)["changes"] for job in six.jobs.values()}
    six.daemon.kill_all()
    shutil.copytree(six.daemon.home / "kept", outcomes, dirs_exist_ok=True)
    assert list(outcomes.glob("*.log"))

    six.daemon.start()

    with six.daemon.client() as client:
        until(lambda: not list(outcomes.glob("*.log")), why="the end of the outcomes")
        assert {job: client.history(job)["changes"] for job in six.jobs.values()} == before


def frozen(six: Six) -> None:
    six.run()
    for pid in six.workers():
        os.kill(pid, signal.SIGSTOP)
    six.daemon.kill_and_start()


def frozen_alone(six: Six) -> None:
    six.run()
    for pid in six.workers():
        os.kill(pid, signal.SIGSTOP)
    kill_both(six)
    six.daemon.start()


def late_launch(six: Six) -> None:
    """The launcher reads its orders after the daemon that sent them has died."""
    launcher = six.launcher()
    os.kill(launcher, signal.SIGSTOP)
    with six.daemon.client() as client:
        six.submit(client)
        until(lambda: all(client.get(job)["attempts"] for job in six.jobs.values()), why="six launches")
        client.call("system.health")  # answered after the launches
    six.daemon.kill9()
    os.kill(launcher, signal.SIGCONT)
    six.daemon.start()


def unknown_outcome(six: Six) -> None:
    """Outcomes arrive of jobs that have not begun, and of a job that does not exist."""
    with six.daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        six.submit(client)
    six.daemon.kill_all()
    outcome = {"op": "exit", "exit_code": 0, "signal": None, "stopped": False, "left": 0, "user_ms": 0, "system_ms": 0,
            "max_rss_kib": 0, "log_bytes": 0, "oom": False, "at_boot_ms": 1, "at_ms": 1}  # fmt: skip
    log = six.daemon.state_dir / "outcomes" / "1-dead0000.log"
    runs = [f"{job}.1.0123456789abcdef" for job in (*six.jobs.values(), 999)]
    log.write_text("".join(json.dumps(outcome | {"run_id": run_id}) + "\n" for run_id in runs))

    six.daemon.start()

    until(lambda: not log.exists(), why="the end of the outcomes")
    with six.daemon.client() as client:
        client.call("queue.resume", {"name": "default"})


def copied_directory(six: Six) -> None:
    six.run()
    six.daemon.kill9()
    six.move()
    six.daemon.start()


def another_namespace(six: Six) -> None:
    six.run()
    until(lambda: len(identities_on_disk(six.daemon)) == len(POLICIES), why="six identities on disk")
    kill_both(six)
    inside(six.daemon, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    six.daemon.start()
    with six.daemon.client() as client:
        until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
    assert len(six.workers()) == len(POLICIES)


def cancelled_unsent(six: Six) -> None:
    """The cancels are committed; daemon and launcher die before any signal is sent."""
    six.run()
    launcher = six.launcher()
    os.kill(launcher, signal.SIGSTOP)
    asked = cancel_all(six)
    kill_both(six, launcher)
    asked.close()
    six.daemon.start()


def exit_before_cancel(six: Six) -> None:
    """The workers have ended, unnoticed, when the cancels come: their outcomes stand."""
    six.run()
    launcher = six.launcher()
    os.kill(launcher, signal.SIGSTOP)
    six.gate.open()
    until(lambda: not six.workers(), why="the ends that nobody has noticed")
    asked = cancel_all(six)
    os.kill(launcher, signal.SIGCONT)
    with asked, asked.makefile("rb") as answers:
        codes = [json.loads(answers.readline())["error"]["data"]["code"] for _ in six.jobs]
    assert codes == ["already_finished"] * len(six.jobs)


# --- how it is made to happen -------------------------------------------------------------------------------


def kill_both(six: Six, launcher: int | None = None) -> None:
    launcher = launcher or six.launcher()
    six.daemon.kill9()
    kill9(launcher)


def cancel_all(six: Six) -> socket.socket:
    """Send six cancels and return once they are committed, before their answers."""
    asked = socket.socket(socket.AF_UNIX)
    asked.settimeout(DEADLINE_S)
    asked.connect(str(six.daemon.socket))
    calls = [{"jsonrpc": "2.0", "id": job, "method": "job.cancel", "params": {"id": job}} for job in six.jobs.values()]
    asked.sendall(b"".join(json.dumps(call).encode() + b"\n" for call in calls))
    with six.daemon.client() as client:
        until(lambda: all(changes(client, job, "cancel") for job in six.jobs.values()), why="six committed cancels")
    return asked


def inside(daemon: DaemonProcess, *around: str) -> None:
    """Run the next `stokerd` inside this command."""
    programs = daemon.home / "programs"
    programs.mkdir()
    program = programs / "stokerd"
    words = " ".join(f"'{word}'" for word in around)
    program.write_text(f'#!/bin/sh\nexec {words} {BIN}/stokerd "$@"\n')
    program.chmod(0o755)
    daemon.programs = programs


# --- the matrix ---------------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Six], None]] = {
    row.__name__: row
    for row in (
        daemon_killed, launcher_killed, both_killed, all_killed, rebooted, ended_meanwhile, ended_and_written,
        unacknowledged, frozen, frozen_alone, late_launch, unknown_outcome, copied_directory, another_namespace,
        cancelled_unsent, exit_before_cancel,
    )
}  # fmt: skip


def table() -> dict[str, dict[str, str]]:
    header, *rows = [line.split() for line in FATES.strip().splitlines()]
    return {row[0]: dict(zip(header, row[1:], strict=True)) for row in rows}


@pytest.mark.parametrize("row", table())
def test_fates_when_daemon_launcher_or_worker_die_then_each_policy_ends_as_designed(six: Six, row: str) -> None:
    if row in AS_ROOT and reuse.why_not() is not None:
        pytest.skip(f"{row}: {reuse.why_not()}")
    expected = table()[row]

    ROWS[row](six)

    fates = six.fates()
    assert fates == {policy: cell.replace("/", " ") for policy, cell in expected.items()}


def test_fates_when_the_table_is_read_then_every_row_and_every_policy_is_possible() -> None:
    assert set(table()) == set(ROWS)
    assert all(list(row) == list(POLICIES) for row in table().values())
