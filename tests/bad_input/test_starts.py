"""Starts that must fail: settings with mistakes, and sockets and state directories that cannot be used.

Owns the exit statuses, and the report of all mistakes at once. tests/engine/test_restart.py has a second daemon.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.facts import DEADLINE_S
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

MISTAKES = """
[daemon]
max_runing = 4
drain_timeout_ms = -1
[cpu]
throttle_threshold = "high"
[nonsense]
x = 1
[queues.bulk]
class = "lowest"
[queues.bulk.defaults]
max_attempts = 0
"""
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")


def refused(daemon: DaemonProcess, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a start that must fail."""
    daemon.spawn(*arguments)
    return daemon.wait(), daemon.stderr.read_text()


def lock_of(daemon: DaemonProcess) -> Path:
    return daemon.home / f"{daemon.socket.name}.lock"


@ROOT
def test_start_when_another_user_owns_the_directory_of_users_then_it_is_refused(
    stopped_daemon: DaemonProcess,
) -> None:
    """That user could put other directories in place of those of all users."""
    users = stopped_daemon.home / "users"
    users.mkdir()
    os.chown(users, 70_001, -1)
    stopped_daemon.config.write_text(f'[run_as]\nuser = "submitter"\ndirectory = "{users}"\n')

    status, stderr = refused(stopped_daemon)

    assert status == 78
    assert f"[run_as] directory {users}: it belongs to uid 70001, and must belong to root: chown root {users}" in stderr


def test_settings_when_there_are_several_mistakes_then_all_are_reported(
    stopped_daemon: DaemonProcess,
) -> None:
    stopped_daemon.config.write_text(MISTAKES)
    stopped_daemon.environ["STOKER_RETRY_BASE_DELAY_MS"] = "soon"

    status, stderr = refused(stopped_daemon)

    assert status == 78
    for words in (
        "did you mean",
        "drain_timeout_ms",
        "throttle_threshold",
        "nonsense",
        "queues.bulk",
        "max_attempts",
        "STOKER_RETRY_BASE_DELAY_MS",
    ):
        assert words in stderr, words
    (logged,) = stopped_daemon.events("daemon_failed")
    assert [line for line in logged["errors"] if f"  {line}\n" not in stderr] == []
    assert not stopped_daemon.state_dir.exists()
    assert not stopped_daemon.socket.exists()


def test_options_when_one_is_unknown_then_the_status_is_that_of_wrong_usage(
    stopped_daemon: DaemonProcess,
) -> None:
    status, stderr = refused(stopped_daemon, "--bogus")

    assert status == 64
    assert "stokerd: unrecognized arguments: --bogus" in stderr
    assert not stopped_daemon.state_dir.exists()


