"""What workers hand on: read as lines or JSON, and refused by name when it is neither, too large, or no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stoker.process.exchange import MAX_OUTPUT_BYTES, NO_OUTPUT, Exchange, read_output

RUN = "7.1.00000000000000ab"


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    made = Exchange(tmp_path)
    made.prepare(set())
    return made


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (b"path=/tmp/x\nname = a=b\n\n", '{"name":" a=b","path":"/tmp/x"}'),
        (b'{"path": "/tmp/x", "count": 3, "list": [1, 2]}', '{"count":"3","list":"[1, 2]","path":"/tmp/x"}'),
        (b"key=\n", '{"key":""}'),
        (b" \n", None),
    ],
)
def test_output_when_it_is_lines_or_json_then_it_is_an_object_of_strings(written: bytes, text: str | None) -> None:
    assert (read_output(written).text, read_output(written).error) == (text, None)


@pytest.mark.parametrize(
    ("written", "error"),
    [
        (b"a=1\nnonsense\n", "line 2 is not key=value: 'nonsense'"),
        (b"=1\n", "line 1 is not key=value"),
        (b'{"a": ', "not a JSON object"),
        (b"\xff=1", "not UTF-8"),
        (b'{"a": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested too deeply"),
        (b'{"a": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, "nested too deeply"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_output_when_it_is_neither_then_the_error_says_where(written: bytes, error: str) -> None:
    output = read_output(written)

    assert output.text is None
    assert error in str(output.error)


def test_take_when_nothing_was_written_then_there_is_nothing(exchange: Exchange) -> None:
    assert exchange.take(RUN) is NO_OUTPUT


def test_take_when_it_is_too_large_then_the_limit_is_named(exchange: Exchange) -> None:
    Path(exchange.output(RUN)).write_bytes(b"a=" + b"x" * MAX_OUTPUT_BYTES)

    assert f"the limit is {MAX_OUTPUT_BYTES}" in str(exchange.take(RUN).error)


def test_take_when_a_worker_made_something_else_of_it_then_nothing_blocks_and_nothing_is_followed(
    exchange: Exchange, tmp_path: Path
) -> None:
    os.mkfifo(exchange.output("1.1.a"))
    Path(exchange.output("2.1.a")).symlink_to("/etc/passwd")
    Path(exchange.output("3.1.a")).mkdir()

    assert exchange.take("1.1.a").error == "STOKER_OUTPUT: not a regular file"
    assert exchange.take("2.1.a").error == "STOKER_OUTPUT: Too many levels of symbolic links"
    assert exchange.take("3.1.a").error == "STOKER_OUTPUT: not a regular file"
    exchange.remove(["1.1.a", "2.1.a", "3.1.a"])
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["3.1.a.output"]


def test_prepare_when_runs_are_over_then_their_files_go_and_the_others_stay(exchange: Exchange, tmp_path: Path) -> None:
    exchange.put_checkpoint(RUN, b"data")
    exchange.put_checkpoint("8.1.b", b"data")
    Path(exchange.output(RUN)).write_text("a=1")

    exchange.prepare({RUN})

    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [f"{RUN}.checkpoint", f"{RUN}.output"]
    assert oct((tmp_path / "work").stat().st_mode & 0o777) == "0o700"
    assert oct(Path(exchange.checkpoint(RUN)).stat().st_mode & 0o777) == "0o600"
