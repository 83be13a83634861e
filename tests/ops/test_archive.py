"""The file of an archive: complete under its name, whatever stood at the path before."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import pytest

from stoker.ops.archive import ArchiveFile, path_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("victim"), lambda path: path.touch()])
def test_archive_when_its_new_name_is_taken_then_that_is_replaced(tmp_path: Path, put: Callable[[Path], None]) -> None:
    path = path_of(tmp_path, 7, 1)
    path.parent.mkdir()
    put(path.with_name(path.name + ".new"))
    file = ArchiveFile(path)

    assert file.open()
    file.add([b"whole"])
    file.keep()

    assert gzip.decompress(path.read_bytes()) == b"whole"
    assert [left.name for left in path.parent.iterdir()] == [path.name]
    assert not ArchiveFile(path).open()  # there already
