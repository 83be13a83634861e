"""`--secret`: where a value is read from, and which sources are refused, each with what to type."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.cli.kit.secret_sources import LIMIT_BYTES

if TYPE_CHECKING:
    from tests.cli.conftest import Desk


def private(path: Path, content: bytes = b"CANARY\n") -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_submit_when_secrets_are_given_then_their_bytes_are_sent(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "variable")
    file = private(tmp_path / "token")

    status, _, stderr = desk.stoker(
        "submit", "--secret", f"TOKEN={file}", "--secret", "b_2=env:FROM_HERE", "--", "sh", "-c", "true"
    )

    assert (status, stderr) == (0, "")
    (job,) = desk.service.jobs.values()
    assert {name: value.data for name, value in dict(job.secrets).items()} == {"TOKEN": b"CANARY\n", "b_2": b"variable"}  # type: ignore[arg-type]


def test_submit_when_a_secret_comes_through_stdin_then_it_is_sent(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    stdin = os.dup(0)
    os.dup2(reader, 0)
    try:
        assert desk.stoker("submit", "--secret", "A=-", "--", "true")[0] == 0
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(reader)

    (job,) = desk.service.jobs.values()
    assert [value.data for value in dict(job.secrets).values()] == [b"piped"]  # type: ignore[arg-type]


def make_wrong(place: Path) -> dict[str, tuple[str, str]]:
    """Sources that are refused: the text of the option, and what the message must have."""
    private(place / "empty", b"")
    private(place / "large", bytes(10_000_000))
    private(place / "open").chmod(0o644)
    private(place / "closed").chmod(0)
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    return {
        "no source": ("TOKEN", "TOKEN has no source"),
        "no name": (f"={place}/open", "a secret without a name"),
        "empty": (f"A={place}/empty", "is empty"),
        "too large": (f"A={place}/large", "more than 64 KiB"),
        "open to all": (f"A={place}/open", f"chmod 600 {place}/open"),
        "a FIFO": (f"A={place}/fifo", "is not a file"),
        "a directory": (f"A={place}/folder", "is not a file"),
        "a device": ("A=/dev/zero", "is not a file"),
        "missing": (f"A={place}/missing", "No such file"),
        "an unset variable": ("A=env:STOKER_TEST_UNSET", "STOKER_TEST_UNSET is not set"),
    }


def test_submit_when_the_source_of_a_secret_is_wrong_then_it_is_refused(desk: Desk, tmp_path: Path) -> None:
    for kind, (option, expected) in make_wrong(tmp_path).items():
        status, stdout, stderr = desk.stoker("submit", "--secret", option, "--", "true")

        assert (status, stdout) == (64, ""), kind
        assert expected in stderr, kind
        assert "CANARY" not in stderr, kind
    assert desk.service.jobs == {}


def test_submit_when_a_name_is_given_twice_then_it_is_refused(desk: Desk, tmp_path: Path) -> None:
    file = private(tmp_path / "token")

    status, _, stderr = desk.stoker("submit", "--secret", f"A={file}", "--secret", f"A={file}", "--", "true")

    assert status == 64
    assert "a name is given twice" in stderr
    assert LIMIT_BYTES == 65_536
