"""Log directories of purged jobs: removed whole, whatever a worker has put there, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stoker.process.log_directories import remove_bucket, remove_logs

if TYPE_CHECKING:
    from pathlib import Path

DEEPER_THAN_PYTHON = 1_100  # calls of its own


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The logs of jobs 5, 6 and 2001."""
    for job in (5, 6, 2001):
        directory = tmp_path / "logs" / str(job // 1000) / str(job)
        directory.mkdir(parents=True)
        (directory / "1.log").write_text("hello\n")
    return tmp_path / "logs"


def test_logs_when_jobs_are_purged_then_only_their_directories_go(logs: Path) -> None:
    removed = remove_logs(logs, [2001, 5])

    assert (sorted(removed.ids), removed.error) == ([5, 2001], None)
    assert [path.name for path in logs.rglob("*.log")] == ["1.log"]
    assert (logs / "0" / "6" / "1.log").exists()


def test_logs_when_a_job_wrote_nothing_then_it_counts_as_removed(logs: Path) -> None:
    assert sorted(remove_logs(logs, [7, 9_999_999]).ids) == [7, 9_999_999]


def test_logs_when_a_worker_left_a_link_in_their_place_then_its_target_stays(logs: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (logs / "0" / "7").symlink_to(precious)
    (logs / "0" / "5" / "deep").symlink_to(precious)
    (logs / "3").symlink_to(precious)

    removed = remove_logs(logs, [5, 7, 3_001])

    assert sorted(removed.ids) == [5, 7]
    assert removed.error is not None
    assert (precious / "file").read_text() == "mine"
    assert not (logs / "0" / "7").is_symlink()


def test_logs_when_a_worker_left_a_file_in_their_place_then_it_goes(logs: Path) -> None:
    (logs / "0" / "8").write_text("a file")

    assert remove_logs(logs, [8]).ids == [8]
    assert not (logs / "0" / "8").exists()


def test_logs_when_a_worker_nested_directories_without_end_then_they_go(logs: Path) -> None:
    here = os.open(logs / "0" / "5", os.O_RDONLY)
    for _ in range(DEEPER_THAN_PYTHON):
        os.mkdir("a", dir_fd=here)
        os.close(os.open("file", os.O_CREAT, dir_fd=here))
        above, here = here, os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)

    removed = remove_logs(logs, [5, 6])

    assert (removed.ids, removed.error) == ([5, 6], None)
    assert not list((logs / "0").iterdir())


def test_bucket_when_all_its_jobs_are_gone_then_late_logs_go_with_it(logs: Path) -> None:
    for bucket in (2, 3):
        remove_bucket(logs, bucket)

    assert [path.name for path in logs.iterdir()] == ["0"]


def test_bucket_when_it_holds_something_else_then_it_stays(logs: Path) -> None:
    (logs / "2" / "notes").write_text("mine")

    remove_bucket(logs, 2)

    assert [path.name for path in (logs / "2").iterdir()] == ["notes"]
