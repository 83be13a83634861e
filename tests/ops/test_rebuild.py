"""A database that is rebuilt from the journal alone: up to a point, behind a backup, or not at all.

A refusal must leave every byte as it was.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.clock import wall_ms
from stoker.core.errors import BackupRefused, JournalBroken, StateRefused
from stoker.ops import audit, journal_audit, restore
from stoker.ops import rebuild as rebuilding
from stoker.ops.rebuild import Until
from stoker.store import changes, given_ids
from stoker.store.backup_files import listed
from stoker.store.directory import StateDirectory
from stoker.store.journal_chains import JournalChain, chains
from stoker.store.journal_files import (
    HASH,
    START,
    Line,
    files,
    lines,
    read_header,
    read_line,
    sealed,
)
from stoker.store.open import doubt_journal, open_existing
from stoker.store.restore import given_out
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.journals import journaled, split_in_two
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# --- up to a point ------------------------------------------------------------------------------------------


class Past:
    """A state of a stopped daemon: its backup in the middle, and how many jobs there were after each change."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.root = daemon.state_dir
        self.points: list[tuple[int, int, int]] = []  # change, time, jobs
        with daemon.client() as client:
            for number in range(1, 7):
                end_of(client, submit(client, shell("exit 0")))
                seq = journaled(daemon)
                self.points.append((seq, wall_ms(), number))
                until(lambda: wall_ms() > self.points[-1][1])
                if number == 3:
                    assert daemon.cli("backup").returncode == 0
        daemon.stop()


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    with DaemonProcess() as process:
        yield Past(process)


@pytest.fixture
def root(past: Past, tmp_path: Path) -> Path:
    """A copy of that state."""
    target = tmp_path / "state"
    shutil.copytree(past.root, target, ignore=shutil.ignore_patterns("*.sock"))
    return target


def jobs_in(root: Path) -> int:
    with closing(sqlite3.connect(root / "stoker.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


@pytest.mark.parametrize("point", range(6))
@pytest.mark.parametrize("by", ["seq", "at"])
def test_restore_when_it_ends_at_a_point_then_it_has_the_state_of_it(
    past: Past, root: Path, point: int, by: str
) -> None:
    seq, at, jobs = past.points[point]
    end = Until(seq=seq) if by == "seq" else Until(at=at)

    view = restore.carry_out(str(root), None, end)

    assert (view["seq"], jobs_in(root)) == (seq, jobs)
    if point >= 3:
        assert restore.carry_out(str(root), "latest", end)["seq"] == seq
        assert jobs_in(root) == jobs


def test_restore_when_its_end_is_inside_a_commit_then_it_ends_before_and_reports_it(past: Past, root: Path) -> None:
    """Changes that were committed together are restored together, or not at all."""
    ends = sorted(line.seq for path in files(root / "journal") for line in content(path))
    inside = next(seq for seq in range(past.points[0][0], ends[-1]) if seq not in ends)

    view = restore.carry_out(str(root), None, Until(seq=inside))

    assert view["seq"] == max(seq for seq in ends if seq < inside)
    assert f"change {inside} was committed together with later ones" in view["remarks"][0]


def test_restore_when_a_chain_begins_with_many_rows_then_they_are_taken_line_by_line(root: Path) -> None:
    (chain,) = chains(root / "journal")

    base = [commit for commit in rebuilding._commits(chain, []) if commit[0].base]

    assert len(base) > 1
    assert {len(commit) for commit in base} == {1}


def test_restore_when_its_end_is_the_last_change_of_the_backup_then_it_is_the_backup(past: Past, root: Path) -> None:
    (backup,) = listed(root / "backups")

    view = restore.carry_out(str(root), "latest", Until(seq=backup.last_seq))

    assert (view["seq"], jobs_in(root)) == (backup.last_seq, 3)


def test_restore_when_its_end_is_the_time_of_a_commit_then_that_commit_is_part_of_it(root: Path) -> None:
    before, commit = [line for path in files(root / "journal") for line in content(path) if not line.base][-2:]
    assert before.at < commit.at

    assert restore.carry_out(str(root), None, Until(at=commit.at - 1))["seq"] == before.seq
    assert restore.carry_out(str(root), None, Until(at=commit.at))["seq"] == commit.seq


def test_restore_when_the_last_line_is_torn_then_it_is_left_out_and_that_is_reported(past: Past, root: Path) -> None:
    (path,) = files(root / "journal")
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:100])

    view = restore.carry_out(str(root), None)

    assert jobs_in(root) == past.points[-1][2]
    assert "was cut off (100 bytes)" in view["remarks"][0]


