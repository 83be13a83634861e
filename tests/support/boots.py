"""Another boot of this machine, as a daemon sees it, and foreign processes with the pids of its workers.

Owns the boot id that /proc shows to one daemon and its launchers (a bind mount in a mount namespace of their own), and
decoys with forced pids. Invariant: a decoy shows no sign of any instance.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.daemon import BIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.daemon import DaemonProcess

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
TRIES = 10


class Boots:
    """Gives each daemon that is started from now on a boot id; after `reboot` the next one gets another."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._boot_id = daemon.home / "boot_id"
        self._program = daemon.home / "boots" / "stokerd"
        self._program.parent.mkdir()
        (self._program.parent / "stoker").symlink_to(BIN / "stoker")
        self._boot_id.write_text(BOOT_ID.read_text())
        inside = f'mount --bind {shlex.quote(str(self._boot_id))} {BOOT_ID} && exec {BIN}/stokerd "$@"'
        self._program.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(inside)} sh "$@"\n')
        self._program.chmod(0o755)
        daemon.programs = self._program.parent

    def reboot(self) -> None:
        """It gets a new file, because a daemon of the boot before may still read the old one."""
        self._boot_id.unlink()
        self._boot_id.write_text(f"{uuid.uuid4()}\n")

    def seen_by(self, pid: int) -> bool:
        """Whether that process sees the boot id of this object and not ours."""
        seen = Path(f"/proc/{pid}/root{BOOT_ID}").read_text()
        return seen == self._boot_id.read_text() != BOOT_ID.read_text()


class Decoys:
    """Processes of this user with given pids, as far as these were free."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._processes = [process for pid in pids if (process := _at(pid)) is not None]

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def signalled(self) -> list[int]:
        """Pids of the decoys that have ended."""
        return [process.pid for process in self._processes if process.poll() is not None]


def _at(pid: int) -> subprocess.Popen[bytes] | None:
    for _ in range(TRIES):
        LAST_PID.write_text(str(pid - 1))
        process = subprocess.Popen([shutil.which("sleep") or "sleep", "3600"], env={})
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    return None
