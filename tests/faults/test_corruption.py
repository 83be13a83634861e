"""Seeded damage to the files of a state: it is found before anything is done with it, and a restore works afterwards.

Each seed damages a copy of one state, in place (the lock file stays, so that it is the same directory). Then either
`stoker doctor` has a finding, or a start refuses the state, or every row is proven to be as before. The evidence stays,
`stoker restore` makes a state in which the doctor finds no error, and no unsafe job runs a second time.
`STOKER_SEED` and `STOKER_FAULTS` as in the other tortures; some seeds start a real daemon, before and after.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import StokerError
from stoker.ops.restore import carry_out
from stoker.store import changes, instance
from stoker.store.database import open_unchanged
from stoker.store.directory import Aside, StateDirectory
from stoker.store.migrate import schema_of
from stoker.store.open import open_existing
from tests.support.daemon import DaemonProcess
from tests.support.examined import edit, examined, findings, is_journaled
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, step
from tests.support.work import end_of, job_view, lines, shell, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 4_096
SEEDS = int(os.environ.get("STOKER_FAULTS", "26"))
STARTED_EACH = 1 if "STOKER_FAULTS" in os.environ else 13
JOBS = 12

# Tables in which a wrong value can be harmless: every entry of the outbox is in the journal here, so no entry is read
# again. Harmful values are found: tests/faults/test_damaged_columns.py.
NOT_COMPARED = {"outbox"}


class Pristine:
    """A state whose daemon was killed, as bytes. `ran`: what its unsafe jobs wrote, each once."""

    def __init__(self, daemon: DaemonProcess, ledger: Path) -> None:
        self.daemon = daemon
        self.root = daemon.state_dir
        self.ledger = ledger
        self.ran = sorted(lines(ledger))
        self.files = content(self.root)
        self.modes = {name: (self.root / name).stat().st_mode & 0o777 for name in self.files}
        self.rows = rows_of(self.root)
        (self.backup,) = (self.root / "backups").glob("*.db")

    def put_back(self) -> None:
        """The same bytes and modes in the same directory, with the same lock file."""
        self.daemon.kill_all()
        for path in self.root.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, data in self.files.items():
            path = self.root / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(self.modes[name])


def content(root: Path) -> dict[str, bytes]:
    """Every file but the lock, which names its last holder, and the index of the WAL, which is made again."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in {"lock", "stoker.db-shm"})
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def rows_of(root: Path) -> dict[str, Any] | None:
    """Every row of the tables that are compared; None if they cannot be read."""
    try:
        with open_unchanged(root / "stoker.db") as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            return {
                name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
                for name in sorted(names - NOT_COMPARED)
                if not name.startswith("sqlite_stat")
            }
    except (StokerError, sqlite3.Error, OSError):
        return None


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pristine]:
    """Jobs that ran since the last backup, safe and unsafe; workflows, checkpoints, keys, a WAL that is not copied."""
    ledger = tmp_path_factory.mktemp("ledger") / "ledger"
    note = f'echo "$STOKER_JOB_ID" >> {ledger}; echo "$STOKER_JOB_ID"'
    with DaemonProcess() as daemon:
        with daemon.client() as client:
            flow_end(client, sent_flow(client, {"a": step("exit 0"), "b": step("exit 0", "a")}))
            client.call("queue.pause", {"name": "default"})
            jobs = [submit(client, shell(note), idempotency_key=f"k{number}") for number in range(JOBS)]
            assert daemon.cli("backup").returncode == 0
            client.call("queue.resume", {"name": "default"})
            for job in jobs:
                end_of(client, job)
            client.call("queue.pause", {"name": "default"})
            submit(client, shell(note), needs=[{"job": submit(client, shell(note))}])
            until(lambda: is_journaled(daemon.state_dir), why="the journal has every row")
        daemon.kill9()
        daemon.kill_all()
        with open_unchanged(daemon.state_dir / "stoker.db") as connection:
            aside = Aside(instance.own_id(connection), schema_of(connection), changes.last(connection)[0])
        StateDirectory(daemon.state_dir).write_aside(aside)  # as the daemon does within a minute
        yield Pristine(daemon, ledger)


# --- the damages ------------------------------------------------------------------------------------------------


def flip(path: Path, at: int, dice: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << dice.randrange(8))]))


def copied(root: Path) -> Path:
    """The database, after its WAL was copied into it."""
    edit(root, "PRAGMA wal_checkpoint(TRUNCATE)")
    return root / "stoker.db"


def flip_in_database(pristine: Pristine, dice: random.Random) -> None:
    database = copied(pristine.root)
    for _ in range(dice.choice((1, 1, 4))):
        flip(database, dice.randrange(database.stat().st_size), dice)


def flip_in_wal(pristine: Pristine, dice: random.Random) -> None:
    wal = pristine.root / "stoker.db-wal"
    flip(wal, dice.randrange(wal.stat().st_size), dice)


def flip_in_row(pristine: Pristine, dice: random.Random, table: str = "", word: bytes = b"") -> None:
    """Where the file has `word`, or the name of a command."""
    database = copied(pristine.root)
    data, word = database.read_bytes(), word or dice.choice((b"/bin/sh", b"succeeded", b"default", b"STOKER_JOB_ID"))
    places = [at for at in range(len(data) - len(word)) if data.startswith(word, at)]
    flip(database, dice.choice(places) + dice.randrange(len(word)), dice)


def flip_in_checkpoint(pristine: Pristine, dice: random.Random) -> None:
    flip_in_row(pristine, dice, word=b'"steps":')