def test_restore_when_it_went_back_then_no_id_is_given_out_twice(past: Past, root: Path) -> None:
    """Neither the database nor its marks are left: only the journal knows which ids there were."""
    for path in (*root.glob("stoker.db*"), root / "high-water.json", root / "state.json"):
        path.unlink(missing_ok=True)
    shutil.rmtree(root / "logs", ignore_errors=True)

    restore.carry_out(str(root), None, Until(seq=past.points[0][0]))

    with closing(sqlite3.connect(root / "stoker.db")) as connection:
        assert given_ids.last(connection, "jobs") >= past.points[-1][2]


def content(path: Path) -> list[Line]:
    return [read_line(path, text) for text in list(lines(path))[1:]]


def test_start_when_a_restore_went_back_then_the_journal_that_it_left_may_be_ahead(past: Past, root: Path) -> None:
    restore.carry_out(str(root), None, Until(seq=past.points[1][0]))

    for _ in range(2):  # no daemon has begun a new chain yet
        with open_existing(StateDirectory(root)) as connection:
            doubt_journal(connection, root / "journal")
            assert changes.last(connection)[0] == past.points[1][0]


def test_restore_when_it_rebuilds_the_database_then_no_other_user_may_read_it(root: Path) -> None:
    restore.carry_out(str(root), None)

    assert (root / "stoker.db").stat().st_mode & 0o777 == 0o600


def test_restore_when_the_mark_is_lost_then_ids_begin_above_those_in_the_journal(
    past: Past, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "MARGIN", 0)
    for name in ("stoker.db", "high-water.json"):
        (root / name).unlink()
    shutil.rmtree(root / "logs")

    restore.carry_out(str(root), "latest")

    with closing(sqlite3.connect(root / "stoker.db")) as connection:
        assert given_out(connection).jobs >= past.points[5][2] > jobs_in(root)


# --- the audit ----------------------------------------------------------------------------------------------


def test_audit_when_the_journal_is_whole_then_its_lines_are_counted(past: Past, root: Path) -> None:
    verdict = audit.verify_state(str(root), lambda _done, _of: None)

    assert verdict["ok"]
    assert verdict["journal"] is not None
    assert verdict["journal"]["last"] >= past.points[-1][0]


