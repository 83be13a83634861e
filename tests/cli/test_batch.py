"""`stoker submit --batch`: lines become jobs, bad ones are numbered, and memory is bounded.

With --atomic one bad line refuses all.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    from tests.cli.conftest import Desk

HUGE_LINE_BYTES = 300_000_000


def batch_file(folder: Path, *lines: Any) -> str:
    file = folder / "jobs.ndjson"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(file)


def test_batch_when_it_has_no_line_then_a_remark_is_printed(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("\n\n")

    assert desk.stoker("submit", "--batch", str(tmp_path / "jobs")) == (
        0,
        "",
        "stoker: the batch is empty: no job was stored\n",
    )


def test_batch_when_all_lines_are_good_then_each_id_is_printed_in_order(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *({"command": "sh", "args": [str(n)]} for n in range(2_500)))

    ended = desk.stoker("submit", "--batch", file, "--queue", "bulk")

    assert ended == (0, "".join(f"{n}\n" for n in range(1, 2_501)), "")
    assert [job.args for job in desk.service.jobs.values()] == [(str(n),) for n in range(2_500)]
    assert {job.queue for job in desk.service.jobs.values()} == {"bulk"}
    assert {str(job.command)[-3:] for job in desk.service.jobs.values()} == {"/sh"}


def test_batch_when_lines_are_bad_then_each_is_numbered_and_the_others_are_stored(desk: Desk, tmp_path: Path) -> None:
    good = {"command": "true"}
    file = batch_file(tmp_path, good, "nope", "", "[1]", {"command": 1}, '{"command":"\\ud800"}', good)

    ended = desk.stoker("submit", "--batch", file)

    assert (ended.status, ended.out) == (65, "1\n2\n")
    errors = [line for line in ended.err.splitlines() if not line.startswith("hint: ")]
    assert [line.split(": ")[1] for line in errors] == ["line 2", "line 4", "line 6", "line 5"]
    assert "line 5: command: expected" in ended.err


def test_batch_when_many_lines_are_bad_then_a_few_and_their_number_are_shown(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *["[1]"] * 600, {"command": "true"})

    prose = desk.stoker("submit", "--batch", file)
    as_json = desk.stoker("submit", "--batch", file, "--json")

    lines = prose.err.splitlines()
    assert (prose.status, prose.out, len(lines)) == (65, "1\n", 12)
    assert [line for line in lines if line.startswith("hint: ")] == [lines[1]]
    assert lines[-1] == "stoker: 590 more lines refused, 600 in all; --json shows every error"
    assert as_json.err.count('"error"') == 600


def test_batch_when_atomic_and_one_line_is_bad_then_nothing_is_stored(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, {"command": "true"}, "nope")

    ended = desk.stoker("submit", "--atomic", "--batch", file)

    assert (ended.status, ended.out) == (65, "")
    assert "nothing was stored" in ended.err
    assert desk.service.jobs == {}


def test_submit_when_the_command_does_not_fit_a_frame_then_the_hint_is_about_one_job(desk: Desk) -> None:
    ended = desk.stoker("submit", "--", "echo", *(["x" * 1_000] * 1_500))

    assert ended.status == 65
    assert "the job takes 1.4M; at most 976.6K can be sent" in ended.err
    assert "into a script" in ended.err
    assert desk.service.jobs == {}


def test_batch_when_atomic_is_too_much_for_one_frame_then_it_is_refused(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *({"command": "true", "stdin": "x" * 60_000} for _ in range(20)))

    ended = desk.stoker("submit", "--atomic", "--batch", file)

    assert ended.status == 64
    assert "at once" in ended.err
    assert desk.service.jobs == {}


def test_batch_when_a_line_is_huge_then_it_is_refused_by_number_in_bounded_memory(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "jobs.ndjson"
    with file.open("wb") as lines:
        lines.write(b'{"command":"true"}\n')
        lines.seek(HUGE_LINE_BYTES, os.SEEK_CUR)  # a hole reads as NUL, and takes no disk
        lines.write(b'\n{"command":"true"}\n')
    submitting = desk.process("submit", "--batch", str(file))
    resource.prlimit(submitting.pid, resource.RLIMIT_AS, (HUGE_LINE_BYTES, HUGE_LINE_BYTES))
    out, err = submitting.communicate(timeout=DEADLINE_S)

    assert (submitting.returncode, out) == (65, b"1\n2\n"), err
    assert err.startswith(b"stoker: line 2: longer than 4.0M; a job takes at most 976.6K\n")


def test_batch_when_options_are_large_then_each_request_fits_a_frame(desk: Desk, tmp_path: Path) -> None:
    file = batch_file(tmp_path, *({"command": "true"} for _ in range(100)))
    text = tmp_path / "text"
    text.write_text("x" * 60_000)

    ended = desk.stoker("submit", "--stdin", str(text), "--batch", file)

    assert (ended.status, len(desk.service.jobs)) == (0, 100)