def test_settings_when_the_file_is_no_toml_then_the_line_is_reported(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.write_text("[daemon]\nmax_running = \n")

    status, stderr = refused(stopped_daemon)

    assert status == 78
    assert "line 2" in stderr


def test_settings_when_the_file_that_was_named_is_missing_then_it_is_reported(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.unlink()

    status, stderr = refused(stopped_daemon)

    assert status == 78
    assert str(stopped_daemon.config) in stderr


def test_settings_when_wrong_then_the_hint_names_the_check_that_says_the_same(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.write_text(MISTAKES)
    _, stderr = refused(stopped_daemon)

    checked = stopped_daemon.cli(*stderr.splitlines()[-1].removeprefix("hint: stoker ").split())

    assert checked.returncode == 78
    problems = [line.removeprefix("stokerd: ") for line in stderr.splitlines() if not line.startswith(("hint: ", "{"))]
    assert len(problems) >= 7
    assert all(line in checked.stdout + checked.stderr for line in problems)


def test_socket_when_its_path_is_too_long_then_the_length_and_the_limit_are_reported(
    stopped_daemon: DaemonProcess,
) -> None:
    path = f"/tmp/{'x' * 120}/stoker.sock"

    status, stderr = refused(stopped_daemon, "--socket", path)

    assert status == 78
    assert str(len(path)) in stderr
    assert "107" in stderr
    asked = stopped_daemon.cli("--socket", path, "status")
    assert (asked.returncode, asked.stdout) == (78, "")
    assert "107" in asked.stderr
    assert "choose a shorter one" in asked.stderr


def test_socket_when_something_else_is_at_its_path_then_it_is_left_alone(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.socket.write_text("precious")

    status, stderr = refused(stopped_daemon)

    assert status == 73
    assert f"{stopped_daemon.socket} exists and is not a socket" in stderr
    assert stopped_daemon.socket.read_text() == "precious"
    assert not stopped_daemon.state_dir.exists()
    assert not lock_of(stopped_daemon).exists()


def test_socket_when_the_start_fails_behind_its_lock_then_no_lock_file_is_left(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.state_dir.mkdir(mode=0o700)
    (stopped_daemon.state_dir / "stoker.db").write_bytes(b"precious bytes of another program" * 100)

    assert refused(stopped_daemon)[0] == 78

    assert not lock_of(stopped_daemon).exists()


def test_socket_when_the_daemon_was_stopped_then_nothing_of_it_is_left(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.start()
    assert lock_of(stopped_daemon).exists()

    assert stopped_daemon.stop() == 0

    assert not stopped_daemon.socket.exists()
    assert not lock_of(stopped_daemon).exists()


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_state_directory_when_it_is_open_to_others_then_it_is_refused_untouched(
    stopped_daemon: DaemonProcess, mode: int
) -> None:
    stopped_daemon.state_dir.mkdir()
    stopped_daemon.state_dir.chmod(mode)

    status, stderr = refused(stopped_daemon)

    assert status == 78
    assert f"chmod 700 {stopped_daemon.state_dir}" in stderr
    assert list(stopped_daemon.state_dir.iterdir()) == []


@ROOT
def test_state_directory_when_it_belongs_to_another_user_then_it_is_refused(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.state_dir.mkdir(mode=0o700)
    os.chown(stopped_daemon.state_dir, pwd.getpwnam("nobody").pw_uid, -1)

    status, stderr = refused(stopped_daemon)

    assert status == 78
    assert "belongs to nobody, not to root" in stderr
    assert list(stopped_daemon.state_dir.iterdir()) == []


def test_state_directory_when_it_cannot_be_made_then_it_is_reported(stopped_daemon: DaemonProcess) -> None:
    place = "/proc/stoker/state"  # where not even root can make a directory

    status, stderr = refused(stopped_daemon, "--state-dir", place)

    assert status == 73
    assert place in stderr


def refused_unprivileged(daemon: DaemonProcess, *arguments: str) -> tuple[int, str]:
    """The same, for a daemon that is subject to file permissions: root gives up the capabilities that bypass them."""
    command = [str(daemon.programs / "stokerd"), "--socket", str(daemon.socket), *arguments]
    if os.geteuid() == 0:
        without = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", without, "--inh-caps", without, *command]
    ended = subprocess.run(command, env=daemon.environ, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    return ended.returncode, ended.stderr


def test_state_directory_when_it_cannot_be_written_then_it_is_refused(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.state_dir.mkdir(mode=0o500)

    status, stderr = refused_unprivileged(stopped_daemon, "--state-dir", str(stopped_daemon.state_dir))

    assert status == 78, stderr
    assert f"chmod 700 {stopped_daemon.state_dir}" in stderr
    assert list(stopped_daemon.state_dir.iterdir()) == []


def test_state_directory_when_it_cannot_even_be_looked_at_then_it_is_reported(stopped_daemon: DaemonProcess) -> None:
    shut = stopped_daemon.home / "shut"
    shut.mkdir(mode=0o000)

    status, stderr = refused_unprivileged(stopped_daemon, "--state-dir", str(shut / "state"))

    assert status == 73, stderr
    assert f"stokerd: state directory {shut}/state: Permission denied\nhint: name another" in stderr


def test_settings_when_their_directory_is_unreadable_then_the_start_is_refused(
    stopped_daemon: DaemonProcess,
) -> None:
    shut = stopped_daemon.home / ".config"
    shut.mkdir(mode=0o000)

    status, stderr = refused_unprivileged(stopped_daemon, "--state-dir", str(stopped_daemon.state_dir))

    assert status == 78, stderr
    assert f"stokerd: {shut}/stoker/stoker.toml: cannot be read: Permission denied" in stderr


def test_state_directory_when_it_is_a_file_then_it_is_refused(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.state_dir.write_text("precious")

    status, stderr = refused(stopped_daemon)

    assert status == 73
    assert f"state directory {stopped_daemon.state_dir} exists and is not a directory\nhint: name another" in stderr
    assert stopped_daemon.state_dir.read_text() == "precious"


def test_database_when_it_is_a_foreign_file_then_it_is_refused_and_kept(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.state_dir.mkdir(mode=0o700)
    database = stopped_daemon.state_dir / "stoker.db"
    database.write_bytes(b"precious bytes of another program" * 100)

    status, stderr = refused(stopped_daemon)

    assert status == 78
    assert str(database) in stderr
    assert database.read_bytes().startswith(b"precious")


def test_hint_when_a_path_has_a_space_then_a_shell_carries_it_out(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.state_dir = stopped_daemon.home / "the state"
    stopped_daemon.state_dir.mkdir(mode=0o700)
    (stopped_daemon.state_dir / "stoker.db").write_bytes(b"precious bytes of another program" * 100)

    _, stderr = refused(stopped_daemon)
    command = stderr.splitlines()[-1].removeprefix("hint: move it away: ")
    subprocess.run(["sh", "-c", command], check=True)

    assert (stopped_daemon.state_dir / "stoker.db.foreign").read_bytes().startswith(b"precious")


def test_start_when_everything_was_put_right_then_the_same_daemon_starts(stopped_daemon: DaemonProcess) -> None:
    stopped_daemon.config.write_text(MISTAKES)
    assert refused(stopped_daemon)[0] == 78
    stopped_daemon.config.write_text("[daemon]\nmax_running = 4\n")

    stopped_daemon.start()

    with stopped_daemon.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
