"""SIGKILL at the syscalls that append to the journal, rotate it, and begin it: the next life adds what is missing.

A small program commits rows and writes the journal as a daemon does. After each kill it runs again to its end; then the
journal must give every row of the database.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stoker.ops.rebuild import Until, from_journal
from stoker.store import journal_feed
from stoker.store.journal_files import files
from tests.support import strace
from tests.support.journal_life import FORGET_AFTER, live, make_database
from tests.support.strace import OPTIONS, Point, points, some_of_each

MISSING = strace.why_not()
CHANGING = ["fdatasync", "fsync", "ftruncate", "mkdir", "openat", "rename", "unlink", "write", "pwrite64"]
MOST_OF_A_KIND = int(os.environ.get("STOKER_FAULTS", "100")) // 20  # of the syscalls of one kind, evenly chosen
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=str(MISSING)), pytest.mark.timeout(900)]


def live_traced(root: Path, trace: Path, kill: Point | None = None) -> int:
    """Run that program as a process of its own; gives its exit status, negative if it was killed."""
    program = [sys.executable, "-m", "tests.support.journal_life", str(root)]
    chosen = f"trace={','.join(CHANGING)}" if kill is None else f"trace={kill.syscall}"
    faults = [] if kill is None else ["-e", kill.kill()]
    command = ["strace", "--seccomp-bpf", *OPTIONS, "-o", str(trace), "-e", chosen, *faults, *program]
    return subprocess.run(command, check=False, capture_output=True, cwd=ROOT).returncode


def chosen_points(trace: Path) -> list[Point]:
    """From the first touch of the journal on."""
    return some_of_each(points(trace, "/journal", CHANGING), CHANGING, MOST_OF_A_KIND)


def meta(database: Path) -> set[tuple[str, object]]:
    with closing(sqlite3.connect(database)) as connection:
        return set(connection.execute("SELECT key, value FROM meta"))


@pytest.mark.long
def test_journal_when_it_is_killed_anywhere_then_the_next_life_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_feed, "FORGET_AFTER", FORGET_AFTER)
    make_database(tmp_path / "made")
    shutil.copytree(tmp_path / "made", tmp_path / "first")
    assert live_traced(tmp_path / "first", tmp_path / "trace") == 0
    assert len(files(tmp_path / "first" / "journal")) > 2, "it was rotated"
    every = chosen_points(tmp_path / "trace")
    killed = 0

    for number, point in enumerate(every):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "made", root)
        killed += live_traced(root, tmp_path / f"trace.{number}", point) < 0
        live(root)
        rebuilt = tmp_path / f"{number}.db"

        from_journal(root / "journal", rebuilt, Until())

        assert meta(rebuilt) == meta(root / "stoker.db"), point

    assert killed > len(every) // 2
