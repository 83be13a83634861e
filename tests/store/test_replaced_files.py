"""Files of the state directory that a worker has replaced: to open them neither waits nor leads to another file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import StateRefused
from stoker.store.directory import StateDirectory
from stoker.store.high_water import HighWater
from stoker.store.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RESERVE_BYTES = 4_096


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("state.json", lambda root: StateDirectory(root).read_aside()),
        ("high-water.json", lambda root: HighWater(root / "high-water.json").read()),
        ("lock", lambda root: StateDirectory(root).share()),
    ],
)
def test_file_when_a_worker_made_it_a_fifo_then_it_is_refused_at_once(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    os.mkfifo(tmp_path / name)

    with pytest.raises(StateRefused, match="not a regular file"):
        read(tmp_path)


@pytest.mark.timeout(30)
def test_reserve_when_a_worker_made_it_a_fifo_then_it_is_refused_once_and_made_anew(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", RESERVE_BYTES)
    os.mkfifo(reserve.path)

    with pytest.raises(OSError, match="reserve"):
        reserve.keep()
    reserve.keep()

    assert reserve.path.stat().st_size == RESERVE_BYTES


def test_reserve_when_a_worker_made_it_a_link_then_the_other_file_is_left_alone(tmp_path: Path) -> None:
    reserve, other = Reserve(tmp_path / "reserve", RESERVE_BYTES), tmp_path / "other"
    other.write_text("precious")
    reserve.path.symlink_to(other)

    with pytest.raises(OSError, match="reserve"):
        reserve.keep()

    assert other.read_text() == "precious"
