"""Hooks and restores: what the jobs of hooks were is there again, and no earlier change has a second one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker.core.job.model import State
from stoker.store.backup_files import listed
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.journals import journaled
from tests.support.purges import purge
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    import stoker

SETTINGS = '[hooks.all]\non = ["job.failed", "daemon.restored"]\ncommand = "/bin/true"\n'
TOLD = """
SELECT hook_change, changes.to_state, changes.cause, jobs.state FROM jobs LEFT JOIN changes ON seq = hook_change
WHERE hook IS NOT NULL ORDER BY hook_change
"""
OPEN = "SELECT id FROM jobs WHERE hook IS NOT NULL AND finished_at IS NULL"


def fail(client: stoker.Client, daemon: DaemonProcess) -> None:
    end_of(client, submit(client, shell("exit 3")))
    for (job,) in daemon.rows(OPEN):
        end_of(client, job)


def hook_records(daemon: DaemonProcess) -> list[tuple[int, str, State]]:
    """For each job of a hook the number of its change, what that was, and the state of the job."""
    return [(seq, to or cause, State(state)) for seq, to, cause, state in daemon.rows(TOLD)]


def restored(daemon: DaemonProcess, *source: str) -> None:
    result = daemon.cli("restore", *source, "--yes", "--state-dir", str(daemon.state_dir))
    assert result.returncode == 0, result.stderr
    daemon.start()


def test_hooks_when_a_state_is_restored_then_no_earlier_change_runs_a_hook_again(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        fail(client, daemon)
        purge(client)
        assert hook_records(daemon) == []
        fail(client, daemon)
        client.call("queue.pause", {"name": "hooks"})
        end_of(client, submit(client, shell("exit 3")))
    before = hook_records(daemon)
    assert [what for _, what, _ in before] == ["failed", "failed"]
    assert [state for *_, state in before] == [State.SUCCEEDED, State.QUEUED]
    assert daemon.cli("backup").returncode == 0
    (backup,) = listed(daemon.state_dir / "backups")
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 3")))  # only the journal has it
    journaled(daemon)
    daemon.kill9()

    restored(daemon, "--from-journal")

    assert hook_records(daemon)[:2] == before
    assert [what for _, what, _ in hook_records(daemon)] == ["failed", "failed", "failed", "restored"]
    daemon.kill9()

    restored(daemon, "--from-backup", str(backup.path))

    assert hook_records(daemon)[:2] == before
    assert [what for _, what, _ in hook_records(daemon)] == ["failed", "failed", "restored"]
    with daemon.client() as client:
        client.call("queue.resume", {"name": "hooks"})
        until(lambda: not daemon.rows(OPEN))
    assert [state for *_, state in hook_records(daemon)] == [State.SUCCEEDED] * 3

    elsewhere = DaemonProcess(SETTINGS)
    try:
        restored(elsewhere, "--from-backup", str(backup.path))
        assert hook_records(elsewhere)[:2] == [before[0], (*before[1][:2], State.HELD)]  # it may run where it was
        assert [what for _, what, _ in hook_records(elsewhere)] == ["failed", "failed", "restored"]
    finally:
        elsewhere.end()