def cut_database(pristine: Pristine, dice: random.Random) -> None:
    database = copied(pristine.root)
    os.truncate(database, dice.randrange(1, database.stat().st_size))


def cut_wal(pristine: Pristine, dice: random.Random) -> None:
    wal = pristine.root / "stoker.db-wal"
    os.truncate(wal, dice.randrange(wal.stat().st_size))


def empty_database(pristine: Pristine, _: random.Random) -> None:
    os.truncate(pristine.root / "stoker.db", 0)


def empty_wal(pristine: Pristine, _: random.Random) -> None:
    os.truncate(pristine.root / "stoker.db-wal", 0)


def lose_database(pristine: Pristine, _: random.Random) -> None:
    (pristine.root / "stoker.db").unlink()


def zero_page(pristine: Pristine, dice: random.Random) -> None:
    database = copied(pristine.root)
    with database.open("r+b") as file:
        file.seek(PAGE * dice.randrange(database.stat().st_size // PAGE))
        file.write(bytes(PAGE))


def swap_pages(pristine: Pristine, dice: random.Random) -> None:
    database = copied(pristine.root)
    data = bytearray(database.read_bytes())
    one, other = (PAGE * page for page in dice.sample(range(1, len(data) // PAGE), 2))
    data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]
    database.write_bytes(data)


def another_instance(pristine: Pristine, _: random.Random) -> None:
    copied(pristine.root)
    edit(pristine.root, "UPDATE meta SET value = '0123456789abcdef' WHERE key IN ('instance', 'original')")


def old_backup(pristine: Pristine, _: random.Random) -> None:
    (pristine.root / "stoker.db-wal").unlink()
    shutil.copy(pristine.backup, pristine.root / "stoker.db")


DAMAGES: list[Callable[[Pristine, random.Random], None]] = [
    flip_in_database, flip_in_wal, flip_in_row, flip_in_checkpoint, cut_database, cut_wal, empty_database, empty_wal,
    lose_database, zero_page, swap_pages, another_instance, old_backup,
]  # fmt: skip


# --- what must hold ---------------------------------------------------------------------------------------------


def refusal(root: Path) -> str | None:
    """Why a start refuses the state, by the checks that it makes before it changes anything."""
    directory = StateDirectory(root)
    try:
        with directory.shared(), open_existing(directory):
            return None
    except StokerError as error:
        return error.message


def seeds(name: str) -> list[random.Random]:
    first = int(os.environ.get("STOKER_SEED", "20261129"))
    count = max(1, SEEDS // len(DAMAGES))
    return [random.Random(f"{first} {name} {number}") for number in range(count)]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.timeout(3_600)
def test_damage_when_it_is_done_then_it_is_seen_or_harmless_and_a_restore_works(
    pristine: Pristine, damage: Callable[[Pristine, random.Random], None]
) -> None:
    name = damage.__name__
    outcomes = {"found": 0, "refused": 0, "harmless": 0}
    for number, dice in enumerate(seeds(name)):
        pristine.put_back()
        damage(pristine, dice)
        damaged = content(pristine.root)
        assert damaged != pristine.files, "the damage was done"

        report = examined(pristine.root)
        why = refusal(pristine.root)
        rows = rows_of(pristine.root)
        unchanged = rows == pristine.rows

        seen = not report["ok"]
        assert seen or why or unchanged, f"{name}, seed {number}: nobody saw {difference(pristine.rows, rows)}"
        assert content(pristine.root) == damaged, "the evidence stays"
        outcomes["found"] += seen
        outcomes["refused"] += why is not None
        outcomes["harmless"] += unchanged and not seen and why is None
        started = (number + DAMAGES.index(damage)) % STARTED_EACH == 0
        if started and why is not None:
            refuses_to_start(pristine.daemon)
        if not unchanged:
            restores(pristine, damaged)
            if started:
                runs_nothing_twice(pristine)
    sys.stderr.write(f"{name}: {outcomes}\n")


def difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[Any]:
    assert before is not None
    assert after is not None
    return [(name, row) for name, rows in after.items() for row in rows if row not in before.get(name, ())]


def refuses_to_start(daemon: DaemonProcess) -> None:
    before = len(daemon.stderr.read_text(errors="replace"))
    daemon.spawn()
    assert daemon.wait() not in (0, 1, 70)
    assert "Traceback" not in daemon.stderr.read_text(errors="replace")[before:]


def restores(pristine: Pristine, damaged: dict[str, bytes]) -> None:
    view = carry_out(str(pristine.root), "latest")

    assert examined(pristine.root)["errors"] == 0, findings(examined(pristine.root))
    old = Path(view["old_state"] or "")
    for name in ("stoker.db", "stoker.db-wal"):
        assert name not in damaged or (old / name).read_bytes() == damaged[name], "the evidence stays"


def runs_nothing_twice(pristine: Pristine) -> None:
    daemon = pristine.daemon
    daemon.start()
    with daemon.client() as client:
        client.call("queue.resume", {"name": "default"})
        end_of(client, submit(client, shell("exit 0")))
        held = client.list(states=["held"])["jobs"]
        assert {job["reason"] for job in held} == {"restored"}
        assert len(held) == JOBS
        assert job_view(client, held[0]["id"])["attempts"] == 0
    assert sorted(lines(pristine.ledger)) == pristine.ran
    daemon.kill9()


def test_seeds_when_all_damages_are_counted_then_each_is_tried() -> None:
    assert all(seeds(damage.__name__) for damage in DAMAGES)
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (PAGE,)
