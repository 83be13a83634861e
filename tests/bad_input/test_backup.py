"""Backups to places where none can be: a clear error, nothing is written, and the daemon goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StokerError

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

untouched = pytest.mark.usefixtures("untouched")

COMMANDS = {
    "a directory": (["--to", "{home}"], 73, "is a directory"),
    "a file that exists": (["--to", "{home}/stoker.toml"], 73, "exists already"),
    "inside the state": (["--to", "{home}/state/mine.db"], 73, "is in the state directory"),
    "the database itself": (["--to", "{home}/state/stoker.db"], 73, "exists already"),
    "no directory": (["--to", "{home}/nowhere/mine.db"], 73, "No such file or directory"),
    "below a file": (["--to", "{home}/stoker.toml/mine.db"], 73, "Not a directory"),
    "not writable": (["--to", "/sys/mine.db"], 75, "only 0B are free"),
    "an empty path": (["--to", ""], 64, "empty path"),
    "standard output": (["--to", "-"], 64, "not standard output"),
    "a device": (["--to", "/dev/null"], 73, "exists already"),
    "a word too many": (["mine.db"], 64, "no command 'backup mine.db'"),
}


@untouched
@pytest.mark.parametrize(("words", "status", "message"), COMMANDS.values(), ids=COMMANDS)
def test_backup_when_its_destination_is_wrong_then_it_is_refused_and_writes_nothing(
    shared: DaemonProcess, words: list[str], status: int, message: str
) -> None:
    before = sorted(path.name for path in shared.home.iterdir())

    result = shared.cli("backup", *(word.format(home=shared.home) for word in words))

    assert (result.returncode, message in result.stderr) == (status, True), result.stderr
    assert "hint: " in result.stderr
    assert sorted(path.name for path in shared.home.iterdir()) == before
    assert not list((shared.state_dir / "backups").glob("*"))


@untouched
@pytest.mark.parametrize("to", ["mine.db", "", 7, "/tmp/\0", "/" + "x" * 5_000], ids=repr)
def test_method_when_the_path_is_wrong_then_it_is_refused(bystander: stoker.Client, to: object) -> None:
    with pytest.raises(StokerError) as refused:
        list(bystander.stream("system.backup", {"to": to}))

    assert refused.value.code in ("invalid_params", "parse_error", "cannot_create")


@pytest.mark.parametrize(
    ("line", "message"),
    {
        'every = "6"': 'a time such as "6h", or "never"',
        'every = "forever"': 'a time such as "6h", or "never"',
        "keep = 0": "expected a whole number from 1",
        "keep_bytes = -1": "expected a whole number from 0",
    }.items(),
)
def test_settings_when_backups_are_wrong_then_the_check_names_the_key(
    shared: DaemonProcess, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "s.toml").write_text(f"[backup]\n{line}\n")

    checked = shared.cli("config", "check", str(tmp_path / "s.toml"))

    assert (checked.returncode, message in checked.stderr + checked.stdout) == (78, True), checked.stderr
