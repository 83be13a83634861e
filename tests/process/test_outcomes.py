"""Outcome logs as recovery reads them: whole lines count, a torn last line was never promised."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from stoker.core.errors import CorruptRecord
from stoker.process.messages import Exited
from stoker.process.outcomes import read_outcomes, remove_outcomes
from stoker.process.run_roots import RunRoots

if TYPE_CHECKING:
    from pathlib import Path


def exited(run_id: str, code: int = 0) -> Exited:
    return Exited(run_id=run_id, at_boot_ms=5, at_ms=7, exit_code=code)


def line(outcome: Exited) -> bytes:
    return msgspec.json.encode(outcome) + b"\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "outcomes").mkdir()
    return tmp_path / "outcomes" / "3-cafe0000.log"


def test_outcomes_when_nothing_was_written_then_the_list_is_empty(tmp_path: Path) -> None:
    assert read_outcomes(RunRoots(tmp_path)) == []


def test_outcomes_when_lines_are_whole_then_each_is_read_in_order(tmp_path: Path, log: Path) -> None:
    log.write_bytes(line(exited("1.1.aa")) + line(exited("2.1.bb", 3)))

    assert read_outcomes(RunRoots(tmp_path)) == [(log, [exited("1.1.aa"), exited("2.1.bb", 3)])]


def test_outcomes_when_a_run_was_written_twice_then_it_is_reported_once(tmp_path: Path, log: Path) -> None:
    log.write_bytes(line(exited("1.1.aa")) * 2)

    assert read_outcomes(RunRoots(tmp_path)) == [(log, [exited("1.1.aa")])]


@pytest.mark.parametrize("kept", range(1, len(line(exited("2.1.bb"))), 7))
def test_outcomes_when_the_last_line_is_torn_then_only_it_is_passed_over(tmp_path: Path, log: Path, kept: int) -> None:
    log.write_bytes(line(exited("1.1.aa")) + line(exited("2.1.bb"))[:-1][:kept])

    assert read_outcomes(RunRoots(tmp_path)) == [(log, [exited("1.1.aa")])]


@pytest.mark.parametrize(
    "damage",
    [b"nonsense\n", b"\0" * 20 + b"\n", b'{"op":"exit"}\n', b'{"op":"started","run_id":"1.1.aa"}\n', b"\xff\xfe\n"],
)
def test_outcomes_when_a_whole_line_is_damaged_then_it_is_refused_by_name(
    tmp_path: Path, log: Path, damage: bytes
) -> None:
    log.write_bytes(line(exited("1.1.aa")) + damage + line(exited("2.1.bb")))

    with pytest.raises(CorruptRecord, match=r"3-cafe0000\.log"):
        read_outcomes(RunRoots(tmp_path))


def test_outcomes_when_a_fifo_has_the_name_of_a_log_then_no_one_waits_for_it(tmp_path: Path, log: Path) -> None:
    os.mkfifo(log)

    with pytest.raises(CorruptRecord, match="not a regular file"):
        read_outcomes(RunRoots(tmp_path))


def test_outcomes_when_they_are_removed_then_only_those_named_go(tmp_path: Path, log: Path) -> None:
    other = log.with_name("4-beef0000.log")
    for path in (log, other):
        path.write_bytes(line(exited("1.1.aa")))

    remove_outcomes([log])
    remove_outcomes([log])

    assert [path for path, _ in read_outcomes(RunRoots(tmp_path))] == [other]
