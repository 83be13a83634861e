"""`stoker doctor --repair`: safe repairs are made and recorded, the old data is kept, the rest is left as it is."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from stoker.ops.doctor.examination import REPAIR
from stoker.ops.doctor.repairs import REPAIRS
from stoker.ops.doctor.run import CHECKS
from stoker.store.backup_files import checksum_of, read_checksum
from stoker.store.recorded_specs import put_back
from stoker.store.repair import writing
from tests.support.examined import content, edit, examined, findings, lose_index_entry
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

SYSTEM = "SELECT actor_uid, cause, payload FROM changes WHERE kind = 'system' AND cause = 'repaired' ORDER BY seq"


def orphaned_log(root: Path) -> None:
    (root / "logs/0/77").mkdir(parents=True)
    (root / "logs/0/77/1.log").write_text("of no job")


def half_a_backup(root: Path) -> None:
    (root / "backups").mkdir()
    (root / "backups/1.db.new").write_text("half")


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "an index without an entry": ("pages", lose_index_entry, "every index"),
    "a lost index": ("objects", lambda root: edit(root, "DROP INDEX jobs_queued"), "index jobs_queued"),
    "a lost trigger": (
        "objects",
        lambda root: edit(root, "DROP TRIGGER changes_are_gapless"),
        "trigger changes_are_gap",
    ),
    "another trigger": (
        "objects",
        lambda root: edit(
            root,
            "DROP TRIGGER changes_are_immutable;"
            "CREATE TRIGGER changes_are_immutable BEFORE UPDATE ON changes BEGIN SELECT 1; END",
        ),
        "trigger changes_are_immutable",
    ),
    "a spec": (
        "jobs",
        lambda root: edit(root, "UPDATE jobs SET args = '[\"-c\"' WHERE id = 6"),
        "job 6: its spec is what the log of changes has",
    ),
    "a count of needs": (
        "counters",
        lambda root: edit(root, "UPDATE jobs SET needs_open = 4 WHERE id = 6"),
        "job 6: needs_open is 1",
    ),
    "a count of attempts": (
        "counters",
        lambda root: edit(root, "UPDATE jobs SET attempts = 0 WHERE id = 2"),
        "job 2: attempts is 2",
    ),
    "a log of no job": ("logs without job", orphaned_log, "logs/0/77"),
    "half a backup": ("unfinished files", half_a_backup, "backups/1.db.new"),
}


def repairs(root: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "stoker.db")) as connection:
        return connection.execute(SYSTEM).fetchall()


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_when_it_is_safe_then_it_is_made_recorded_and_undoable(
    stopped_daemon: DaemonProcess, state: Path, damage: str
) -> None:
    check, harm, what = DAMAGES[damage]
    harm(state)
    assert check in findings(examined(state))
    place = ("--state-dir", str(state))
    before = content(state)

    asked = stopped_daemon.cli("doctor", "--repair", *place)

    assert (asked.returncode, f"possible  {check}" in asked.stdout) == (64, True), asked.stdout + asked.stderr
    assert content(state) == before

    result = stopped_daemon.cli("doctor", "--repair", "--yes", "--reason", "a test", "--json", *place)

    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert list(findings(report)) == ["set aside"]
    assert [repair["check"] for repair in report["repairs"]] == [check]
    assert what in report["repairs"][0]["what"][0]
    ((uid, cause, payload),) = repairs(state)
    assert (uid, cause, json.loads(payload)["note"]) == (os.getuid(), "repaired", "a test")
    (kept,) = state.glob("before-repair-*")
    assert report["kept_in"] == str(kept)
    assert read_checksum(kept / "stoker.db") == checksum_of(kept / "stoker.db")
    assert damage in ("a log of no job", "half a backup") or damage_is_in(kept, check)


def test_repair_when_files_were_moved_then_it_says_where_they_are(stopped_daemon: DaemonProcess, state: Path) -> None:
    orphaned_log(state)

    result = stopped_daemon.cli("doctor", "--repair", "--yes", "--state-dir", str(state))

    (kept,) = state.glob("before-repair-*")
    assert result.stdout.splitlines()[-2:] == [
        f"  done      logs without job: {state}/logs/0/77",
        f"            the database as it was, and the moved files: {kept}",
    ]
    assert (kept / "0/77").is_dir()


def damage_is_in(kept: Path, check: str) -> bool:
    kept.chmod(0o700)
    return check in findings(examined(kept))


def test_repair_when_files_belong_to_nothing_then_they_are_moved_and_not_deleted(
    stopped_daemon: DaemonProcess, state: Path
) -> None:
    orphaned_log(state)

    assert stopped_daemon.cli("doctor", "--repair", "--yes", "--state-dir", str(state)).returncode == 0

    (kept,) = state.glob("before-repair-*")
    assert ((kept / "0/77/1.log").read_text(), (state / "logs/0/77").exists()) == ("of no job", False)
    assert (state / "logs/0/1/1.log").read_text() == "hello\n"


def test_repair_when_it_was_made_then_the_daemon_starts_and_works(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0"), idempotency_key="k"))
    daemon.stop()
    lose_index_entry(daemon.state_dir)
    edit(daemon.state_dir, "DROP INDEX jobs_queued")

    result = daemon.cli("doctor", "--repair", "--yes", "--json", "--state-dir", str(daemon.state_dir))

    assert [repair["check"] for repair in json.loads(result.stdout)["repairs"]] == ["pages", "objects"]
    daemon.start()
    with daemon.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
    assert daemon.cli("audit", "verify").returncode == 0


@pytest.mark.parametrize("options", [("--repair",), ("--repair", "--yes")])
def test_repair_when_a_daemon_runs_then_it_is_refused(daemon: DaemonProcess, options: tuple[str, ...]) -> None:
    result = daemon.cli("doctor", *options)

    assert (result.returncode, str(daemon.state_dir) in result.stderr) == (75, True), result.stderr
    assert not list(daemon.state_dir.glob("before-repair-*"))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE jobs SET state = 'failed' WHERE id = 1",
        "DELETE FROM attempts WHERE job_id = 2",
        "UPDATE jobs SET needs_open = 1 WHERE id = 6; DELETE FROM needs",
        "PRAGMA user_version = 99",
    ],
)
def test_repair_when_facts_are_lost_then_nothing_is_changed_and_restore_is_named(
    stopped_daemon: DaemonProcess, state: Path, damage: str
) -> None:
    edit(state, damage)
    before = content(state)
    assert before.pop(str(state / "lock"))

    result = stopped_daemon.cli("doctor", "--repair", "--yes", "--state-dir", str(state))

    assert result.returncode == 65, result.stderr
    after = content(state)
    del after[str(state / "lock")]
    assert after == before


def test_repair_when_no_recorded_spec_has_the_checksum_then_none_is_put_back(state: Path) -> None:
    edit(state, "UPDATE jobs SET args = '[]', spec_hash = zeroblob(16) WHERE id = 6")

    with writing(state / "stoker.db") as connection:
        assert put_back(connection) == []


def test_repair_when_it_fails_then_it_is_undone(stopped_daemon: DaemonProcess, state: Path) -> None:
    """Two open attempts: the unique index cannot be made again."""
    edit(
        state,
        "DROP INDEX attempts_open; INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at)"
        " VALUES ('5.2.0000000000000000', 5, 2, '1-00000000', 1)",
    )

    result = stopped_daemon.cli("doctor", "--repair", "--yes", "--state-dir", str(state))

    assert (result.returncode, "UNIQUE constraint failed: attempts.job_id" in result.stderr) == (74, True), (
        result.stderr
    )
    assert f"hint: stoker restore --state-dir {state} --from-backup latest" in result.stderr
    assert repairs(state) == []


def test_repairs_when_a_check_names_the_remedy_then_there_is_one() -> None:
    assert {check.name for check in CHECKS if check.remedy == REPAIR} | {"pages", "jobs"} == REPAIRS.keys()
