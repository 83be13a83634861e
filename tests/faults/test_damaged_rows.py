"""Rows that contradict themselves, as a restore in part or a repaired database leaves them.

Owns jobs that are stored as running while no attempt of them is open: the next start holds them for a person. And jobs
whose spec does not match its checksum: they are held where they would have started.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from stoker.core.clock import wall_ms
from stoker.core.errors import StokerError
from tests.support.examined import is_journaled
from tests.support.facts import until
from tests.support.work import Gate, attempts_of, changes, end_of, shell, state, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

DAMAGES = {
    "the attempt is missing": (
        "DELETE FROM attempts WHERE job_id = ?",
        "was lost: the database has no attempt 1 of it, as if it was damaged or restored in part",
    ),
    "the attempt has ended": (
        "UPDATE attempts SET ended_at = created_at, outcome = 'exit', exit_code = 0 WHERE job_id = ?",
        "was lost: it is not known how, or whether, it ended",
    ),
}

DAMAGE_OUTPUT = "UPDATE attempts SET output = CAST(X'ff' AS TEXT) WHERE job_id = ?"  # no UTF-8


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_start_when_a_running_job_has_no_attempt_then_it_is_held_and_why_explains(
    daemon: DaemonProcess, tmp_path: Path, damage: str, words: str
) -> None:
    gate = Gate(tmp_path / "gate")
    with daemon.client() as client:
        job = submit_running(client, gate.spec())
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        assert database.execute(damage, [job]).rowcount == 1
    database.close()

    preview = daemon.cli("recover", "--dry-run", "--state-dir", str(daemon.state_dir))
    daemon.start()

    assert f"would be held: job {job}, stored as running without an open attempt" in preview.stdout
    with daemon.client() as client:
        until(lambda: state(client, job) == "held", why="the job is held")
        blocker = client.why(job)
        assert (blocker["message"], blocker["hint"]) == (words, f"stoker release {job}, or stoker cancel {job}")
        assert [change["cause"] for change in changes(client, job)][-1] == "attempt_missing"
        gate.open()
        client.call("job.release", {"id": job})
        assert end_of(client, job) == ("succeeded", "exit")


def test_start_when_the_output_of_a_need_is_damaged_then_others_of_the_turn_start(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with daemon.client() as client:
        sound, damaged = (submit(client, shell(":")) for _ in range(2))
        assert end_of(client, sound) == end_of(client, damaged) == ("succeeded", "exit")
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        assert database.execute(DAMAGE_OUTPUT, [damaged]).rowcount == 1
    database.close()
    daemon.start()

    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        hindered, other = (submit(client, shell(":"), needs=[need]) for need in (damaged, sound))
        client.call("queue.resume", {"name": "default"})
        assert end_of(client, other) == ("succeeded", "exit")
        (first, *_) = attempts_of(client, other)
        assert (first["ordinal"], first["outcome"]) == (1, "exit")
        assert any(event["task"].startswith("inputs of") for event in daemon.logged("background_retried"))
        client.call("job.cancel", {"id": hindered})
        assert end_of(client, hindered) == ("cancelled", "user")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sqlite_schema SET name = CAST(X'ce33' AS TEXT), sql = 'CREATE x' WHERE name = 'jobs_queued'",
        "UPDATE migrations SET checksum = CAST(X'ff' AS TEXT)",
        "UPDATE meta SET value = CAST(X'ff' AS TEXT) WHERE key = 'instance'",
        "UPDATE queues SET defaults = CAST(X'ff' AS TEXT)",
    ],
)
def test_start_when_a_text_is_no_utf_8_then_it_is_refused_and_the_doctor_named(
    daemon: DaemonProcess, damage: str
) -> None:
    daemon.stop()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        database.execute("PRAGMA writable_schema = ON")
        assert database.execute(damage).rowcount > 0
    database.close()
    before = len(daemon.stderr.read_text())

    daemon.spawn()

    assert daemon.wait() == 78
    message = daemon.stderr.read_text()[before:]
    assert ("stoker doctor" in message, "Traceback" in message) == (True, False), message


def test_claim_when_the_spec_of_a_job_is_damaged_then_it_is_held_and_never_runs(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    asked, other = tmp_path / "asked", tmp_path / "other"
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        damaged, sound = submit(client, shell(f"touch {asked}")), submit(client, shell(":"))
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        statement = "UPDATE jobs SET args = replace(args, 'asked', 'other') WHERE id = ?"
        assert database.execute(statement, [damaged]).rowcount == 1
    database.close()
    daemon.start()

    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})
        assert end_of(client, sound) == ("succeeded", "exit")
        for again in ("release", "edit", None):
            until(lambda: state(client, damaged) == "held", why="the job is held")
            assert client.why(damaged)["details"] == {"reason": "damaged"}
            assert "did not match its checksum" in client.why(damaged)["message"]
            if again == "edit":
                with pytest.raises(StokerError, match="cannot be edited: its row in the database"):
                    client.call("job.edit", {"id": damaged, "name": "n"})
            elif again is not None:
                client.call(f"job.{again}", {"id": damaged})
        assert attempts_of(client, damaged) == []
        client.call("job.cancel", {"id": damaged})
        assert end_of(client, damaged) == ("cancelled", "user")
    assert not asked.exists()
    assert not other.exists()


def test_claim_when_all_that_were_chosen_are_damaged_then_the_next_job_starts(daemon: DaemonProcess) -> None:
    slots = 2
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        damaged = [submit(client, shell("exit 1")) for _ in range(2 * slots)]
        sound = submit(client, shell(":"))
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        statement = "UPDATE jobs SET args = replace(args, 'exit 1', 'exit 2') WHERE id < ?"
        assert database.execute(statement, [sound]).rowcount == len(damaged)
    database.close()
    daemon.config.write_text(f"[daemon]\nmax_running = {slots}\n")
    daemon.start()

    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})

        assert end_of(client, sound) == ("succeeded", "exit")
        assert {state(client, job) for job in damaged} == {"held"}


@pytest.mark.parametrize("remedy", ["repair", "restore"])
@pytest.mark.parametrize("damage", ["args = replace(args, 'asked', 'other')", "max_attempts = 0"])
def test_hold_when_a_spec_is_damaged_then_a_remedy_gives_back_what_was_asked(
    daemon: DaemonProcess, tmp_path: Path, damage: str, remedy: str
) -> None:
    """The journal has the row as it is. `max_attempts = 0` breaks a constraint, which a rebuild must not fail at."""
    asked = tmp_path / "asked"
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, shell(f"touch {asked}"))
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        assert database.execute(f"UPDATE jobs SET {damage} WHERE id = ?", [job]).rowcount == 1
    database.close()
    daemon.start()
    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})
        until(lambda: state(client, job) == "held", why="the job is held")
    until(lambda: is_journaled(daemon.state_dir), why="the journal has the held row")
    daemon.stop()

    command = ["doctor", "--repair"] if remedy == "repair" else ["restore", "--from-journal"]
    done = daemon.cli(*command, "--yes", "--state-dir", str(daemon.state_dir))

    assert f"job {job}: its spec is what the log of changes has" in done.stdout, done.stdout + done.stderr
    daemon.start()
    with daemon.client() as client:
        client.call("job.release", {"id": job})
        assert end_of(client, job) == ("succeeded", "exit")
    assert asked.exists()


def test_deadline_when_the_spec_of_a_job_is_damaged_then_it_is_held(
    daemon: DaemonProcess,
) -> None:
    later = wall_ms() + 3_600_000
    with daemon.client() as client:
        damaged = submit(client, shell(":"), run_at=later, deadline=later + 1)
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        assert database.execute("UPDATE jobs SET deadline = 1 WHERE id = ?", [damaged]).rowcount == 1
    database.close()
    daemon.start()

    with daemon.client() as client:
        until(lambda: state(client, damaged) != "waiting", why="its deadline was looked at")
        assert client.why(damaged)["details"] == {"reason": "damaged"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE jobs SET args = '[\"-c\"' WHERE id = ?", "a row of the table jobs cannot be read"),
        (
            "UPDATE jobs SET args = CAST(X'5bff5d' AS TEXT) WHERE id = ?",
            "a row cannot be read: Could not decode to UTF-8",
        ),
    ],
    ids=["no JSON", "no UTF-8"],
)
def test_claim_when_a_spec_cannot_be_read_then_the_daemon_ends_and_names_the_doctor(
    daemon: DaemonProcess, damage: str, words: str
) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        damaged = submit(client, shell(":"))
    until(lambda: is_journaled(daemon.state_dir), why="no new journal is begun, which would fail at the row, too")
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        assert database.execute(damage, [damaged]).rowcount == 1
    database.close()
    daemon.start()
    before = len(daemon.stderr.read_text())

    with daemon.client() as client:
        with pytest.raises(StokerError) as refused:
            client.call("job.get", {"id": damaged})
        assert refused.value.code == "corrupt_record"
        with suppress(StokerError):  # the daemon may be gone before it answers
            client.call("queue.resume", {"name": "default"})

    assert daemon.wait() == 78
    message = daemon.stderr.read_text()[before:]
    assert f"stokerd: {words}" in message
    assert ("stoker doctor" in message, "Traceback" in message) == (True, False), message
