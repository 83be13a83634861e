"""The files between daemon and worker: one that is not a regular file neither blocks nor is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.core.job.model import Outcome, OutcomeKind
from stoker.core.outputs import MAX_BYTES
from stoker.process.shared_files import MOST, SharedFiles
from stoker.process.work_files import (
    NAMES_PER_LISTING,
    NAMES_PER_LOOKUP,
    NO_OUTPUT,
    OUTPUT,
    InputsFile,
    RunOutput,
    WorkFiles,
    inputs_text,
)
from tests.support.facts import DEADLINE_S, until
from tests.support.jobs import spec

RUN = "7.1.00000000000000ab"


@pytest.fixture
def work_files(tmp_path: Path) -> WorkFiles:
    files = WorkFiles(tmp_path)
    files.prepare(set())
    return files


def test_take_when_nothing_was_written_then_there_is_nothing(work_files: WorkFiles) -> None:
    assert work_files.take_output(RUN) is NO_OUTPUT


def test_take_when_it_is_too_large_then_the_limit_is_named(work_files: WorkFiles) -> None:
    Path(work_files.output(RUN)).write_bytes(b"a=" + b"x" * MAX_BYTES)

    assert f"the limit is {MAX_BYTES}" in str(work_files.take_output(RUN).error)


def test_take_when_the_output_is_not_a_regular_file_then_it_is_refused_at_once(
    work_files: WorkFiles, tmp_path: Path
) -> None:
    os.mkfifo(work_files.output("1.1.a"))
    Path(work_files.output("2.1.a")).symlink_to("/etc/passwd")
    Path(work_files.output("3.1.a")).mkdir()

    assert work_files.take_output("1.1.a").error == "STOKER_OUTPUT: not a regular file"
    assert work_files.take_output("2.1.a").error == "STOKER_OUTPUT: not a regular file"
    assert work_files.take_output("3.1.a").error == "STOKER_OUTPUT: not a regular file"
    work_files.remove(["1.1.a", "2.1.a", "3.1.a"])
    assert [path.name for path in (tmp_path / "work").glob("*.*")] == ["3.1.a.output"]


def test_take_when_the_text_cannot_be_read_then_the_error_says_where(work_files: WorkFiles) -> None:
    Path(work_files.output(RUN)).write_bytes(b"a=1\nnonsense\n")

    assert work_files.take_output(RUN) == RunOutput(error="STOKER_OUTPUT: line 2: not key=value: 'nonsense'")


def test_put_when_another_file_has_its_name_then_that_is_replaced_and_not_written_to(
    work_files: WorkFiles, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("safe")
    Path(work_files.checkpoint("1.1.a")).symlink_to(victim)
    os.mkfifo(work_files.checkpoint("2.1.a"))

    for run in ("1.1.a", "2.1.a"):
        work_files.put_checkpoint(run, b"data")

    assert [Path(work_files.checkpoint(run)).read_bytes() for run in ("1.1.a", "2.1.a")] == [b"data", b"data"]
    assert victim.read_text() == "safe"


def test_prepare_when_runs_are_over_then_their_files_go_and_the_others_stay(
    work_files: WorkFiles, tmp_path: Path
) -> None:
    work_files.put_checkpoint(RUN, b"data")
    work_files.put_checkpoint("8.1.b", b"data")
    Path(work_files.output(RUN)).write_text("a=1")

    work_files.prepare({RUN})

    assert sorted(path.name for path in (tmp_path / "work").glob("*.*")) == [f"{RUN}.checkpoint", f"{RUN}.output"]
    assert oct((tmp_path / "work").stat().st_mode & 0o777) == "0o700"
    assert oct(Path(work_files.checkpoint(RUN)).stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("count", [1, 50])
def test_remove_when_runs_are_over_then_their_files_go_and_others_stay(
    work_files: WorkFiles, tmp_path: Path, count: int
) -> None:
    over = [f"{number}.1.a" for number in range(count)]
    for run in (*over, RUN):
        for path in (work_files.output, work_files.checkpoint, work_files.inputs, work_files.events):
            Path(path(run)).write_text("a=1")

    work_files.remove(over)

    assert {path.name.rpartition(".")[0] for path in (tmp_path / "work").glob("*.*")} == {RUN}
    assert len(list((tmp_path / "work").glob("*.*"))) == 4


def test_names_when_there_are_many_then_few_lookups_do_not_read_them(
    work_files: WorkFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.process.work_files.UNCHANGED_S", DEADLINE_S)
    few, many = NAMES_PER_LISTING // NAMES_PER_LOOKUP + 1, 1_000
    assert work_files.names(few) == {"none"}
    for number in range(500):
        (tmp_path / "work" / f"{number}.1.a.events").touch()

    assert len(work_files.names(many) or ()) == 501
    assert work_files.names(few) is None
    assert len(work_files.names(many) or ()) == 501


def test_names_when_nothing_changes_for_long_then_they_are_known_until_it_does(
    work_files: WorkFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.process.work_files.UNCHANGED_S", 0.1)
    until(lambda: work_files.names(1) is not None and work_files.names(1) is work_files.names(1))
    known = work_files.names(1) or ()

    Path(work_files.output(RUN)).write_text("a=1")

    assert RUN + OUTPUT not in known
    assert RUN + OUTPUT in (work_files.names(100) or ())


def test_results_when_names_are_known_then_only_a_file_among_them_is_read(work_files: WorkFiles) -> None:
    outcome = Outcome(kind=OutcomeKind.EXIT, exit_code=0, ended_at=1)
    Path(work_files.output(RUN)).write_text("a=1")

    unread = work_files.with_results(RUN, spec(), outcome, there=())
    read = work_files.with_results(RUN, spec(), outcome, there=[f"{RUN}.output"])

    assert (unread.output, read.output) == (None, '{"a":"1"}')


PUTS = [(WorkFiles.put_events, WorkFiles.events), (WorkFiles.put_inputs, WorkFiles.inputs)]
Put = Callable[[WorkFiles, str, bytes], None]
PathOf = Callable[[WorkFiles, str], str]
each_put = pytest.mark.parametrize(("put", "path_of"), PUTS, ids=["events", "inputs"])


@each_put
def test_file_when_runs_get_the_same_then_they_share_one_that_is_read_only(
    work_files: WorkFiles, put: Put, path_of: PathOf
) -> None:
    runs = (RUN, "8.1.b", "9.1.c")
    for run, data in zip(runs, (b"a", b"a", b"b"), strict=True):
        put(work_files, run, data)

    files = [Path(path_of(work_files, run)).stat() for run in runs]
    assert files[0].st_ino == files[1].st_ino != files[2].st_ino
    assert {stat.S_IMODE(file.st_mode) for file in files} == {0o400}
    assert [Path(path_of(work_files, run)).read_bytes() for run in runs] == [b"a", b"a", b"b"]


@each_put
def test_file_when_the_other_run_has_ended_then_the_next_gets_the_same(
    work_files: WorkFiles, put: Put, path_of: PathOf
) -> None:
    put(work_files, RUN, b"a")
    inode = Path(path_of(work_files, RUN)).stat().st_ino
    work_files.remove([RUN])

    put(work_files, "8.1.b", b"a")

    assert Path(path_of(work_files, "8.1.b")).stat().st_ino == inode
    put(work_files, "8.1.b", b"c")  # a second try, over the file of the first
    assert Path(path_of(work_files, "8.1.b")).read_bytes() == b"c"


def test_file_when_a_worker_changed_its_own_then_no_other_run_gets_that(work_files: WorkFiles) -> None:
    work_files.put_inputs(RUN, b"a")
    changed = Path(work_files.inputs(RUN))
    changed.chmod(0o600)
    changed.write_bytes(b"changed")

    work_files.put_inputs("8.1.b", b"a")

    assert Path(work_files.inputs("8.1.b")).read_bytes() == b"a"


def test_file_when_many_contents_were_kept_then_the_oldest_make_room(work_files: WorkFiles, tmp_path: Path) -> None:
    runs = [f"{number}.1.a" for number in range(MOST + 5)]
    for number, run in enumerate(runs):
        work_files.put_inputs(run, b"%d" % number)
    work_files.remove(runs)

    assert len(list((tmp_path / "work").glob("same*"))) == MOST
    work_files.put_inputs(RUN, b"0")
    assert Path(work_files.inputs(RUN)).read_bytes() == b"0"


def test_file_when_no_link_can_be_made_then_each_run_gets_its_own(tmp_path: Path) -> None:
    files = SharedFiles(str(tmp_path / "missing" / "same"))

    for name in ("one", "other"):
        files.put(str(tmp_path / name), b"a")

    assert [(tmp_path / name).read_bytes() for name in ("one", "other")] == [b"a", b"a"]


def test_inputs_when_they_are_written_at_once_then_they_are_as_need_by_need(tmp_path: Path) -> None:
    ends: list[tuple[str, dict[str, Any]]] = [("a", {"state": "succeeded"}), ("b", {"state": "failed"})]
    file = InputsFile(str(tmp_path / "inputs"))
    file.add(ends)
    file.close()

    assert inputs_text(ends) == (tmp_path / "inputs").read_bytes()
