"""Starts on the same directory, one after the other: its identity, its epochs, and the databases that it refuses."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.clock import boot_ms, wall_ms
from stoker.core.errors import AlreadyRunning, StateRefused
from stoker.core.job.model import State
from stoker.store.directory import Aside, StateDirectory
from tests.store.conftest import RESERVE_BYTES
from tests.store.test_database import content
from tests.support.batches import accepted, tables
from tests.support.jobs import job

if TYPE_CHECKING:
    from pathlib import Path

    from stoker.store.instance import Instance
    from tests.store.conftest import Open


async def one_life(open_at: Open, at: StateDirectory, boot_id: str = "boot", **where: int) -> Instance:
    """Open and close, as a daemon that did nothing."""
    state = await open_at(at, boot_id, **where)
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    at.unlock()
    return state.instance


# --- instance -----------------------------------------------------------------------------------------------


async def test_instance_when_the_daemon_starts_again_then_only_the_epoch_changes(
    directory: StateDirectory, open_at: Open
) -> None:
    first, second, third = [await one_life(open_at, directory) for _ in range(3)]

    assert (first.epoch, second.epoch, third.epoch) == (1, 2, 3)
    assert second == replace(first, epoch=2)
    assert not third.copied
    assert len(first.id) == 16


async def test_instance_when_the_directory_is_copied_then_the_copy_is_another_instance(
    directory: StateDirectory, open_at: Open, tmp_path: Path
) -> None:
    original = await one_life(open_at, directory)
    shutil.copytree(directory.root, tmp_path / "copy")

    copy = await one_life(open_at, StateDirectory(tmp_path / "copy"))
    again = await one_life(open_at, StateDirectory(tmp_path / "copy"))

    assert (copy.copied, again.copied) == (True, False)
    assert copy.id != original.id
    assert (again.id, again.epoch) == (copy.id, 3)
    assert (original.foreign_epochs, copy.foreign_epochs, again.foreign_epochs) == (0, 1, 1)
    assert (original.earlier_epochs, copy.earlier_epochs, again.earlier_epochs) == (0, 1, 1)
    assert (await one_life(open_at, directory)).id == original.id


async def test_instance_when_the_pid_namespace_changed_then_earlier_epochs_are_hidden(
    directory: StateDirectory, open_at: Open
) -> None:
    lives = [await one_life(open_at, directory, pid_namespace=namespace) for namespace in (1, 2, 2, 1)]
    lives.append(await one_life(open_at, directory, "another boot", pid_namespace=5))

    assert [life.hidden_epochs for life in lives] == [0, 1, 1, 3, 0]
    assert [life.earlier_epochs for life in lives] == [0, 0, 0, 0, 4]


MONTH_MS = 30 * 24 * 3_600_000


@pytest.mark.parametrize("jump", [-MONTH_MS, -3_600_000, 0, 3_600_000, MONTH_MS])
async def test_anchor_when_the_wall_clock_was_set_before_the_boot_then_steady_time_goes_on(
    directory: StateDirectory, open_at: Open, jump: int
) -> None:
    """`jump` happened after the first start: waits that began before it were counted on the old wall clock."""
    first = await one_life(open_at, directory, "boot 1")
    with sqlite3.connect(directory.database) as connection:
        seen_steady = first.anchor - jump + boot_ms()
        connection.execute("UPDATE meta SET value = ? WHERE key = 'seen_steady'", [seen_steady])
    connection.close()

    other = await one_life(open_at, directory, "boot 2")

    assert 0 <= other.anchor + boot_ms() - seen_steady < 5_000


async def test_anchor_when_the_wall_clock_lost_its_time_then_steady_time_does_not_go_back(
    directory: StateDirectory, open_at: Open
) -> None:
    first = await one_life(open_at, directory, "boot 1")
    with sqlite3.connect(directory.database) as connection:
        connection.execute("UPDATE meta SET value = value + ? WHERE key IN ('seen_wall', 'seen_steady')", [MONTH_MS])
    connection.close()

    other = await one_life(open_at, directory, "boot 2")

    assert abs(other.anchor - first.anchor - MONTH_MS) < 5_000


async def test_anchor_when_the_boot_is_another_then_steady_time_goes_on_by_the_wall(
    directory: StateDirectory, open_at: Open
) -> None:
    first = await one_life(open_at, directory, "boot 1")
    with sqlite3.connect(directory.database) as connection:
        connection.execute("UPDATE meta SET value = 5 WHERE key = 'anchor'")
    connection.close()

    same, other = await one_life(open_at, directory, "boot 1"), await one_life(open_at, directory, "boot 2")

    assert same.anchor == 5
    assert abs(first.anchor - (wall_ms() - boot_ms())) < 5_000
    assert abs(other.anchor - same.anchor) < 5_000


# --- opening ------------------------------------------------------------------------------------------------


async def test_open_when_the_directory_is_new_then_all_of_it_is_private(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.root.iterdir()}
    assert set(modes) == {
        "stoker.db",
        "stoker.db-wal",
        "stoker.db-shm",
        "lock",
        "reserve",
        "high-water.json",
        "outcomes",
        "secrets.key",
    }
    assert modes.pop("outcomes") == 0o700
    assert set(modes.values()) == {0o600}
    assert state.schema >= 1
    assert directory.reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    assert not state.writer.full


async def test_open_when_another_daemon_has_it_then_it_is_refused_before_anything_is_read(
    directory: StateDirectory, open_at: Open
) -> None:
    first = await open_at(directory)
    before = await first.writer.read(tables)

    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        await open_at(StateDirectory(directory.root))

    assert await first.writer.read(tables) == before


async def test_open_when_jobs_were_stored_then_the_next_start_reads_them(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory)
    await state.writer.commit(accepted(job(id=1), job(State.WAITING, id=2)))
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    directory.unlock()

    again = await open_at(directory)
    await again.writer.commit(accepted(job(id=3), seq=3))

    assert (again.snapshot.last_id, again.snapshot.last_seq) == (2, 2)
    assert sorted(again.snapshot.counts) == [
        ("default", 1_000, "queued", None, 1),
        ("default", 1_000, "waiting", None, 1),
    ]


@pytest.fixture
async def lived(directory: StateDirectory, open_at: Open) -> StateDirectory:
    """A directory whose database has two changes."""
    state = await open_at(directory)
    await state.writer.commit(accepted(job(id=1), job(id=2)))
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    directory.unlock()
    return directory


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"last_seq": 3}, r"ends at change 2, but state\.json says that it reached 3"),
        ({"schema": 99}, r"has schema \d+, but state\.json says that it reached 99"),
        ({"instance": "cafe"}, r"of instance [0-9a-f]{16}, but state\.json is of instance cafe"),
    ],
)
async def test_open_when_the_database_does_not_match_its_note_then_it_is_refused(
    lived: StateDirectory, open_at: Open, fields: dict[str, Any], message: str
) -> None:
    lived.write_aside(replace(true_note(lived), **fields))
    before = content(lived.root)

    with pytest.raises(StateRefused, match=message):
        await open_at(lived)

    assert content(lived.root) == before


async def test_open_when_it_is_refused_then_a_wal_that_a_crash_left_stays_too(
    directory: StateDirectory, open_at: Open, tmp_path: Path
) -> None:
    state = await open_at(directory)
    await state.writer.commit(accepted(job(id=1)))
    crashed = StateDirectory(tmp_path / "crashed")
    shutil.copytree(directory.root, crashed.root)
    crashed.write_aside(Aside(instance=state.instance.id, schema=state.schema, last_seq=9))
    before = content(crashed.root)
    assert (crashed.root / "stoker.db-wal").stat().st_size

    with pytest.raises(StateRefused, match="ends at change 1, but"):
        await open_at(crashed)

    assert content(crashed.root) == before


@pytest.mark.parametrize("last_seq", [2, 1, 0])
async def test_open_when_the_database_has_what_its_note_says_or_more_then_it_opens(
    lived: StateDirectory, open_at: Open, last_seq: int
) -> None:
    lived.write_aside(replace(true_note(lived), last_seq=last_seq))

    assert (await open_at(lived)).snapshot.last_seq == 2


async def test_open_when_a_copy_still_has_the_note_of_the_original_then_it_opens(
    lived: StateDirectory, open_at: Open, tmp_path: Path
) -> None:
    lived.write_aside(true_note(lived))
    shutil.copytree(lived.root, tmp_path / "copy")

    lives = [await one_life(open_at, StateDirectory(tmp_path / "copy")) for _ in range(3)]

    assert [life.copied for life in lives] == [True, False, False]


def true_note(of: StateDirectory) -> Aside:
    """The note that a daemon would write beside the database now."""
    with closing(sqlite3.connect(of.database)) as connection:
        (instance,) = connection.execute("SELECT value FROM meta WHERE key = 'instance'").fetchone()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
    return Aside(instance=instance, schema=schema, last_seq=2)


async def test_open_when_no_reserve_is_wanted_then_that_is_no_full_disk(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory, reserve_bytes=0)

    assert not state.writer.full
