"""`stoker audit verify`: a byte that is edited in the log of changes is named, beside a daemon and without one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stoker.store import audit
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess


def run_jobs(daemon: DaemonProcess, count: int = 3) -> int:
    """Gives the last change."""
    with daemon.client() as client:
        for _ in range(count):
            end_of(client, submit(client, shell("exit 0")))
        return int(client.status()["last_seq"])


def edit(database: Path, sql: str) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.executescript(sql)


def test_audit_when_nothing_was_edited_then_the_chain_is_whole(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PORTION", 2)
    last = run_jobs(daemon)

    result = daemon.cli("audit", "verify", "--json")

    assert (result.returncode, result.stderr) == (0, "")
    verdict = json.loads(result.stdout)
    assert (verdict["ok"], verdict["first"], verdict["last"], verdict["changes"]) == (True, 1, last, last)


@pytest.mark.parametrize(
    ("sql", "evidence"),
    [
        (
            "UPDATE changes SET payload = replace(payload, 'exit 0', 'exit 1') WHERE seq = 1",
            "change 1 (job 1, submitted)",
        ),
        ("UPDATE changes SET actor_uid = 4242 WHERE seq = 3", "change 3 (job 1, "),
        ("UPDATE changes SET job_id = 2 WHERE seq = 3", "change 3 of job 1 is filed under job 2"),
        ("DELETE FROM changes WHERE seq = 3", "behind change 2 comes change 4"),
        ("DELETE FROM changes WHERE seq = 1", "behind change 0 comes change 2"),
    ],
)
def test_audit_when_a_change_was_edited_then_it_is_named(
    stopped_daemon: DaemonProcess, sql: str, evidence: str
) -> None:
    daemon = stopped_daemon.start()
    run_jobs(daemon)
    daemon.stop()
    triggers = "DROP TRIGGER changes_are_immutable; DROP TRIGGER changes_keep_their_tail;"
    edit(daemon.state_dir / "stoker.db", f"{triggers} {sql}")

    result = daemon.cli("audit", "verify", "--state-dir", str(daemon.state_dir))

    assert (result.returncode, evidence in result.stdout) == (1, True), result.stdout + result.stderr


def test_audit_when_a_prefix_was_purged_then_the_rest_is_whole(daemon: DaemonProcess) -> None:
    last = run_jobs(daemon)
    assert daemon.cli("purge", "--before", "1ms", "--yes").returncode == 0

    verdict = json.loads(daemon.cli("audit", "verify", "--json").stdout)

    assert (verdict["ok"], verdict["first"] > 1, verdict["last"] >= last) == (True, True, True)


def test_audit_when_a_backup_is_named_then_that_is_verified(daemon: DaemonProcess, tmp_path: Path) -> None:
    last = run_jobs(daemon)
    assert daemon.cli("backup", "--to", str(tmp_path / "b.db")).returncode == 0
    run_jobs(daemon, 1)

    whole = daemon.cli("audit", "verify", "--from-backup", str(tmp_path / "b.db"), "--json")
    (tmp_path / "text").write_text("no database")
    newest = daemon.cli("audit", "verify", "--from-backup", "latest")
    assert daemon.cli("backup").returncode == 0
    latest = daemon.cli("audit", "verify", "--from-backup", "latest", "--json")
    none = daemon.cli("audit", "verify", "--from-backup", str(tmp_path / "text"))

    assert json.loads(whole.stdout)["last"] == last
    assert (newest.returncode, "there is no backup in" in newest.stderr) == (65, True), newest.stderr
    assert json.loads(latest.stdout)["last"] > last
    assert (none.returncode, "cannot be read" in none.stderr) == (65, True), none.stderr
