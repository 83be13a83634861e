"""A purge whose time, queue or state is wrong: a clear error, and nothing is removed."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import StokerError
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

NOW_MS = int(time.time() * 1_000)
HOUR_MS = 3_600_000
untouched = pytest.mark.usefixtures("untouched")


@pytest.fixture(autouse=True)
def _ended_job(shared: DaemonProcess) -> None:
    """There is something to remove, whichever test came before."""
    with shared.client() as client:
        end_of(client, submit(client, shell("exit 0")))


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no time": ({}, "invalid_params", "before"),
    "the epoch": ({"before": 0}, "invalid_params", "before"),
    "before the epoch": ({"before": -NOW_MS}, "invalid_params", "before"),
    "an age instead of a time": ({"before": 30 * 24 * HOUR_MS}, "invalid_params", "before"),
    "the future": ({"before": NOW_MS + HOUR_MS}, "invalid_params", "before"),
    "text": ({"before": "30d"}, "invalid_params", "before"),
    "unknown queue": ({"before": NOW_MS, "queue": "nowhere"}, "queue_not_found", "queue"),
    "a live state": ({"before": NOW_MS, "states": ["running"]}, "invalid_params", "states[0]"),
    "an unknown state": ({"before": NOW_MS, "states": ["done"]}, "invalid_params", "states[0]"),
    "unknown field": ({"before": NOW_MS, "jobs": [1]}, "invalid_params", "jobs"),
}


@untouched
@pytest.mark.parametrize(("asked", "code", "path"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("mode", [{"dry_run": True}, {}], ids=["dry run", "for real"])
def test_purge_when_it_is_asked_wrongly_then_it_is_refused_and_nothing_goes(
    bystander: stoker.Client, asked: dict[str, Any], code: str, path: str, mode: dict[str, bool]
) -> None:
    with pytest.raises(StokerError) as refused:
        bystander.call("system.purge", {**asked, **mode})

    assert (refused.value.code, refused.value.details["path"]) == (code, path)


COMMANDS = {
    "no time": ([], 64, "missing --before"),
    "no unit": (["--before", "0"], 64, "'0' is neither an age nor a time"),
    "no age": (["--before", "0d"], 64, "0d is not in the past"),
    "a negative age": (["--before", "-1d"], 64, "'-1d' is neither an age nor a time"),
    "the future": (["--before", "2199-01-01"], 64, "2199-01-01 is not in the past"),
    "an unknown queue": (["--before", "1d", "--queue", "nowhere"], 65, "there is no queue 'nowhere'"),
    "a live state": (["--before", "1d", "--state", "running"], 64, "--state: 'running' is not one of"),
    "without --yes": (["--before", "1ms"], 64, "nothing was removed"),
}


@untouched
@pytest.mark.parametrize(("words", "status", "message"), COMMANDS.values(), ids=COMMANDS)
def test_command_when_it_is_typed_wrongly_then_it_is_refused_and_removes_nothing(
    shared: DaemonProcess, bystander: stoker.Client, words: list[str], status: int, message: str
) -> None:
    result = shared.cli("purge", *words)

    assert result.returncode == status
    assert message in result.stderr
    assert "hint: " in result.stderr
    assert bystander.list(limit=1)["jobs"]


def test_command_when_it_is_confirmed_then_it_prints_the_removed_numbers(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    end_of(bystander, submit(bystander, shell("echo hello")))
    shown = shared.cli("purge", "--before", "1ms", "--dry-run", "--json")

    done = shared.cli("purge", "--before", "1ms", "--yes", "--json")

    assert (shown.returncode, done.returncode) == (0, 0)
    assert json.loads(done.stdout)["jobs"] >= json.loads(shown.stdout)["jobs"] > 0
    assert "0 jobs, 0 workflows and " in shared.cli("purge", "--before", "1ms", "--yes").stdout


BAD_SETTINGS = {
    'keep = "30"': "expected a time such as",
    "keep = 30": "expected a time such as",
    'keep = "0d"': "expected a time such as",
    "keep_last = -1": "expected a whole number from 0",
    "every_ms = 0": "expected a whole number from 100",
    '[retention.queues.a]\nkept = "1d"': "unknown key; did you mean keep?",
    "queues = 3": "expected a table",
}


@pytest.mark.parametrize(("line", "message"), BAD_SETTINGS.items(), ids=range(len(BAD_SETTINGS)))
def test_settings_when_retention_is_wrong_then_the_check_names_the_key(
    shared: DaemonProcess, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "s.toml").write_text(f"[retention]\n{line}\n")

    checked = shared.cli("config", "check", str(tmp_path / "s.toml"))

    assert checked.returncode == 78
    assert message in checked.stderr + checked.stdout