def test_audit_when_the_oldest_file_is_removed_meanwhile_then_the_rest_is_verified(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = split_in_two(root / "journal")

    def and_removed(directory: Path) -> list[JournalChain]:
        every = chains(directory)
        first.unlink(missing_ok=True)
        return every

    monkeypatch.setattr(journal_audit, "chains", and_removed)

    reading = journal_audit.read(root / "journal")

    assert (reading.broken, reading.lines) == (None, len(list(lines(second))) - 1)


def test_audit_when_a_line_of_the_journal_was_changed_then_it_is_named(root: Path) -> None:
    changed_line(root / "journal")

    verdict = audit.verify_state(str(root), lambda _done, _of: None)

    assert not verdict["ok"]
    assert verdict["broken"] is None
    assert verdict["journal"] is not None
    assert "00000001.jsonl, line " in str(verdict["journal"]["broken"])


def test_audit_when_the_end_of_the_log_was_cut_off_then_the_journal_shows_it(root: Path) -> None:
    """The chain of what is left in the database is whole."""
    (root / "state.json").unlink()
    with closing(sqlite3.connect(root / "stoker.db", isolation_level=None)) as connection:
        connection.executescript("DROP TRIGGER changes_keep_their_tail; DELETE FROM changes WHERE seq > 5")

    verdict = audit.verify_state(str(root), lambda _done, _of: None)

    assert (verdict["ok"], verdict["broken"]) == (False, None)
    assert verdict["journal"] is not None
    assert "the database ends at change 5, but the journal has" in str(verdict["journal"]["broken"])


# --- journals that cannot be used ---------------------------------------------------------------------------


def changed_line(journal: Path) -> None:
    (path,) = files(journal)
    path.write_bytes(path.read_bytes().replace(b'"state":"succeeded"', b'"state":"cancelled"', 1))


def lost_line(journal: Path) -> None:
    (path,) = files(journal)
    every = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(every[: len(every) // 2] + every[len(every) // 2 + 1 :]))


def resealed(journal: Path, edit: Callable[[Line], object], **values: Any) -> None:
    """With edited lines, and other values in its header; every hash is right again."""
    (path,) = files(journal)
    header, _ = read_header(path, next(lines(path)))
    text, digest = sealed(replace(header, **values), START)
    texts = [text]
    for line in content(path):
        edit(line)
        text, digest = sealed(line, digest)
        texts.append(text)
    path.write_bytes(b"".join(texts))


def of_instance(line: Line, instance: str) -> None:
    for row in line.put.get("meta", []):
        row["value"] = instance if row["key"] == "instance" else row["value"]


def hole(journal: Path) -> None:
    first, _second = split_in_two(journal)
    first.write_bytes(first.read_bytes()[: first.read_bytes().rindex(b"\n", 0, -1) + 1])


BAD: dict[str, tuple[Callable[[Path], object], Until, str]] = {
    "a changed line": (changed_line, Until(), "does not match its hash"),
    "a lost line": (lost_line, Until(), "does not match its hash"),
    "a hole between two files": (hole, Until(), "does not continue the file before it"),
    "a lost first file": (lambda journal: split_in_two(journal)[0].unlink(), Until(), "earlier changes were removed"),
    "none": (shutil.rmtree, Until(), "there is no journal in"),
    "an empty directory": (
        lambda journal: files(journal)[0].unlink(),
        Until(),
        "there is no journal in",
    ),
    "another text": (lambda journal: files(journal)[0].write_text("no\n"), Until(), "not the header of a journal"),
    "another instance": (
        lambda journal: resealed(journal, lambda line: of_instance(line, "abcd"), instance="abcd"),
        Until(),
        "is of instance abcd, this",
    ),
    "a newer schema": (
        lambda journal: resealed(journal, lambda _line: None, schema=99),
        Until(),
        "schema 99, this program knows up to",
    ),
    "an unknown table": (
        lambda journal: resealed(journal, lambda line: line.put.update(strangers=[{"id": 1}])),
        Until(),
        "rows that this schema does not know: 'strangers'",
    ),
    "an unknown column": (
        lambda journal: resealed(journal, lambda line: [row.update(stranger=1) for row in line.put.get("jobs", ())]),
        Until(),
        "rows that this schema does not know: jobs has no stranger",
    ),
    "a row without a key": (
        lambda journal: resealed(journal, lambda line: [row.pop("id") for row in line.put.get("jobs", ())]),
        Until(),
        "rows that this schema does not know: 'id'",
    ),
    "bytes that are none": (
        lambda journal: resealed(journal, lambda line: [row.update(hash="abc") for row in line.put.get("changes", ())]),
        Until(),
        "rows that this schema does not know",
    ),
    "an end behind it": (lambda _journal: None, Until(seq=10_000), "the journal ends at change"),
    "an end in the future": (lambda _journal: None, Until(at=wall_ms() + 3_600_000), "is in the future"),
    "an end before it": (lambda _journal: None, Until(at=1_000), "is before the journal begins"),
}


@pytest.mark.parametrize("kind", BAD)
def test_journal_when_it_cannot_be_used_then_it_is_refused_and_nothing_changes(root: Path, kind: str) -> None:
    damage, end, message = BAD[kind]
    damage(root / "journal")
    before = every_byte(root)

    for act in (restore.preview, restore.carry_out):
        with pytest.raises((BackupRefused, JournalBroken, StateRefused), match=message):
            act(str(root), None, end)

    assert every_byte(root) == before


def with_line(journal: Path, body: bytes) -> None:
    """One more line, with a right hash."""
    (path,) = files(journal)
    digest = bytes.fromhex(path.read_bytes().splitlines()[-1].decode()[-66:-2])
    digest = hashlib.sha256(digest + body).digest()
    with path.open("ab") as file:
        file.write(body[:-1] + HASH + digest.hex().encode() + b'"}\n')


HOSTILE_ROWS = {
    "a row that is no object": b'{"put":{"jobs":[1]}}',
    "a row without its key": b'{"put":{"jobs":[{"state":"queued"}]}}',
    "a key that is a list": b'{"put":{"jobs":[{"id":[1]}]}}',
    "a key that is too large": b'{"put":{"jobs":[{"id":9223372036854775808}]}}',
    "an id that is a text": b'{"put":{"jobs":[{"id":"1"}]}}',
    "a value that is a list": b'{"put":{"meta":[{"key":"k","value":[1]}]}}',
    "bytes that are no base64": b'{"put":{"meta":[{"key":"k","value":{"base64":"a"}}]}}',
    "another object": b'{"put":{"meta":[{"key":"k","value":{}}]}}',
    "an unknown table": b'{"put":{"../jobs":[{"id":1}]}}',
    "too few columns of a key": b'{"gone":{"jobs":[[]]}}',
    "a gone key that is a number": b'{"gone":{"jobs":[1]}}',
    "a lone surrogate": b'{"put":{"meta":[{"key":"\\ud800","value":1}]}}',
    "deep JSON": b'{"put":{"meta":' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
    "a state without identity": b'{"gone":{"meta":[["instance"]]}}',
}


@pytest.mark.parametrize("kind", HOSTILE_ROWS)
def test_journal_when_a_worker_forged_a_line_then_it_is_refused(past: Past, root: Path, kind: str) -> None:
    place = f'"last":1000000,"seq":{past.points[5][0]},"at":{wall_ms()},'.encode()
    with_line(root / "journal", b"{" + place + HOSTILE_ROWS[kind][1:])
    before = every_byte(root)

    for act in (restore.preview, restore.carry_out):
        with pytest.raises((JournalBroken, BackupRefused)):
            act(str(root), None)

    assert every_byte(root) == before


def later_chain(journal: Path) -> None:
    """Another chain that began with the same change."""
    (path,) = files(journal)
    header, _ = read_header(path, next(lines(path)))
    text, _ = sealed(replace(header, chain="00" * 8), START)
    path.with_name("00000002.jsonl").write_bytes(text)


def header_alone(journal: Path) -> None:
    (path,) = files(journal)
    path.write_bytes(next(lines(path)))


BAD_BEHIND_BACKUP: dict[str, tuple[Callable[[Path], object], Callable[[Past], Until], str]] = {
    "an end before the backup": (
        lambda _journal: None,
        lambda past: Until(seq=past.points[0][0]),
        "before the end of",
    ),
    "a time before it": (
        lambda _journal: None,
        lambda past: Until(at=past.points[0][1]),
        "before the end of",
    ),
    "the change before its last": (
        lambda _journal: None,
        lambda past: Until(seq=listed(past.root / "backups")[0].last_seq - 1),
        "before the end of",
    ),
    "the change behind the journal": (
        lambda _journal: None,
        lambda past: Until(seq=past.points[5][0] + 1),
        "the journal ends at change",
    ),
    "a time in the future": (lambda _journal: None, lambda _past: Until(at=wall_ms() + 60_000), "is in the future"),
    "a time in a later chain": (
        later_chain,
        lambda past: Until(at=past.points[5][1]),
        "the part of the journal behind this backup ends at change",
    ),
    "no complete commit": (
        header_alone,
        lambda past: Until(seq=past.points[5][0]),
        "has no complete commit",
    ),
    "no journal": (shutil.rmtree, lambda past: Until(seq=past.points[5][0]), "has nothing that follows this backup"),
    "a changed line": (changed_line, lambda past: Until(seq=past.points[5][0]), "does not match its hash"),
}


@pytest.mark.parametrize("kind", BAD_BEHIND_BACKUP)
def test_restore_when_the_journal_cannot_go_on_from_a_backup_then_it_is_refused(
    past: Past, root: Path, kind: str
) -> None:
    damage, end, message = BAD_BEHIND_BACKUP[kind]
    damage(root / "journal")
    before = every_byte(root)

    with pytest.raises((BackupRefused, JournalBroken), match=message):
        restore.carry_out(str(root), "latest", end(past))

    assert every_byte(root) == before


def test_restore_when_the_journal_after_the_backup_was_removed_then_it_is_refused(past: Past, root: Path) -> None:
    first, second = split_in_two(root / "journal")
    header, _ = read_header(second, next(lines(second)))
    first.unlink()
    texts = list(lines(second))
    text, digest = sealed(replace(header, last=10_000, seq=past.points[4][0]), bytes.fromhex(header.follows))
    rest = []
    for one in texts[1:]:
        sealed_line, digest = sealed(read_line(second, one), digest)
        rest.append(sealed_line)
    second.write_bytes(b"".join([text, *rest]))

    with pytest.raises(BackupRefused, match="the changes between were removed"):
        restore.carry_out(str(root), "latest", Until(seq=past.points[5][0]))


def every_byte(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}
