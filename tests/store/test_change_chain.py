"""The log of changes: each record is hashed together with the one before, and reads back as it was stored."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from stoker.store import changes
from stoker.store.batch import Batch, store
from stoker.store.directory import StateDirectory
from tests.support.batches import accepted, chain_holds, change, newest, tables
from tests.support.jobs import job, spec

if TYPE_CHECKING:
    from tests.store.conftest import Open


async def test_chain_when_several_daemons_store_changes_then_every_hash_covers_the_last(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory)
    await state.writer.commit(accepted(job(id=1), job(id=2)))
    await state.writer.commit(accepted(job(id=3), seq=3))
    await state.writer.close()
    await state.queries.close()
    await state.reader.close()
    directory.unlock()
    again = await open_at(directory)
    await again.writer.commit(accepted(job(id=4), seq=4))

    rows = (await again.writer.read(tables))["changes"]

    assert len(rows) == 4
    assert chain_holds(rows)
    assert (await again.writer.read(newest)) == (4, rows[-1][-1])


FORGERIES = [(1, 99), (2, "queue"), (3, "1"), (5, "held"), (6, "held"), (7, "forged"), (8, 0), (9, '{"n":9}')]


@pytest.mark.parametrize(("column", "forged"), FORGERIES)
def test_chain_when_a_value_was_forged_then_it_breaks(
    database: sqlite3.Connection, column: int, forged: object
) -> None:
    store(database, accepted(job(id=1), job(id=2), job(id=3)), bytes(32))
    rows = tables(database)["changes"]
    assert chain_holds(rows)

    rows[1] = (*rows[1][:column], forged, *rows[1][column + 1 :])

    assert not chain_holds(rows)


def test_chain_when_a_batch_fails_then_the_head_stays_where_it_was(database: sqlite3.Connection) -> None:
    head = store(database, accepted(job(id=1)), bytes(32)).head

    with pytest.raises(sqlite3.IntegrityError):
        store(database, accepted(job(id=1), seq=2), head)

    assert changes.last(database) == (1, head)


def test_chain_when_all_of_it_was_purged_then_it_goes_on_from_meta(
    database: sqlite3.Connection,
) -> None:
    head = store(database, accepted(job(id=1), job(id=2)), bytes(32)).head
    database.executemany(
        "INSERT INTO meta (key, value) VALUES (?, ?)", [("changes_purged", 2), ("changes_purged_hash", head)]
    )
    database.execute("DELETE FROM changes")

    assert changes.last(database) == (2, head)
    assert store(database, accepted(job(id=3), seq=3), head).head == changes.last(database)[1]


def test_changes_when_read_back_then_payload_and_order_are_as_written(database: sqlite3.Connection) -> None:
    written = [
        change(1, payload={"spec": spec(), "n": None}),
        change(2, kind="queue", subject="bulk", cause="set", actor_uid=None, payload={}),
        change(3, from_state="queued", to_state="running", cause="dispatched"),
    ]
    store(database, Batch(changes=written), bytes(32))

    read = changes.after(database, 0, 3, 10).changes
    of_job = changes.of_job(database, 1)

    assert [replace(one, payload={}) for one in read] == [replace(one, payload={}) for one in written]
    assert [msgspec.json.decode(msgspec.json.encode(one.payload)) for one in of_job] == [
        msgspec.json.decode(msgspec.json.encode(one.payload)) for one in (written[0], written[2])
    ]
    assert changes.after(database, 1, 3, 1) == ([read[1]], 2)
    assert changes.after(database, 1, 2, 9) == ([read[1]], 2)
    assert changes.after(database, 3, 9, 9) == ([], 9)
    assert [one.seq for one in of_job] == [1, 3]
    assert changes.after_of_job(database, 1, 1, 9, 9) == ([read[2]], 9)


def test_changes_when_a_read_payload_is_stored_again_then_it_is_the_same(database: sqlite3.Connection) -> None:
    store(database, Batch(changes=[change(1, payload={"n": 1})]), bytes(32))
    (read,) = changes.of_job(database, 1)

    rows, _ = changes.insert_rows([read], bytes(32))

    assert rows == tables(database)["changes"]
