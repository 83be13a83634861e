"""Stoker as an administrator installs it: the project's own units in a container, with the program of this test run.

Owns one container, the installation in it, and the settings of one test. The daemon is started and stopped with
systemctl only. Invariant: `clean` leaves a stopped service, an empty state directory, no process and no drop-in, so
that tests can share a container.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stoker
from tests.support.container import REPOSITORY, Container
from tests.support.facts import DEADLINE_S, until

if TYPE_CHECKING:
    from typing import Self

UNITS = REPOSITORY / "systemd"
STOKERD = Path(sys.executable).with_name("stokerd")
SOCKET = "run/stoker/stoker.sock"
STATE = "/var/lib/stoker"
SETTINGS = "/etc/stoker/stoker.toml"
DROP_INS = "/run/systemd/system/stoker.service.d"


def open_programs(container: Container) -> None:
    """Let every user of the container execute this test run's programs, which may lie in a private home.

    The folders on the way are the container's own copies.
    """
    folders = {str(parent) for used in (REPOSITORY, STOKERD, Path(sys.base_prefix)) for parent in used.parents}
    container.run("sh", "-c", 'chmod -f o+x "$@"; :', "open", *folders)


class Service:
    """`stoker.service` in its container. `shared` is a directory with the same name inside and outside."""

    def __init__(self) -> None:
        self.shared = Path(tempfile.mkdtemp(prefix="stoker-shared-"))
        self.shared.chmod(0o777)
        self.container = Container([self.shared])

    def __enter__(self) -> Self:
        try:
            self.container.__enter__()
            self._install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.container.end()
        shutil.rmtree(self.shared, ignore_errors=True)

    def _install(self) -> None:
        write = self.container.write
        for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
            write(f"/etc/systemd/system/{unit.name}", unit.read_text())
        write("/usr/lib/sysusers.d/stoker.conf", (UNITS / "sysusers.conf").read_text())
        write("/usr/lib/tmpfiles.d/stoker.conf", (UNITS / "tmpfiles.conf").read_text())
        write("/etc/systemd/system/stoker.service.d/path.conf", f"[Service]\nExecStart=\nExecStart={STOKERD}\n")
        web = STOKERD.with_name("stoker")  # which may lie in a home or in /tmp
        lines = f"[Service]\nExecStart=\nExecStart={web} web\nProtectHome=no\nPrivateTmp=no\n"
        write("/etc/systemd/system/stoker-web.service.d/path.conf", lines)
        open_programs(self.container)
        self.container.run("systemd-sysusers")
        self.container.run("systemd-tmpfiles", "--create", "stoker.conf")

    def clean(self) -> None:
        """Stop the service and remove its state, its settings and every process."""
        if not self.container.on:
            self.container.boot()  # a test failed while it was off
        self.systemctl("stop", "stoker-web.service")
        self.systemctl("stop", "--no-block", "stoker.socket", "stoker.service")  # first, or else it is started again
        self.systemctl("kill", "--signal=KILL", "stoker.service", check=False)
        until(lambda: self.show("ActiveState") in ("inactive", "failed") and not self.processes(), why="an end")
        self.systemctl("reset-failed", "stoker.service", check=False)
        self.container.run("rm", "-rf", DROP_INS, STATE, SETTINGS)
        self.container.run("journalctl", "--rotate", "--vacuum-time=1s", "--quiet", check=False)
        for entry in self.shared.iterdir():
            entry.unlink()

    def configure(self, unit: str = "", settings: str = "") -> None:
        """Write lines of [Service] and of the settings file, for the next start."""
        self.container.write(SETTINGS, settings)
        self.container.write(f"{DROP_INS}/test.conf", f"[Service]\n{unit}\n")
        self.container.run("systemctl", "daemon-reload")

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.container.run("systemctl", *arguments, check=check)

    def start(self) -> Self:
        self.systemctl("start", "stoker.service")
        return self

    def show(self, name: str, unit: str = "stoker.service") -> str:
        """A property of the unit as systemd knows it."""
        return self.systemctl("show", "--property", name, "--value", unit)

    @property
    def pid(self) -> int:
        """The daemon's, as the container counts; 0 while there is none."""
        return int(self.show("MainPID"))

    def restarted(self, before: int) -> int:
        """The pid of the daemon that followed `before`, once it is ready."""
        until(lambda: self.pid not in (0, before) and self.show("ActiveState") == "active", why="another daemon")
        return self.pid

    def client(self) -> stoker.Client:
        return stoker.Client(str(self.container.root / SOCKET), timeout_s=DEADLINE_S)

    def kill(self, pid: int, signal: str) -> None:
        self.container.run("kill", f"-{signal}", str(pid))

    def alive(self, pid: int) -> bool:
        """Whether the container has such a process, and it is no zombie."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = (self.container.root / f"proc/{pid}/stat").read_bytes()
            return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")
        return False

    @property
    def cgroup(self) -> Path:
        """The cgroup of the service."""
        return self.container.root / "sys/fs/cgroup/system.slice/stoker.service"

    def processes(self) -> list[int]:
        """All in the service's cgroup and below, as the container counts."""
        asked = ["sh", "-c", 'cat $(find "$1" -name cgroup.procs) /dev/null 2>/dev/null; :', "procs"]
        return [int(pid) for pid in self.container.run(*asked, "/sys/fs/cgroup/system.slice/stoker.service").split()]

    def journal(self) -> list[str]:
        """The lines that the daemon has logged."""
        lines = self.container.run("journalctl", "_SYSTEMD_UNIT=stoker.service", "_COMM=stokerd", "-o", "cat")
        return lines.splitlines()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in map(json.loads, self.journal()) if event["event"] == name]

    def mode(self, path: str) -> tuple[str, str]:
        """Permissions and owner of a path inside."""
        permissions, owner = self.container.run("stat", "-c", "%a %U", path).split()
        return permissions, owner
