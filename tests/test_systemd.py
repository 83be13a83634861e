"""The units that ship with Stoker: systemd accepts them, and they agree with the daemon's own settings.

Owns the checks that need no booted systemd. Verification runs on a copy in which the path of the program is one that
exists here: `systemd-analyze verify` looks for it.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.config import Config
from stoker.config.run_as_section import RunAsSettings
from stoker.core.errors import EX_CONFIG, EX_USAGE

UNITS = Path(__file__).parents[1] / "systemd"
INSTALLED = "/opt/stoker/bin"
PROGRAMS = Path(sys.executable).parent

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def verify(folder: Path, unit: str) -> subprocess.CompletedProcess[str]:
    """Verify `unit` among copies of all units, with a program that exists."""
    for source in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        (folder / source.name).write_text(source.read_text().replace(INSTALLED, str(PROGRAMS)))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(folder / unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def verify_for_user(folder: Path, unit: str) -> subprocess.CompletedProcess[str]:
    """The same for the units of a user, of whom `systemd-analyze` needs a home and a runtime directory."""
    for source in (*(UNITS / "user").glob("*.service"), *(UNITS / "user").glob("*.socket")):
        (folder / source.name).write_text(source.read_text().replace("%h/.local/bin", str(PROGRAMS)))
    command = ["systemd-analyze", "--user", "verify", "--man=no", "--recursive-errors=no", str(folder / unit)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def seconds(name: str) -> int:
    return int(service()["Service"][name])


def service(path: str = "stoker.service") -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(UNITS / path)
    return parser


def add_drop_in(folder: Path, name: str) -> None:
    """Lay a drop-in of `stoker.service` beside the units that `verify` copies."""
    (folder / "stoker.service.d").mkdir(exist_ok=True)
    (folder / "stoker.service.d" / name).write_text((UNITS / name).read_text())


@needs_systemd
@pytest.mark.parametrize("unit", ["stoker.service", "stoker.socket", "stoker-web.service", "stoker-launcher.service"])
def test_unit_when_verified_then_systemd_has_nothing_to_say(unit: str, tmp_path: Path) -> None:
    result = verify(tmp_path, unit)

    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", ["stoker.service", "stoker.socket"])
def test_user_unit_when_verified_then_systemd_has_nothing_to_say(unit: str, tmp_path: Path) -> None:
    result = verify_for_user(tmp_path, unit)

    assert (result.returncode, result.stderr) == (0, "")


def test_user_unit_when_compared_then_the_daemon_is_kept_alive_as_by_the_system() -> None:
    of_system, of_user = service()["Service"], service("user/stoker.service")["Service"]

    differing = {name for name in of_user if of_user[name] != of_system.get(name)}

    assert differing == {"execstart", "runtimedirectorymode"}


@needs_systemd
@pytest.mark.parametrize("drop_in", ["subgroup.conf", "split.conf"])
def test_drop_in_when_verified_then_nothing_but_the_age_of_systemd_is_in_its_way(drop_in: str, tmp_path: Path) -> None:
    add_drop_in(tmp_path, drop_in)

    result = verify(tmp_path, "stoker.service")

    complaints = [line for line in result.stderr.splitlines() if "'DelegateSubgroup'" not in line]
    assert complaints == []


@needs_systemd
@pytest.mark.parametrize(("drop_ins", "most"), [((), 70), (("split.conf",), 15)])
def test_service_when_its_exposure_is_rated_then_it_is_no_more_than_promised(
    drop_ins: tuple[str, ...], most: int, tmp_path: Path
) -> None:
    for name in drop_ins:
        add_drop_in(tmp_path, name)
    verify(tmp_path, "stoker.service")
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={most}", str(tmp_path / "stoker.service")]

    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_split_drop_in_when_read_then_it_opens_the_directory_of_users() -> None:
    launcher = service("stoker-launcher.service")["Service"]
    split = (UNITS / "split.conf").read_text().splitlines()  # no configparser: keys may be there several times

    assert f"ReadWritePaths=/var/lib/{launcher['StateDirectory']} /tmp /var/tmp" in split
    assert RunAsSettings().directory == f"/var/lib/{launcher['StateDirectory']}"
    assert launcher["Type"] == "exec"
    assert {"Wants=stoker-launcher.service", "After=stoker-launcher.service"} <= set(split)


@needs_systemd
def test_unit_when_a_key_is_misspelt_then_verification_names_it(tmp_path: Path) -> None:
    verify(tmp_path, "stoker.service")
    broken = tmp_path / "broken.service"
    broken.write_text((tmp_path / "stoker.service").read_text().replace("WatchdogSec", "WatchdogSeconds"))

    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(broken)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "WatchdogSeconds" in result.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to a user")
def test_sysusers_and_tmpfiles_when_applied_then_user_and_folder_are_there(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()

    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", UNITS / "sysusers.conf"], check=True, capture_output=True)
    subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", UNITS / "tmpfiles.conf"], check=True, capture_output=True
    )

    users = [line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines()]
    uid = next(int(user[2]) for user in users if user[0] == "stoker")
    assert (tmp_path / "run" / "stoker").stat().st_uid == uid


def test_service_when_the_daemon_dies_then_only_it_is_killed_and_it_comes_back() -> None:
    unit = service()["Service"]

    assert (unit["KillMode"], unit["Delegate"], unit["Restart"]) == ("process", "yes", "on-failure")
    assert unit["RestartPreventExitStatus"].split() == [str(EX_USAGE), str(EX_CONFIG)]


def test_service_when_stopped_then_a_drain_and_its_last_ladder_fit_in_its_time() -> None:
    config = Config()

    assert seconds("TimeoutStopSec") * 1000 > config.daemon.drain_timeout_ms + config.jobs.grace_ms


def test_service_when_started_then_the_longest_recovery_fits_in_its_time() -> None:
    assert seconds("TimeoutStartSec") * 1000 > Config().recovery.timeout_ms


def test_socket_when_listening_then_it_is_where_the_service_and_its_client_look() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(UNITS / "stoker.socket")

    assert parser["Socket"]["ListenStream"] == f"/run/{service()['Service']['RuntimeDirectory']}/stoker.sock"
    assert parser["Socket"]["SocketMode"] == "0600"
