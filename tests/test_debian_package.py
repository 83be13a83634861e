"""The Debian package in a booted container: installed, upgraded, removed and purged with dpkg.

Owns the life of an installation. The tests share a container and each brings the package into the state that it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker import __version__
from tests.support import container
from tests.support.container import REPOSITORY, Container

if TYPE_CHECKING:
    from collections.abc import Iterator

WHY_NOT = container.missing() or next(
    (f"not installed: {tool}" for tool in ("dpkg-deb", "/usr/bin/python3") if shutil.which(tool) is None), None
)
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

# All that a package may leave anywhere, but for what dpkg, systemd and the linker keep for themselves.
KEPT_BY_OTHERS = ("/var/lib/dpkg", "/var/lib/systemd", "/var/log", "/var/cache", "/var/tmp")
LIST_FILES = f"find /etc /opt /usr /var -xdev {' '.join(f'-path {path} -prune -o' for path in KEPT_BY_OTHERS)} -print"
ACCOUNTS = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-"}  # copies that systemd-sysusers makes


class Machine:
    """A container, and the package in it."""

    def __init__(self, package: Path, inside: Container) -> None:
        self.package = package
        self.inside = inside
        self.before = self.files()

    def run(self, script: str) -> str:
        return self.inside.run("sh", "-c", script)

    def files(self) -> set[str]:
        return set(self.run(LIST_FILES).splitlines())

    @property
    def has_package(self) -> bool:
        return self.run("dpkg-query --show --showformat='${db:Status-Status}' stoker 2>/dev/null || :") == "installed"

    def install(self) -> str:
        """Install the package, or upgrade to it. Debian's images leave documents out; here they are wanted."""
        return self.run(f"dpkg --path-include='/usr/share/*' --install {self.package} 2>&1")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("package")
    command = [sys.executable, str(REPOSITORY / "deb" / "build.py"), "--fast", "--to", str(folder)]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with Container([folder]) as inside:
        inside.run("rm", "-f", "/usr/sbin/policy-rc.d")  # with which images for builds keep services from being started
        yield Machine(Path(built.stdout.strip()), inside)


@pytest.fixture
def installed(machine: Machine) -> Machine:
    if not machine.has_package:
        machine.inside.write("/etc/stoker/stoker.toml", "[daemon]\ndrain_timeout_ms = 200\n")
        machine.install()
    return machine


def test_package_when_installed_then_its_daemon_and_all_that_helps_are_there(installed: Machine) -> None:
    assert installed.run("stoker --version") == f"stoker {__version__}"
    assert installed.run("systemctl is-active stoker.socket stoker.service") == "active\nactive"
    assert installed.run("systemctl is-enabled stoker.socket stoker.service") == "enabled\nenabled"
    assert installed.run("stoker run --working-dir / -- id -un") == "stoker"
    assert "/etc/stoker/run-as.toml" in installed.run("/opt/stoker/bin/stoker-spawner 2>&1 || :")  # its policy, missing
    for file in (
        "/usr/share/man/man1/stoker.1.gz",
        "/usr/share/man/man8/stokerd.8.gz",
        "/usr/share/bash-completion/completions/stoker",
        "/usr/share/zsh/vendor-completions/_stoker",
        "/usr/share/fish/vendor_completions.d/stoker.fish",
        "/usr/share/doc/stoker/examples/stoker.toml",
        "/usr/lib/systemd/system/stoker-web.service",
        "/usr/lib/systemd/user/stoker.service",
    ):
        assert installed.run(f"test -s {file} && dpkg-query --search {file}") == f"stoker: {file}"
    # What Python compiled at run time would be no file of the package, and stay behind.
    own = set(installed.run("dpkg-query --listfiles stoker").splitlines())
    assert set(installed.run("find /opt/stoker").splitlines()) <= own
    assert installed.run("dpkg --verify stoker") == ""


def test_package_when_upgraded_then_the_daemon_and_its_jobs_go_on(installed: Machine) -> None:
    job = installed.run("stoker submit --working-dir / -- sleep 1000")
    installed.run(f"until stoker show {job} --json | grep -q '\"running\"'; do sleep 0.1; done")
    daemon = installed.run("systemctl show --property MainPID --value stoker.service")
    installed.run("systemctl disable stoker.socket 2>&1")

    said = installed.install()

    assert "systemctl restart stoker" in said
    assert installed.run("systemctl show --property MainPID --value stoker.service") == daemon
    assert '"running"' in installed.run(f"stoker show {job} --json")
    assert installed.run("systemctl is-enabled stoker.socket || :") == "disabled"
    installed.run(f"stoker cancel {job}")


def test_package_when_removed_and_purged_then_the_state_goes_only_with_the_purge(installed: Machine) -> None:
    job = installed.run("stoker submit --survive --working-dir / -- sleep 1000")
    installed.run(f"until stoker show {job} --json | grep -q '\"running\"'; do sleep 0.1; done")

    installed.run("dpkg --remove stoker 2>&1")

    assert installed.run("pgrep --uid stoker || :") == ""
    assert installed.run("test -s /var/lib/stoker/stoker.db && echo kept") == "kept"

    installed.run("dpkg --purge stoker 2>&1")

    assert installed.files() - installed.before - ACCOUNTS == set()


def test_build_when_the_system_has_no_python_then_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "git").symlink_to("/bin/true")

    built = subprocess.run(
        [sys.executable, str(REPOSITORY / "deb" / "build.py")],
        env={**os.environ, "PATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )

    assert built.returncode == 1
    assert "not installed: dpkg-deb" in built.stderr
