"""`stoker doctor`: each check finds the damage that it is for, and nothing in a state that is whole.

The damages are made with sqlite3 and by hand while no daemon runs; a healthy state, idle or busy, has no finding.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StateRefused
from stoker.ops.doctor import host, run
from stoker.ops.doctor.run import CHECKS
from tests.support.daemon import DaemonProcess
from tests.support.examined import by_command, content, edit, examined, findings, lose_index_entry, severities
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, step
from tests.support.peers import NEEDS_ROOT, can_be_others
from tests.support.work import Gate, end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from stoker.ops.doctor.examination import Check, Examination

STRANGER = 70_005
UNITS = Path(__file__).parents[2] / "systemd"
NO_TRIGGERS = """
DROP TRIGGER changes_are_immutable; DROP TRIGGER changes_keep_their_tail; DROP TRIGGER changes_are_gapless;
DROP TRIGGER checkpoints_are_immutable; DROP TRIGGER checkpoints_keep_their_tail;
"""
UNRECORDED = """
DROP TRIGGER outbox_attempts_update; DROP TRIGGER outbox_attempts_moved; DROP TRIGGER outbox_attempts_delete;
DROP TRIGGER outbox_resources_insert; {};
"""
SECOND_OPEN = """
DROP INDEX attempts_open; INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at)
VALUES ('5.2.0000000000000000', 5, 2, '1-00000000', 1)
"""
MANY_ENTRIES = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000)
INSERT INTO outbox (place, key1) SELECT 'meta', 'epoch' FROM numbers
"""


# --- a state that is whole ------------------------------------------------------------------------------------


def test_doctor_when_a_daemon_runs_then_it_finds_nothing_and_holds_nothing_up(
    daemon: DaemonProcess, running_job: int
) -> None:
    with daemon.client() as client:
        flow_end(client, sent_flow(client, {"a": step("exit 0"), "b": step("exit 0", "a")}))

        report = by_command(daemon)

        assert (findings(report), report["daemon_runs"]) == ({}, True)
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
    not_made = {check["name"]: check["why_not"] for check in report["checks"] if check["result"] == "not made"}
    assert not_made == dict.fromkeys(("archives", "journaled", "outcomes", "unfinished files"), "a daemon runs")


def test_doctor_when_the_daemon_was_killed_then_it_finds_and_changes_nothing(state: Path) -> None:
    before = content(state)

    report = examined(state)

    assert findings(report) == {}
    assert {check["result"] for check in report["checks"]} == {"ok", "found"}
    assert content(state) == before


EDITED_CHANGE = f"{NO_TRIGGERS} UPDATE changes SET cause = 'edited' WHERE seq = 3"


def killed(*_: object) -> list[run.CheckResult]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.parametrize("beside", [run._check_beside, killed], ids=["ends", "is killed"])
def test_doctor_when_the_state_is_large_then_two_processes_make_each_check_once(
    state: Path, monkeypatch: pytest.MonkeyPatch, beside: Callable[..., list[run.CheckResult]]
) -> None:
    edit(state, EDITED_CHANGE)
    alone, here = examined(state), list[str]()
    monkeypatch.setattr(run, "LARGE_BYTES", 0)
    monkeypatch.setattr(run, "_check_beside", beside)
    make = run._check_one

    def noted(check: Check, examination: Examination) -> run.CheckResult:
        here.append(check.name)
        return make(check, examination)

    monkeypatch.setattr(run, "_check_one", noted)

    report = examined(state)

    assert findings(report)["change chain"]
    assert report == alone
    assert set(here).isdisjoint(run.BESIDE) == (beside is not killed)


