"""The high-water mark: it is raised before a commit needs it, seldom, and never lowered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker import files
from stoker.core.errors import StateRefused, StorageFailed
from stoker.store.high_water import BLOCK, HighWater, Mark
from tests.support.batches import accepted
from tests.support.jobs import job

if TYPE_CHECKING:
    from pathlib import Path

    from stoker.store.directory import StateDirectory
    from tests.store.conftest import Open

MARKS = st.builds(Mark, *[st.integers(0, 1 << 40)] * 4)


@given(MARKS, MARKS)
def test_mark_when_it_is_raised_then_it_covers_both_and_seldom_moves(mark: Mark, used: Mark) -> None:
    raised = mark.beyond(used)

    assert raised.covers(mark)
    assert raised.covers(used)
    assert raised == mark or not mark.covers(used)
    assert mark.joined(used) == used.joined(mark)
    assert raised.covers(mark.joined(used))


def test_file_when_ids_are_used_then_it_is_written_once_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []
    monkeypatch.setattr(files, "sync", written.append)
    high_water = HighWater(tmp_path / "high-water.json")

    for ident in range(1, 2 * BLOCK + 4):
        high_water.cover(Mark(jobs=ident))

    assert len(written) == 3
    assert HighWater(tmp_path / "high-water.json").read() == high_water.mark == Mark(jobs=3 * BLOCK + 3)


@pytest.mark.parametrize("text", ["", "{", '{"epoch": "1"}'])
def test_file_when_it_cannot_be_read_then_it_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "high-water.json").write_text(text)

    with pytest.raises(StateRefused, match=r"high-water\.json"):
        HighWater(tmp_path / "high-water.json").read()


async def test_commit_when_it_uses_an_id_above_the_mark_then_the_mark_is_durable_first(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory)
    assert json.loads(directory.high_water.read_bytes())["epoch"] == state.instance.epoch

    await state.writer.commit(accepted(job(id=2 * BLOCK)))

    assert json.loads(directory.high_water.read_bytes())["jobs"] == 3 * BLOCK


async def test_commit_when_it_is_the_first_of_a_life_then_it_writes_no_mark(
    directory: StateDirectory, open_at: Open
) -> None:
    state = await open_at(directory)
    before = directory.high_water.stat()

    await state.writer.commit(accepted(job(id=1)))

    assert directory.high_water.stat() == before


async def test_commit_when_the_mark_cannot_be_raised_then_nothing_is_committed(
    directory: StateDirectory, open_at: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await open_at(directory)

    def fail(_path: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync", fail)

    with pytest.raises(StorageFailed, match="high-water mark"):
        await state.writer.commit(accepted(job(id=2 * BLOCK)))

    assert await state.reader.run(lambda rows: rows.execute("SELECT count(*) FROM jobs").fetchone()) == (0,)
