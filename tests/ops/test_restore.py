"""A restore through the real parts: jobs that run again or do not, ids, lost and damaged databases, bad backups.

The jobs themselves write a ledger of their runs. A refusal must leave every byte of the state as it was.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import AlreadyRunning, BackupRefused, HistoryChanged, InvalidParams
from stoker.ops.restore import carry_out, preview
from stoker.store.backup_files import checksum_path, listed
from stoker.store.migrate import shipped_migrations
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow_end, job_of, sent_flow, step
from tests.support.work import (
    Gate,
    alive,
    attempts_of,
    changes,
    end_of,
    job_view,
    lines,
    running,
    shell,
    submit,
    submit_running,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


UNSAFE = 50
SEED = 20_261_129


def backed_up(daemon: DaemonProcess) -> Path:
    result = daemon.cli("backup", "--json")
    assert result.returncode == 0, result.stderr
    return Path(json.loads(result.stdout)["path"])


def restored(daemon: DaemonProcess, source: str | Path = "latest") -> dict[str, Any]:
    state_dir = ("--state-dir", str(daemon.state_dir))
    result = daemon.cli("restore", "--from-backup", str(source), "--yes", "--json", *state_dir)
    assert result.returncode == 0, result.stderr
    done: dict[str, Any] = json.loads(result.stdout)
    return done


def content(root: Path) -> dict[str, bytes]:
    """Every file but the lock, which names the last process that took it."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# --- what runs again ----------------------------------------------------------------------------------------


def test_restore_when_jobs_ran_since_the_backup_then_no_unsafe_one_runs_again(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    note = f'echo "$STOKER_JOB_ID" >> {ledger}'
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        unsafe = [submit(client, shell(note)) for _ in range(UNSAFE)]
        safe = submit(client, shell(note), on_orphan="requeue")
        needy = submit(client, shell(note), needs=[{"job": unsafe[0]}])
        backed_up(daemon)
        client.call("queue.resume", {"name": "default"})
        for job in (*unsafe, safe, needy):
            assert end_of(client, job) == ("succeeded", "exit")
        since = [submit(client, shell("exit 0")) for _ in range(3)]
    daemon.kill9()
    ran = sorted(lines(ledger))

    view = restored(daemon)
    daemon.start()

    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})
        assert end_of(client, safe) == ("succeeded", "exit")  # dispatch goes on
        for job in (*unsafe, needy):
            assert (job_view(client, job)["state"], job_view(client, job)["reason"]) == ("held", "restored")
        assert "may have run since the backup" in client.why(unsafe[0])["message"]
        assert changes(client, needy, "hold")[0]["note"].startswith("a backup was restored at")
        assert submit(client, shell("exit 0")) > max(since)
    assert sorted(lines(ledger)) == sorted([*ran, str(safe)])
    assert (view["held"], view["queued_again"], view["running"]) == (UNSAFE + 1, 1, 0)
    (event,) = daemon.logged("state_restored")
    assert event["held"] == UNSAFE + 1