NO_SEMAPHORES = """
mount -t tmpfs -o ro none /dev/shm || exit 99
exec "$@"
"""
LARGE = """
import json, sys
from pathlib import Path
from stoker.ops.doctor import run
from tests.support.examined import examined
run.LARGE_BYTES = 0
print(json.dumps(examined(Path(sys.argv[1]))))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_doctor_when_no_second_process_can_start_then_it_makes_all_checks(state: Path) -> None:
    command = ["unshare", "-m", "sh", "-c", NO_SEMAPHORES, "sh", sys.executable, "-c", LARGE, str(state)]

    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == examined(state)


def test_doctor_when_changes_were_purged_then_the_rest_is_compared(daemon: DaemonProcess, running_job: int) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
        assert daemon.cli("purge", "--before", "1ms", "--yes").returncode == 0

    assert findings(by_command(daemon)) == {}


# --- rows -----------------------------------------------------------------------------------------------------

DAMAGED_ROWS = {
    "jobs": [
        ("UPDATE jobs SET state = 'failed' WHERE id = 1", "job 1 is failed, its last change ("),
        ("UPDATE jobs SET failures = 7 WHERE id = 2", "job 2: failures is 7, its changes say 2"),
        ("UPDATE jobs SET owner_uid = 4242 WHERE id = 1", "job 1: owner_uid is 4242, its changes say "),
        ("UPDATE jobs SET exit_code = 5 WHERE id = 1", "job 1: exit_code is 5, its changes say 0"),
        ("UPDATE jobs SET reason = NULL, state = 'queued', finished_at = NULL WHERE id = 1", "job 1 is queued"),
        ("UPDATE jobs SET command = '/bin/rm' WHERE id = 6", "job 6: its spec does not match its checksum"),
        ("UPDATE jobs SET args = '[' WHERE id = 6", "job 6: its row cannot be read"),
        ("UPDATE jobs SET policy = replace(policy, 'grace', 'grave') WHERE id = 6", "contains unknown field"),
        (f"{NO_TRIGGERS} DELETE FROM changes WHERE job_id = 1", "job 1 has no change at all"),
        (f"{NO_TRIGGERS} UPDATE changes SET payload = '{{' WHERE job_id = 1", "job 1: its changes cannot be read"),
    ],
    "change chain": [
        (f"{NO_TRIGGERS} UPDATE changes SET actor_uid = 4242 WHERE seq = 3", "change 3 (job 1, "),
        (f"{NO_TRIGGERS} DELETE FROM changes WHERE seq = 3", "behind change 2 comes change 4"),
    ],
    "log": [(f"{NO_TRIGGERS} DELETE FROM changes WHERE seq = 3", "changes are left of those from 1 to")],
    "open attempts": [
        ("UPDATE jobs SET state = 'queued', pid = NULL WHERE id = 5", "is open, but its job 5 is queued"),
        (SECOND_OPEN, "job 5 has 2 open attempts"),
    ],
    "not running": [
        ("UPDATE attempts SET ended_at = 1, outcome = 'unseen' WHERE job_id = 5", "job 5 is running, but no attempt")
    ],
    "holds": [("UPDATE resources SET capacity = 0", "resource gpu: jobs 5 hold 1 of it, its capacity is 0")],
    "needs": [
        ("DELETE FROM needs WHERE job_id = 6", "job 6 waits for 1 jobs, but it is not stored for which"),
        (
            "PRAGMA foreign_keys = OFF; UPDATE needs SET needed = 99",
            "job 6 waits for job 99, which does not exist",
        ),
        (
            "INSERT INTO conditions VALUES (6, 1, 'event:go', NULL)",
            "job 6 waits for the conditions 0 (as bits), its rows are 2",
        ),
    ],
    "attempts": [
        (
            "DELETE FROM attempts WHERE job_id = 2 AND ordinal = 2",
            "job 2 had 2 attempts, but only those up to 1 are stored",
        )
    ],
    "purged jobs": [("INSERT INTO purging_jobs VALUES (6)", "job 6 is being removed, but it is waiting")],
    "counters": [
        ("UPDATE jobs SET needs_open = 4 WHERE id = 6", "job 6 counts 4 open needs, its rows are 1"),
        ("UPDATE jobs SET attempts = 0 WHERE id = 5", "job 5 counts 0 attempts, the newest one is 1"),
    ],
    "journaled": [
        (UNRECORDED.format("UPDATE attempts SET launcher = 'x'"), "launcher is x, the journal has "),
        (UNRECORDED.format("DELETE FROM attempts"), " is not there, the journal has it"),
        (
            UNRECORDED.format("INSERT INTO resources VALUES ('tape', 1)"),
            "resources tape is there, the journal does not have it",
        ),
    ],
    "outbox": [("UPDATE outbox SET place = 'idempotuncy' WHERE id = 1", "entries of the outbox name the table idemp")],
    "workflows": [
        ("DELETE FROM workflows", "job 3 is step a of workflow 1, which does not exist"),
        ("UPDATE workflows SET state = 'cancelled'", "workflow 1 is cancelled, its last change ("),
        (
            "UPDATE jobs SET state = 'queued', reason = NULL, finished_at = NULL WHERE step = 'b'",
            "workflow 1 is succeeded, but its step b (job 4) is queued",
        ),
    ],
    "chains": [(f"{NO_TRIGGERS} DELETE FROM checkpoints WHERE seq = 2", "chain w1 has ")],
    "checkpoints": [
        (f"{NO_TRIGGERS} UPDATE checkpoints SET status = 'x' WHERE seq = 2", "does not match its checksum")
    ],
    "keys": [
        ("UPDATE idempotency SET key = 'l'", "idempotency key l names job 1, which was submitted with the key k"),
        ("UPDATE idempotency SET job_id = 99", "idempotency key k of user "),
    ],
    "schedules": [
        ("DELETE FROM schedules WHERE name = 'kept'", "there is no schedule kept, which its last change ("),
        ("UPDATE schedules SET timing = '@hourly'", "schedule kept is not what its last change ("),
        (
            "UPDATE schedules SET name = 'gone'",
            "schedule gone is there, but its last change (",
        ),
    ],
    "secrets": [
        ("INSERT INTO secrets VALUES (99, 'A', x'00')", "secret A is of job 99, which does not exist"),
        ("INSERT INTO secrets VALUES (5, 'A', x'00')", "secret A is of job 5, which does not ask for it"),
    ],
    "sealed secrets": [("INSERT INTO secrets VALUES (5, 'A', x'00')", "secret A of job 5 is damaged, or ")],
    "supersede keys": [
        (
            "UPDATE jobs SET supersede_key = 's', state = 'waiting', pid = NULL, finished_at = NULL WHERE id IN (5, 6)",
            "jobs 5, 6 of user ",
        )
    ],
    "queues": [
        ("UPDATE queues SET name = 'defaunt' WHERE name = 'default'", "there is no queue default, which"),
        ("DELETE FROM queues WHERE name = 'bulk'", "there is no queue bulk, which changes know of"),
        ("DELETE FROM resources", "there is no resource gpu, which changes know of"),
        ("UPDATE queues SET max_running = 3 WHERE name = 'bulk'", "queue bulk is not what its last change ("),
        ("UPDATE queues SET defaults = '{\"nice\":5}' WHERE name = 'bulk'", "queue bulk is not what its last change ("),
        ("UPDATE queues SET rate = '{}' WHERE name = 'bulk'", "queue bulk is not what its last change ("),
        ("DELETE FROM rates", "the rate of key api is not what its last change ("),
        ("UPDATE resources SET capacity = 9", "the capacity of resource gpu is 9, its last change ("),
    ],
    "objects": [
        ("DROP INDEX jobs_queued", "index jobs_queued is missing"),
        ("DROP TRIGGER changes_are_immutable", "trigger changes_are_immutable is missing"),
        ("CREATE TABLE notes (text)", "table notes does not belong to Stoker"),
    ],
    "schema": [
        ("PRAGMA user_version = 99", "the database has schema 99, this daemon knows up to"),
        ("UPDATE migrations SET checksum = CAST(X'ff' AS TEXT)", "cannot be checked: Could not decode to UTF-8"),
    ],
    "references": [
        ("PRAGMA foreign_keys = OFF; DELETE FROM jobs WHERE id = 5", "a row of attempts refers to a row of jobs")
    ],
    "state.json": [
        ("UPDATE meta SET value = 'another' WHERE key IN ('instance', 'original')", "it is of instance another")
    ],
    "journal lines": [(MANY_ENTRIES, "; the database keeps the list of them")],
    "journal": [("DELETE FROM outbox", "it lacks rows of its last change, but the journal goes on up to change")],
    "high-water mark": [
        ("INSERT INTO meta VALUES ('last_jobs', 99999)", "the database has 99999"),
    ],
}
CASES = [(name, sql, evidence) for name, damages in DAMAGED_ROWS.items() for sql, evidence in damages]


@pytest.mark.parametrize(("name", "sql", "evidence"), CASES, ids=[f"{name}-{sql[-40:]}" for name, sql, _ in CASES])
def test_rows_when_one_is_damaged_then_the_check_of_that_name_fails(
    state: Path, name: str, sql: str, evidence: str
) -> None:
    edit(state, sql)

    found = findings(examined(state))

    assert any(evidence in message for message in found.get(name, ())), found


def test_table_when_its_checks_are_listed_then_each_check_of_rows_has_a_damage() -> None:
    rows = {check.name for check in CHECKS if check.group in ("rows", "database")}

    assert rows - DAMAGED_ROWS.keys() == {"file", "pages", "stale checkpoints"}  # these have tests of their own
    assert len({(check.group, check.name) for check in CHECKS}) == len(CHECKS)


def test_doctor_when_the_schema_is_newer_then_only_what_needs_it_is_not_made(state: Path) -> None:
    edit(state, "PRAGMA user_version = 99")

    report = examined(state)

    results = {check["name"]: check for check in report["checks"]}
    assert results["pages"]["result"] == "ok"
    assert str(results["jobs"]["why_not"]).startswith("the database has schema 99, this program knows")
    assert "start the stokerd that wrote it" in results["schema"]["findings"][0]["remedy"]


def test_checkpoints_when_a_running_step_saves_no_checkpoint_then_it_is_stale(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    (tmp_path / "stoker.toml").write_text("[workflows]\nstale_ms = 1\n")
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": gate.spec()})
        until(lambda: client.workflow(workflow)["steps"][0]["state"] == "running")

        report = by_command(daemon, "--config", str(tmp_path / "stoker.toml"))

    assert [message.partition(" is ")[0] for message in findings(report)["stale checkpoints"]] == [
        "job 1 runs, and its newest checkpoint"
    ]


# --- the file of the database ---------------------------------------------------------------------------------


def overwritten(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def without_wal(root: Path) -> Path:
    """The database as one file."""
    edit(root, "PRAGMA wal_checkpoint(TRUNCATE)")
    return root / "stoker.db"


DAMAGED_FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (lambda root: (root / "stoker.db").unlink(), "file", "is missing, but"),
    "empty": (lambda root: (root / "stoker.db").write_bytes(b""), "file", "is empty, but"),
    "text": (lambda root: (root / "stoker.db").write_text("x" * 5_000), "file", "is not an SQLite database"),
    "of another program": (lambda root: overwritten(root / "stoker.db", 68, b"abcd"), "file", "belongs to another"),
    "a directory": (
        lambda root: made((root / "stoker.db").rename(root / "moved").with_name("stoker.db") / "x"),
        "file",
        "is not a file",
    ),
    "cut off": (
        lambda root: without_wal(root).write_bytes(without_wal(root).read_bytes()[: 20 * 4_096]),
        "file",
        "malformed",
    ),
    "an index without an entry": (lose_index_entry, "pages", "missing from index idempotency_job"),
    "a page of zeroes": (lambda root: overwritten(without_wal(root), 2 * 4_096, bytes(4_096)), "pages", ""),
    "its WAL lost": (lambda root: (root / "stoker.db-wal").unlink(), "state.json", "it ends at change"),
    "unreadable state.json": (lambda root: (root / "state.json").write_text("{"), "state.json", "state.json: "),
    "unreadable high-water mark": (lambda root: (root / "high-water.json").write_text("{"), "high-water mark", ""),
}


@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_file_when_it_is_damaged_then_that_is_an_error_with_a_remedy(state: Path, damage: str) -> None:
    harm, name, evidence = DAMAGED_FILES[damage]
    harm(state)

    report = examined(state)

    assert any(evidence in message for message in findings(report).get(name, ())), findings(report)
    assert "error" in severities(report, name) or name == "high-water mark"


def test_doctor_when_there_is_no_state_yet_then_there_are_only_notes(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)

    report = examined(tmp_path / "state")

    assert (report["ok"], list(findings(report))) == (True, ["file"])


# --- what stands beside it ------------------------------------------------------------------------------------


def made(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


BESIDE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a directory for everybody": (lambda root: root.chmod(0o755), "directory", "is open to others (mode 755)"),
    "a log of no job": (lambda root: made(root / "logs/0/77/1.log"), "logs without job", "logs/0/77: there is no job"),
    "a log in the way": (lambda root: made(root / "logs/0/6/1.log"), "logs in the way", "job 6: the log of its next"),
    "a lost log": (lambda root: (root / "logs/0/1/1.log").unlink(), "lost logs", "its log is lost"),
    "half an archive": (lambda root: made(root / "archive/workflow-1-2.json.gz.new"), "archives", "not completed"),
    "unread outcomes": (lambda root: made(root / "outcomes/1-00000000.log"), "outcomes", "1 launcher recorded ends"),
    "an old state": (lambda root: made(root / "before-restore-1/stoker.db"), "set aside", "before-restore-1 has what"),
    "half a restore": (lambda root: made(root / "stoker.db.restored"), "unfinished files", "was interrupted"),
    "half a backup": (lambda root: made(root / "backups/1.db.new"), "unfinished files", "was interrupted"),
    "a damaged backup": (
        lambda root: (
            made(root / "backups/20260101T000000.000Z-7.db"),
            made(root / "backups/20260101T000000.000Z-7.db.sha256", f"{'0' * 64}  x\n"),
        ),
        "backups",
        "the newest backup is",
    ),
    "a changed line of the journal": (
        lambda root: overwritten(root / "journal/00000001.jsonl", 1_000, b"#"),
        "journal lines",
        "does not match its hash",
    ),
    "a FIFO in the journal": (
        lambda root: os.mkfifo(root / "journal/00000002.jsonl"),
        "journal lines",
        "not a regular file",
    ),
    "a key for everybody": (lambda root: (root / "secrets.key").chmod(0o644), "sealed secrets", "is open to others"),
    "no lock": (lambda root: (root / "lock").unlink(), "lock", "lock is missing"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_files_when_something_is_wrong_beside_the_database_then_it_is_named(state: Path, case: str) -> None:
    harm, name, evidence = BESIDE[case]
    harm(state)

    found = findings(examined(state))

    assert any(evidence in message for message in found.get(name, ())), found


def test_backup_when_the_newest_is_damaged_then_that_is_an_error(daemon: DaemonProcess) -> None:
    assert daemon.cli("backup").returncode == 0
    assert severities(by_command(daemon), "newest backup") == set()
    (backup,) = (daemon.state_dir / "backups").glob("*.db")
    overwritten(backup, 5_000, b"x")

    report = by_command(daemon)

    assert (severities(report, "newest backup"), report["ok"]) == ({"error"}, False)


# --- the host -------------------------------------------------------------------------------------------------


def test_units_when_one_was_edited_then_the_setting_is_named_and_drop_ins_are_fine(state: Path, tmp_path: Path) -> None:
    for unit in host.UNITS:
        shutil.copy(UNITS / unit, tmp_path)
    made(tmp_path / "stoker.service.d/own.conf", "[Service]\nRestartSec=9\n")
    places = (str(tmp_path / "nowhere"), str(tmp_path))
    assert findings(examined(state, units=places)) == {}
    service = tmp_path / "stoker.service"
    service.write_text(service.read_text().replace("KillMode=process", "KillMode=mixed"))

    found = findings(examined(state, units=places))

    assert found == {
        "units": [f"{service} lacks [Service] KillMode=process", f"{service} has [Service] KillMode=mixed"]
    }


def test_settings_when_a_key_is_wrong_then_each_mistake_is_an_error(state: Path, tmp_path: Path) -> None:
    file = made(tmp_path / "stoker.toml", "[daemon]\nmax_runing = 3\n[cpu]\nthrottle_threshold = -1\n")

    report = examined(state, config=file)

    assert len(findings(report)["settings"]) == 2
    assert severities(report, "settings") == {"error"}


HOOKS = """
[hooks.fine]
on = ["workflow.failed"]
workflow = "flow"
command = "sh"
env = {{ PATH = "/bin" }}
[hooks.declared]
on = ["queue.paused"]
queue = "bulks"
command = "{here}/text"
[queues.bulks]
[hooks.ahead]
on = ["workflow.failed"]
workflow = "nightly"
command = "{here}/text"
working_dir = "{here}/none"
[schedules.nightly]
timing = "@daily"
flow = {{ name = "nightly", steps = {{ a = {{ command = "true" }} }} }}
[hooks.lost]
on = ["job.failed"]
queue = "bulkz"
command = "no-such-program"
[hooks.weekly]
on = ["workflow.failed"]
workflow = "weekly"
command = "/bin/true"
"""
ELSEWHERE, UNTIL = " of this command; the daemon may have another", ": it has no job until there is one"


def test_hooks_when_they_could_never_run_then_each_is_named_with_the_reason(state: Path, tmp_path: Path) -> None:
    (tmp_path / "text").touch(mode=0o644)
    file = tmp_path / "stoker.toml"
    file.write_text(HOOKS.format(here=tmp_path))

    report = examined(state, config=file)

    assert findings(report) == {
        "programs of hooks": [
            f"[hooks.declared] command: {tmp_path}/text is not executable",
            f"[hooks.ahead] working_dir: {tmp_path}/none does not exist",
            f"[hooks.lost] command: there is no program 'no-such-program' in PATH{ELSEWHERE}",
        ],
        "filters of hooks": [
            f"[hooks.lost] queue: there is no queue 'bulkz' (did you mean bulk?){UNTIL}",
            f"[hooks.weekly] workflow: no workflow 'weekly' is stored, and no schedule submits one{UNTIL}",
        ],
    }
    assert severities(report, "programs of hooks") == {"warning"}


def test_disk_when_less_is_free_than_the_settings_ask_for_then_it_is_an_error(state: Path, tmp_path: Path) -> None:
    file = made(tmp_path / "stoker.toml", f"[disk]\nmin_free_bytes = {1 << 40}\n")

    assert severities(examined(state, config=file), "disk") == {"error"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own the directory of users, or give it away")
def test_users_when_their_directories_can_be_replaced_then_it_is_an_error(state: Path, tmp_path: Path) -> None:
    users = tmp_path / "users"
    (users / "1000").mkdir(parents=True)
    file = made(tmp_path / "stoker.toml", f'[run_as]\nuser = "submitter"\ndirectory = "{users}"\n')

    sound = examined(state, config=file)
    users.chmod(0o775)
    writable = examined(state, config=file)
    os.chown(users, 70_001, -1)
    foreign = examined(state, config=file)

    unseen = f"the directories of 1 user in {users} were not looked into: logs, outputs, outcomes"
    assert findings(sound) == {"users": [unseen]}
    assert severities(sound, "users") == {"note"}
    assert severities(writable, "users") == {"error"}
    assert "has mode 775" in findings(writable)["users"][0]
    assert "it belongs to uid 70001, and must belong to root" in findings(foreign)["users"][0]


def test_socket_when_others_can_replace_it_then_its_directory_is_named(daemon: DaemonProcess) -> None:
    daemon.home.chmod(0o777)

    found = findings(by_command(daemon))

    assert found == {"socket": [f"others can replace {daemon.socket}: {daemon.home} has mode 777"]}


@pytest.mark.parametrize(("access", "found"), [("", {"warning"}), ('[access]\nusers = "everyone"\n', set())])
def test_socket_when_every_user_can_connect_then_only_access_allows_it(
    state: Path, tmp_path: Path, access: str, found: set[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state / "sock"))
        (state / "sock").chmod(0o666)

        report = examined(state, config=made(tmp_path / "stoker.toml", access))

    assert severities(report, "socket") == found


@pytest.mark.skipif(not can_be_others(), reason=NEEDS_ROOT)
def test_doctor_when_the_state_is_closed_to_the_user_then_it_refuses(state: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        closed = state.rename(Path(folder, "state"))
        os.seteuid(STRANGER)
        try:
            with pytest.raises(StateRefused, match=f"{closed} belongs to .*, not to ") as refused:
                examined(closed)
        finally:
            os.seteuid(0)

    assert "run this as" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("version", "count"),
    [
        ((3, 37, 1), 2),
        ((3, 40, 1), 1),
        ((3, 44, 6), 0),
        ((3, 45, 0), 1),
        ((3, 50, 7), 0),
        ((3, 51, 2), 1),
        ((3, 51, 3), 0),
    ],
)
def test_sqlite_when_a_version_has_a_known_bug_then_it_is_reported(version: tuple[int, ...], count: int) -> None:
    assert sum(bug.is_in(version) for bug in host.KNOWN_BUGS) == count


# --- the command ----------------------------------------------------------------------------------------------


def test_command_when_something_is_found_then_the_text_names_row_and_remedy(
    stopped_daemon: DaemonProcess, state: Path
) -> None:
    edit(state, "UPDATE jobs SET state = 'failed' WHERE id = 1; UPDATE jobs SET needs_open = 4 WHERE id = 6")

    result = stopped_daemon.cli("doctor", "--state-dir", str(state))

    assert (result.returncode, result.stderr) == (65, "")
    lines = result.stdout.splitlines()
    assert any(line.startswith("  error     jobs: job 1 is failed, its last change (") for line in lines)
    assert f"            → stop stokerd, then: stoker doctor --state-dir {state} --repair" in lines
    assert lines[-1].startswith(f"{state}: ")
    summed = re.search(r": (\d+) of (\d+) checks found nothing, (\d+) found 1 error and 1 warning", lines[-1])
    assert summed is not None, lines[-1]
    quiet, checks, found = map(int, summed.groups())
    assert (quiet + found, found > 1) == (checks, True)
    assert not any(line.startswith("  ok ") for line in lines)


def test_command_when_it_is_to_list_everything_then_each_check_has_a_line(
    stopped_daemon: DaemonProcess, state: Path
) -> None:
    result = stopped_daemon.cli("doctor", "--verbose", "--state-dir", str(state))

    assert result.returncode == 0, result.stdout
    for check in CHECKS:
        assert f"  {check.name}: " in result.stdout
