"""`stoker restore`, `audit` and `doctor` that are typed wrongly, or cannot work: refused, and nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess

untouched = pytest.mark.usefixtures("untouched")

COMMANDS = {
    "no backup named": (["restore"], 64, "name one of --from-backup and --from-journal"),
    "an empty name": (["restore", "--from-backup", ""], 64, "an empty path"),
    "a word too many": (["restore", "latest"], 64, "unexpected argument 'latest'"),
    "under a daemon": (["restore", "--from-backup", "latest", "--state-dir", "{state}"], 75, "runs on {state}"),
    "under a daemon, confirmed": (
        ["restore", "--from-backup", "latest", "--yes", "--state-dir", "{state}"],
        75,
        "holds {state}",
    ),
    "no state": (["restore", "--from-backup", "latest", "--state-dir", "{home}/nowhere"], 65, "there is no backup in"),
    "a file for a directory": (
        ["restore", "--from-backup", "latest", "--yes", "--state-dir", "{home}/stoker.toml"],
        73,
        "exists and is not a directory",
    ),
    "an audit of nothing": (["audit", "verify", "--state-dir", "{home}/nowhere"], 78, "No such file or directory"),
    "an audit of no backup": (["audit", "verify", "--from-backup", "{home}/nowhere"], 65, "is not a file"),
    "an audit of text": (["audit", "verify", "--from-backup", "{home}/stoker.toml"], 65, "cannot be read"),
    "a doctor for nothing": (["doctor", "--state-dir", "{home}/nowhere"], 78, "is not a directory"),
    "a doctor for a file": (["doctor", "--state-dir", "{home}/stoker.toml"], 78, "is not a directory"),
    "a repair without --repair": (["doctor", "--yes"], 64, "--yes needs --repair"),
    "a repair and a probe": (["doctor", "--repair", "--probe"], 64, "--probe cannot be used with --repair"),
    "a time without --probe": (["doctor", "--timeout", "1m"], 64, "--timeout needs --probe"),
    "a repair under a daemon": (["doctor", "--repair", "--yes", "--state-dir", "{state}"], 75, "holds {state}"),
    "a doctor with a patient": (["doctor", "1"], 64, "unexpected argument '1'"),
    "no verb": (["audit"], 64, "no command 'audit'"),
}


@untouched
@pytest.mark.parametrize(("words", "status", "message"), COMMANDS.values(), ids=COMMANDS)
def test_command_when_it_cannot_be_done_then_it_is_refused_and_changes_nothing(
    shared: DaemonProcess, words: list[str], status: int, message: str
) -> None:
    places = {"home": shared.home, "state": shared.state_dir}

    result = shared.cli(*(word.format(**places) for word in words))

    assert (result.returncode, message.format(**places) in result.stderr) == (status, True), result.stderr
    assert "hint: " in result.stderr
    assert not list(shared.home.glob("nowhere"))
    assert not list(shared.state_dir.glob("before-restore-*"))
