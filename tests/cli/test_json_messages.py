"""With `--json` every message on stderr is a JSON object, for every command and every failure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stoker.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Desk

# The arguments of commands that take some, for jobs and files that do not exist.
ARGUMENTS = {
    "submit": ["/no/such/program"],
    "edit": ["7", "--priority", "1"],
    "workflow submit": ["/no/such/flow.toml"],
    "workflow skip": ["7", "build"],
    "workflow rollback": ["7", "--to", "latest"],
    "workflow add-need": ["7", "link", "build"],
    "workflow remove-need": ["7", "link", "build"],
    "checkpoint diff": ["7", "8"],
    "queue set": ["bulk", "class=low"],
    "resource set": ["gpu", "2"],
    "purge": ["--before", "7d"],
    "restore": ["--from-backup", "latest"],
    "recover": ["--dry-run"],
    "config check": ["/no/such/stoker.toml"],
}
# They work on the state directory, which does not exist here, and take no socket.
WITHOUT_DAEMON = {"backup", "backup ls", "audit verify", "restore", "recover"}
ROWS = {name: main.load(target) for rows in main.COMMANDS.values() for name, (target, _) in rows.items()}
FINDS = {"workflow lint"}  # its mistakes are its answer, on stdout
WITH_JSON = [name for name, command in ROWS.items() if "--json" in {option.names[-1] for option in command.options}]


def failed(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capfd.readouterr()
    status = main.guarded(words)
    return status, capfd.readouterr().err


@pytest.mark.parametrize("name", sorted(set(WITH_JSON) - {"config", "config show", "config path"} - FINDS))
def test_command_when_it_fails_with_json_then_stderr_has_the_error_as_json(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_STATE_DIR", str(tmp_path / "none"))
    place = [] if name in WITHOUT_DAEMON else ["--socket", str(tmp_path / "none.sock")]
    words = ARGUMENTS.get(name, ["7"] if ROWS[name].least or ROWS[name].words == "[ID…]" else [])

    in_prose = failed(capfd, *name.split(), *place, *words)
    as_json = failed(capfd, *name.split(), *place, "--json", *words)

    assert in_prose[0] == as_json[0] != 0
    messages = [json.loads(line) for line in as_json[1].splitlines()]
    assert [message["error"]["message"] for message in messages if "error" in message]


@pytest.mark.parametrize("words", [["ls", "--nope", "--json"], ["nope", "--json"], ["why", "--json", "x"]])
def test_command_line_when_it_is_wrong_and_has_json_then_the_error_is_json(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    status, err = failed(capfd, *words)

    assert status == 64
    assert json.loads(err)["error"]["data"]["code"] == "usage"


@pytest.mark.parametrize("words", [["tool", "--json"], ["--", "tool", "--json"]])
def test_submit_when_json_is_an_option_of_the_job_then_messages_are_prose(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert failed(capfd, "submit", "--safe", "--on-orphan", "hold", *words)[1].startswith("stoker: --safe and ")


def test_batch_when_a_line_is_bad_then_its_json_has_line_and_field(desk: Desk, tmp_path: Path) -> None:
    lines = tmp_path / "jobs"
    lines.write_text('{"command": "true"}\n{"command": 5}\n')

    ended = desk.stoker("submit", "--batch", str(lines), "--json")

    data = json.loads(ended.err)["error"]["data"]
    assert (ended.status, json.loads(ended.out)["id"]) == (65, 1)
    assert (data["line"], data["path"], data["code"]) == (2, "command", "invalid_params")
