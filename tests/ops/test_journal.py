"""The journal through the real parts: a daemon writes it, the database is lost, and the journal gives every row again.

A row that is missing or differs in any table fails these tests.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from stoker.ops import restore
from stoker.store.journal_files import (
    files,
)
from stoker.upkeep.journaling import MOST_WAITING
from tests.support import busy_life
from tests.support.daemon import DaemonProcess
from tests.support.examined import examined, findings, severities
from tests.support.facts import until
from tests.support.journals import Rows, journaled, rows, split_in_two
from tests.support.work import end_of, shell, submit

EMPTIED = {"purged_jobs", "purging_jobs", "checkpoint_purges"}  # had rows for a moment
MANY_ENTRIES = """
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO outbox (place, key1) SELECT 'meta', 'epoch' FROM numbers
"""


def lose_database(root: Path) -> Rows:
    """Remove the database of a stopped daemon; gives its rows."""
    lost = rows(root / "stoker.db")
    for path in root.glob("stoker.db*"):
        path.unlink()
    return lost


def rebuild(daemon: DaemonProcess) -> tuple[Rows, Rows]:
    """Stop the daemon, lose its database, and restore it from the journal; gives the rows before and after."""
    journaled(daemon)
    daemon.stop()
    lost = lose_database(daemon.state_dir)
    restore.carry_out(str(daemon.state_dir), None)
    return lost, rows(daemon.state_dir / "stoker.db")


def test_journal_when_the_database_is_lost_then_it_gives_every_row_again(daemon: DaemonProcess, tmp_path: Path) -> None:
    busy_life.live(daemon, tmp_path)
    last = journaled(daemon)
    daemon.stop()
    lost = lose_database(daemon.state_dir)

    result = daemon.cli("restore", "--from-journal", "--yes", "--json", "--state-dir", str(daemon.state_dir))

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["seq"] >= last
    assert json.loads(result.stdout)["remarks"] == []
    assert {name for name, found in lost.items() if not found} <= EMPTIED
    assert busy_life.unfilled(daemon.state_dir / "stoker.db", lost.keys() - EMPTIED) == set()
    assert rows(daemon.state_dir / "stoker.db") == lost


def test_journal_when_the_daemon_is_killed_then_the_next_start_adds_missing_rows(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        ids = [submit(client, shell("exit 0")) for _ in range(20)]
    daemon.kill9()
    daemon.start()
    with daemon.client() as client:
        for job in ids:
            end_of(client, job)
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost
    assert [event["reason"] for event in daemon.events("journal_begun")] == ["there was none"]


def test_journal_when_its_end_was_never_written_then_the_outbox_has_it(daemon: DaemonProcess) -> None:
    """A kill between a commit and the journal: the file ends earlier than the database."""
    with daemon.client() as client:
        for _ in range(3):  # a line each
            end_of(client, submit(client, shell("exit 0")))
            journaled(daemon)
        daemon.kill9()
    (path,) = files(daemon.state_dir / "journal")
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) - 20])
    daemon.start()
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost
    assert len(list(daemon.events("journal_begun"))) == 1


def test_journal_when_a_restore_went_back_then_a_new_chain_begins(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    assert daemon.cli("backup").returncode == 0
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    daemon.stop()
    restore.carry_out(str(daemon.state_dir), "latest")
    daemon.start()
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost
    assert [event["reason"] for event in daemon.events("journal_begun")] == [
        "there was none",
        "the database was restored, or kept no journal",
    ]


def put_old_backup_in_place(root: Path) -> None:
    """A copy made by hand, with a state.json that is as old."""
    (backup,) = (root / "backups").glob("*.db")
    for path in (*root.glob("stoker.db*"), root / "state.json"):
        path.unlink(missing_ok=True)
    shutil.copy(backup, root / "stoker.db")


def test_start_when_the_database_is_behind_its_journal_then_it_is_refused(daemon: DaemonProcess) -> None:
    ran = daemon.home / "ran"
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, shell(f"echo >> {ran}"))
        assert daemon.cli("backup").returncode == 0
        client.call("queue.resume", {"name": "default"})
        end_of(client, job)
    journaled(daemon)
    daemon.stop()
    put_old_backup_in_place(daemon.state_dir)

    daemon.spawn()
    refused, words = daemon.wait(), daemon.tail()
    (advice,) = re.findall(r"^hint: (stoker restore .*?);", words, re.MULTILINE)
    advised = daemon.cli(*shlex.split(advice)[1:], "--yes")
    daemon.start()

    assert refused == 78
    assert "but the journal goes on up to change" in words
    assert advised.returncode == 0, advised.stderr
    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
    assert ran.read_text() == "\n"


def test_journal_when_it_was_damaged_then_an_error_is_logged_and_a_new_chain_begins(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    journaled(daemon)
    daemon.stop()
    files(daemon.state_dir / "journal")[0].write_text("no\n")
    daemon.start()
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost
    (event,) = daemon.events("journal_damaged")
    assert event["level"] == "error"
    assert "not the header of a journal" in event["reason"]
    (evidence,) = (daemon.state_dir / "journal").glob("00000001.jsonl.damaged-*")
    assert evidence.read_text() == "no\n"


def test_journal_when_it_is_too_big_then_what_a_backup_replaces_goes(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    journaled(daemon)
    daemon.stop()
    first, second = split_in_two(daemon.state_dir / "journal")
    daemon.config.write_text("[journal]\nkeep_bytes = 0\n")
    daemon.start()
    journaled(daemon)
    assert first.exists(), "no backup replaced it"
    assert daemon.cli("backup").returncode == 0
    daemon.stop()

    daemon.start()
    until(lambda: not first.exists())
    assert second.exists()
    journaled(daemon)
    daemon.stop()

    report = examined(daemon.state_dir)

    assert report["ok"]
    (note,) = findings(report)["journaled"]
    assert note.endswith("could not be compared: the files of the journal with them were removed")
    assert severities(report, "journaled") == {"note"}


def test_journal_when_it_is_off_then_no_file_is_written(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.write_text("[journal]\nenabled = false\n")
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
        assert client.status()["journal"]["enabled"] is False
    assert "off: [journal] enabled" in stopped_daemon.cli("status").stdout
    with closing(sqlite3.connect(stopped_daemon.state_dir / "stoker.db")) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    assert not (stopped_daemon.state_dir / "journal").exists()


def test_journal_when_it_cannot_be_written_then_it_reports_the_error_and_catches_up(daemon: DaemonProcess) -> None:
    journal = daemon.state_dir / "journal"
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
        journaled(daemon)
        moved = journal.rename(daemon.state_dir / "journal.moved")
        journal.write_text("no directory")

        end_of(client, submit(client, shell("exit 0")))
        until(lambda: client.status()["journal"]["error"])
        assert "CANNOT BE WRITTEN" in daemon.cli("status").stdout
        assert client.call("system.health")["ok"] is False
        end_of(client, submit(client, shell("exit 0")))

        journal.unlink()
        moved.rename(journal)
        until(lambda: client.status()["journal"]["error"] is None)
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost
    assert len(list(daemon.events("journal_failed"))) >= 1
    assert len(list(daemon.events("journal_back"))) == 1


def test_journal_when_a_row_cannot_be_read_then_status_shows_it_until_it_can(daemon: DaemonProcess) -> None:
    with daemon.client() as client, closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection:
        end_of(client, submit(client, shell("exit 0")))
        journaled(daemon)
        connection.execute("ALTER TABLE recoveries RENAME COLUMN swept TO other")
        assert connection.execute("UPDATE recoveries SET epoch = epoch").rowcount == 1
        connection.commit()
        end_of(client, submit(client, shell("exit 0")))
        until(lambda: "no such column" in str(client.status()["journal"]["error"]))

        connection.execute("ALTER TABLE recoveries RENAME COLUMN other TO swept")
        until(lambda: client.status()["journal"]["error"] is None)
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost


def test_journal_when_it_lacks_too_many_rows_then_a_new_chain_begins(daemon: DaemonProcess) -> None:
    journal, database = daemon.state_dir / "journal", daemon.state_dir / "stoker.db"
    with daemon.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    journaled(daemon)
    daemon.stop()
    moved = journal.rename(daemon.state_dir / "journal.moved")
    journal.write_text("no directory")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(MANY_ENTRIES, (MOST_WAITING,))
    daemon.start()
    with daemon.client() as client:
        until(lambda: client.status()["journal"]["given_up"])
        end_of(client, submit(client, shell("exit 0")))
        assert "it was given up, a new one begins later: " in daemon.cli("status").stdout
        assert "a new chain of it begins once it can be written" in daemon.cli("doctor").stdout
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    journal.unlink()
    moved.rename(journal)
    with daemon.client() as client:
        until(lambda: not client.status()["journal"]["given_up"])
        end_of(client, submit(client, shell("exit 0")))
    lost, rebuilt = rebuild(daemon)

    assert rebuilt == lost
    assert [event["level"] for event in daemon.events("journal_given_up")] == ["error"]
    assert all(event.get("error") for event in daemon.events("journal_failed"))