def test_restore_when_slots_came_since_the_backup_then_none_has_a_second_run(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()
    template = shell(f'echo "$STOKER_SCHEDULED_FOR" >> {ledger}')
    policies = {"misfire": "all", "overlap": "allow", "catch_up_ms": 600_000}
    with daemon.client() as client:
        client.call("schedule.add", {"name": "tick", "timing": "every 1s", "job": template, **policies})
        backed_up(daemon)
        until(lambda: len(lines(ledger)) >= 2)
    daemon.kill9()
    ran = lines(ledger)

    restored(daemon)
    daemon.start()

    with daemon.client() as client:
        until(lambda: lines(ledger)[-1] > ran[-1], why="a later slot has its run")
        client.call("schedule.pause", {"name": "tick"})
    assert len(set(lines(ledger))) == len(lines(ledger))
    assert daemon.logged("schedule_missed", schedule="tick")


def test_watch_when_a_restore_took_back_its_cursor_then_it_is_refused(daemon: DaemonProcess) -> None:
    """Also after the history has grown beyond the cursor again: the number stands for another change."""
    with daemon.client() as client:
        submit(client, shell("exit 0"))
        before, shared = client.status()["history"], client.status()["last_seq"]
        backed_up(daemon)
        end_of(client, submit(client, shell("exit 0")))
        cursor = client.status()["last_seq"]
    daemon.kill9()
    restored(daemon)
    daemon.start()

    with daemon.client() as client:
        while client.status()["last_seq"] <= cursor:
            submit(client, shell("exit 0"))
        after = client.status()["history"]
        assert after != before
        with pytest.raises(HistoryChanged) as refused:
            client.watch(cursor, history=before)
        assert (refused.value.hint or "").startswith("stoker watch --since ")
        assert next(iter(client.watch(shared - 1, history=before)))["seq"] == shared
        assert next(iter(client.watch(cursor, history=after)))["seq"] == cursor + 1
        with pytest.raises(HistoryChanged, match="no history 0123 is known here"):
            client.watch(cursor, history="0123")
    result = daemon.cli("watch", "--since", str(cursor), "--history", before)
    assert (result.returncode, "a restore took back the changes behind" in result.stderr) == (65, True), result.stderr


def test_restore_when_a_backup_is_named_as_it_is_listed_then_it_is_that_one(daemon: DaemonProcess) -> None:
    first = backed_up(daemon)
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    backed_up(daemon)
    daemon.stop()

    assert restored(daemon, first.name)["backup"] == str(first)


def renamed_to(backup: Path, time: str) -> Path:
    """As if the clock had been so when it was made."""
    named = backup.with_name(f"{time}-{backup.name.partition('-')[2]}")
    checksum_path(named).write_text(checksum_path(backup).read_text())
    checksum_path(backup).unlink()
    return backup.rename(named)


def test_latest_when_the_clock_was_ahead_then_it_is_the_one_with_the_newest_state(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
        old = renamed_to(backed_up(daemon), "20990101T000000.000Z")
        end_of(client, submit(client, shell("exit 0")))
        new = backed_up(daemon)
    daemon.stop()

    view = restored(daemon)

    assert [file.path for file in listed(old.parent)] == [old, new]
    assert view["backup"] == str(new)


def test_latest_when_a_restore_went_back_then_its_successors_are_newer(daemon: DaemonProcess) -> None:
    first = backed_up(daemon)
    with daemon.client() as client:
        for _ in range(5):
            end_of(client, submit(client, shell("exit 0")))
    given_up = renamed_to(backed_up(daemon), "20990101T000000.000Z")
    daemon.stop()
    restored(daemon, first)
    daemon.start()
    successor = backed_up(daemon)
    daemon.stop()

    view = restored(daemon)

    assert {file.path: file.last_seq for file in listed(first.parent)}[given_up] > view["seq"]
    assert view["backup"] == str(successor)


def test_watch_when_a_restore_gave_its_cursor_up_then_it_is_refused(daemon: DaemonProcess) -> None:
    first = backed_up(daemon)
    with daemon.client() as client:
        for _ in range(5):
            end_of(client, submit(client, shell("exit 0")))
        cursor = client.status()["last_seq"]
    daemon.stop()
    restored(daemon, first)
    daemon.start()

    with daemon.client() as client, pytest.raises(InvalidParams, match="a restore may have gone back") as refused:
        next(client.stream("watch", {"after": cursor}))

    assert refused.value.hint is not None
    assert refused.value.hint.startswith("stoker watch --since ")


def test_restore_when_an_unknown_worker_lives_then_it_is_stopped_before_any_start(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """The job takes a lock: a second run beside the first would fail."""
    pids = tmp_path / "pids"
    script = f"exec 9>{tmp_path}/alone; flock -n 9 || exit 9; echo $$ >> {pids}; while :; do sleep 0.05; done"
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, shell(script), on_orphan="requeue", survive=True)
        backed_up(daemon)
        client.call("queue.resume", {"name": "default"})
        until(pids.exists)
        (worker,) = map(int, lines(pids))
    daemon.kill9()
    assert alive(worker)

    restored(daemon)
    daemon.start()

    assert not alive(worker)
    assert daemon.logged("state_restored")[0]["held"] == 0  # it would be 1 if the worker had still lived
    with daemon.client() as client:
        # Its end is that of a run that the database does not know, so a person decides (as without a restore).
        until(lambda: job_view(client, job)["state"] == "held")
        client.call("job.release", {"id": job})
        client.call("queue.resume", {"name": "default"})
        until(lambda: len(lines(pids)) == 2)
        assert job_view(client, job)["state"] == "running"


def test_restore_when_a_safe_job_waited_for_a_file_then_it_still_does(daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("before")
    with daemon.client() as client:
        jobs = [
            submit(client, shell("exit 0"), on_orphan="requeue", wait_for=f"{kind}:{tmp_path}/{name}")
            for kind, name in (("file", "ready"), ("file-changed", "data"), ("file-changed", "ready"))
        ]
        backed_up(daemon)
    daemon.kill9()
    (tmp_path / "data").write_text("since the backup")

    restored(daemon)
    daemon.start()

    with daemon.client() as client:
        assert end_of(client, jobs[1]) == ("succeeded", "exit")
        assert [job_view(client, job)["state"] for job in jobs] == ["waiting", "succeeded", "waiting"]
        (tmp_path / "ready").touch()
        assert [end_of(client, job) for job in jobs] == [("succeeded", "exit")] * 3


def test_restore_when_a_safe_job_ran_since_then_its_old_log_is_kept_beside(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, shell("echo once"), on_orphan="requeue")
        backed_up(daemon)
        client.call("queue.resume", {"name": "default"})
        end_of(client, job)
        log = Path(job_view(client, job)["log"])
    daemon.stop()

    old = Path(restored(daemon)["old_state"])

    assert ((old / "logs" / str(job) / "1.log").read_text(), log.exists()) == ("once\n", False)
    assert {path.name for path in old.iterdir()} == {"stoker.db", "state.json", "logs"}


def test_restore_when_a_workflow_was_under_way_then_its_unsafe_steps_are_held(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        workflow = sent_flow(client, {"a": step("exit 0"), "b": step("exit 0", "a"), "c": step("exit 0", "b")})
        backed_up(daemon)
        client.call("queue.resume", {"name": "default"})
        flow_end(client, workflow)
    daemon.kill9()

    restored(daemon)
    daemon.start()

    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})
        steps = client.list(states=["held"])["jobs"]
        assert {(job["step"], job["reason"]) for job in steps} == {(name, "restored") for name in "abc"}
        for job in sorted(one["id"] for one in steps):
            client.call("job.release", {"id": job})
        assert flow_end(client, workflow) == "succeeded"


def test_restore_when_a_step_with_sources_has_ended_since_then_its_end_is_unseen(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": {**gate.spec(), "sources": [__file__]}})
        job = job_of(client, workflow, "a")
        running(client, job)
        backed_up(daemon)
        gate.open()
        assert flow_end(client, workflow) == "succeeded"
    daemon.stop()

    restored(daemon)
    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "orphaned")
        assert [one["outcome"] for one in attempts_of(client, job)] == ["unseen"]


# --- what is left to restore --------------------------------------------------------------------------------


def garbled(path: Path) -> None:
    path.write_bytes(b"nonsense" * 4096)


def lost_with_note(path: Path) -> None:
    path.unlink()
    path.with_name("state.json").unlink(missing_ok=True)


LOSSES: dict[str, Callable[[Path], object]] = {
    "lost": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbled": garbled,
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "lost with state.json": lost_with_note,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_restore_when_the_database_is_not_there_any_more_then_it_is_again(daemon: DaemonProcess, loss: str) -> None:
    with daemon.client() as client:
        job = submit(client, shell("exit 3"))
        end_of(client, job)
        backed_up(daemon)
        later = submit(client, shell("exit 0"))
    daemon.kill9()
    LOSSES[loss](daemon.state_dir / "stoker.db")

    restored(daemon)
    daemon.start()

    with daemon.client() as client:
        assert (job_view(client, job)["state"], job_view(client, job)["exit_code"]) == ("failed", 3)
        assert submit(client, shell("exit 0")) > later


def test_restore_when_the_whole_directory_was_lost_then_every_job_is_held(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        safe = submit(client, shell("exit 0"), on_orphan="requeue")
        instance = client.status()["instance"]
    daemon.cli("backup", "--to", str(tmp_path / "far.db"))
    daemon.kill9()
    shutil.rmtree(daemon.state_dir)

    restored(daemon, tmp_path / "far.db")
    daemon.start()

    with daemon.client() as client:
        assert job_view(client, safe)["reason"] == "restored"
        assert submit(client, shell("exit 0")) > safe + 1_000  # no mark is left that could show more
        assert client.status()["instance"] != instance  # the original may live elsewhere


def test_restore_when_a_daemon_runs_then_it_is_refused(daemon: DaemonProcess) -> None:
    backup = backed_up(daemon)

    for act in (preview, carry_out):
        with pytest.raises(AlreadyRunning, match=f"pid {daemon.pid}"):
            act(str(daemon.state_dir), str(backup))

    with daemon.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")


def test_restore_when_it_is_not_confirmed_then_it_only_prints_its_plan(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        submit_running(client, shell("sleep 100"))
        backed_up(daemon)
    daemon.kill9()
    before = content(daemon.state_dir)

    result = daemon.cli("restore", "--from-backup", "latest", "--state-dir", str(daemon.state_dir))

    assert (result.returncode, "nothing was restored" in result.stderr) == (64, True)
    assert "1 job ran: settled at the start, as after a crash" in result.stdout
    assert content(daemon.state_dir) == before


# Back from 0008_purge_in_pieces.sql and 0007_add_restored.sql.
EARLIER = """
PRAGMA writable_schema = ON;
DELETE FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'outbox!_%' ESCAPE '!';
PRAGMA writable_schema = RESET;
DROP TRIGGER checkpoints_are_not_replaced;
DROP TABLE purging_jobs;
DROP TABLE secrets;
DROP TABLE outbox;
DROP TABLE schedules;
DROP INDEX attempts_touching;
DROP INDEX jobs_by_end;
DROP INDEX jobs_failed;
DROP INDEX jobs_found;
ALTER TABLE jobs DROP COLUMN labels;
DROP INDEX jobs_superseded;
ALTER TABLE jobs DROP COLUMN superseded_by;
ALTER TABLE jobs DROP COLUMN debounce_by;
DROP INDEX jobs_of_hooks;
DROP INDEX jobs_by_hook;
ALTER TABLE jobs DROP COLUMN hook_change;
ALTER TABLE jobs DROP COLUMN hook;
ALTER TABLE queues DROP COLUMN min_running;
ALTER TABLE queues DROP COLUMN rate;
DROP TABLE rates;
DROP TABLE buckets;
DROP TABLE inner_limits;
DROP TABLE conditions;
DROP TABLE events;
DROP TABLE job_events;
ALTER TABLE jobs DROP COLUMN conditions_open;
DROP INDEX jobs_undecided;
ALTER TABLE jobs DROP COLUMN undecided;
ALTER TABLE jobs DROP COLUMN not_needed;
DROP INDEX workflows_labelled;
ALTER TABLE workflows DROP COLUMN labels;
ALTER TABLE workflows DROP COLUMN deadline;
ALTER TABLE workflows DROP COLUMN expires_at;
ALTER TABLE workflows DROP COLUMN cut;
ALTER TABLE workflows DROP COLUMN concurrency_key;
ALTER TABLE workflows DROP COLUMN place;
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql,
    ' OR reason = ''restored'' OR reason = ''damaged'' OR reason = ''reused'' OR reason = ''condition''', '')
WHERE name = 'jobs';
UPDATE sqlite_schema SET sql = replace(sql, ' OR reason = ''aborted'' OR reason = ''secrets''', '') WHERE name = 'jobs';
UPDATE sqlite_schema SET sql = replace(sql, ' OR stop_reason = ''aborted''', '') WHERE name = 'attempts';
UPDATE sqlite_schema SET sql = replace(sql, ' OR intent = ''abort''', '') WHERE name = 'workflows';
UPDATE sqlite_schema SET sql = replace(sql, 'PRIMARY KEY (job_id, needed)', 'PRIMARY KEY (job_id, needed),
    CHECK (job_id <> needed)') WHERE name = 'needs';
PRAGMA writable_schema = RESET;
DELETE FROM migrations WHERE number >= 7;
PRAGMA user_version = 6;
"""


def test_restore_when_the_backup_is_of_an_earlier_release_then_the_start_migrates_it(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """The schema before the reason `restored`: the note must be there before the word for it is."""
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, shell("exit 0"))
    old = tmp_path / "old.db"
    assert daemon.cli("backup", "--to", str(old)).returncode == 0
    daemon.kill9()
    changed(old, EARLIER)
    checksum_path(old).unlink()

    restored(daemon, old)
    daemon.start()

    with daemon.client() as client:
        assert job_view(client, job)["reason"] == "restored"
    assert [one.before for one in listed(daemon.state_dir / "backups")] == [7]


# --- backups that are none ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """The state of a stopped daemon with one backup. Nothing may change it."""
    with DaemonProcess() as process:
        with process.client() as client:
            end_of(client, submit(client, shell("exit 0")))
        backed_up(process)
        process.stop()
        yield process.state_dir


@pytest.fixture
def copy(state: Path, tmp_path: Path) -> Path:
    """A copy of its backup, without the checksum."""
    target = tmp_path / "copy.db"
    shutil.copyfile(listed(state / "backups")[0].path, target)
    return target


def changed(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.executescript(sql)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


def other_checksum(path: Path) -> None:
    checksum_path(path).write_text(f"{'0' * 64}  {path.name}\n")


def made_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


EDIT = "DROP TRIGGER changes_are_immutable; UPDATE changes SET {} WHERE seq = 2"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "cannot be read: No such file"),
    "a directory": (made_directory, "is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "it is not a database of Stoker"),
    "text": (lambda path: path.write_text("backup\n"), "it is not a database of Stoker"),
    "cut short": (cut, "is not a sound backup: "),
    "another program's": (lambda path: changed(path, "PRAGMA application_id = 7"), "it is not a database of Stoker"),
    "a newer schema": (
        lambda path: changed(path, f"PRAGMA user_version = {shipped_migrations()[-1].number + 1}"),
        "this daemon knows up to",
    ),
    "another instance": (
        lambda path: changed(path, "UPDATE meta SET value = 'abcd' WHERE key = 'instance'"),
        "is of instance abcd, this state is of ",
    ),
    "a live database": (lambda path: path.with_name("copy.db-wal").write_bytes(b"x"), "the database of a state"),
    "another checksum": (other_checksum, "its SHA-256 is "),
    "no checksum in its place": (lambda path: checksum_path(path).write_text("?"), "holds no checksum"),
    "an edited payload": (lambda path: changed(path, EDIT.format("payload = '{}'")), "change 2 (job 1, "),
    "an edited actor": (lambda path: changed(path, EDIT.format("actor_uid = 4242")), "does not match its hash"),
    "a change under another job": (lambda path: changed(path, EDIT.format("job_id = 9")), "is filed under job 9"),
    "a lost change": (
        lambda path: changed(path, "DROP TRIGGER changes_keep_their_tail; DELETE FROM changes WHERE seq = 2"),
        "changes are left of those from 1 to",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_backup_when_it_cannot_be_used_then_it_is_refused_with_evidence(state: Path, copy: Path, kind: str) -> None:
    spoil, evidence = BAD[kind]
    spoil(copy)
    before = content(state)

    for act in (preview, carry_out):
        with pytest.raises(BackupRefused) as refused:
            act(str(state), str(copy))
        assert evidence in refused.value.message
        assert refused.value.hint

    assert content(state) == before


def test_backup_when_it_is_the_database_itself_then_it_is_refused(state: Path) -> None:
    with pytest.raises(BackupRefused, match="is the database of a state, not a backup"):
        carry_out(str(state), str(state / "stoker.db"))


def test_preview_when_there_is_no_backup_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="there is no backup in"):
        preview(str(tmp_path), "latest")


def test_backup_when_any_bit_of_it_flips_then_it_is_refused(state: Path, copy: Path) -> None:
    original, dice = copy.read_bytes(), random.Random(SEED)
    shutil.copyfile(checksum_path(listed(state / "backups")[0].path), checksum_path(copy))
    before = content(state)

    for _ in range(200):
        flipped = bytearray(original)
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        copy.write_bytes(flipped)
        with pytest.raises(BackupRefused, match=r"is not a sound backup: its SHA-256 is "):
            preview(str(state), str(copy))
        copy.write_bytes(original[: dice.randrange(len(original))])
        with pytest.raises(BackupRefused, match=r"is not a sound backup: its SHA-256 is "):
            preview(str(state), str(copy))

    assert content(state) == before
