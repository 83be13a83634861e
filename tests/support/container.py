"""A machine of its own for a test: real systemd as PID 1 over an overlay of this root, booted in about a second.

Owns three things and always removes them: a mount namespace with the overlay (so that a poweroff and the next boot find
the same disk), the process of systemd-nspawn while it is up, and one cgroup. Nothing outside is changed: units that are
enabled and files that are written inside disappear with the container. Paths that are `shared` have the same name
inside and outside; `root` is the root of the container as seen from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

REPOSITORY = Path(__file__).parents[2]
# Units in /lib that the container does not need. The /etc of this machine, where others are enabled, is masked.
MASKED = (
    "systemd-timesyncd", "systemd-networkd", "systemd-resolved", "systemd-udevd", "systemd-udev-trigger",
    "systemd-firstboot", "console-getty", "systemd-pstore", "ldconfig", "systemd-hwdb-update",
)  # fmt: skip
POWEROFF = signal.SIGRTMIN + 4

# In the mount namespace that lives as long as the container: the overlay, and what is made opaque or masked in it. The
# disks of other tests are let go of first: a copy of their mounts would keep their loop devices for as long.
HOLD = """set -e
mount --make-rprivate /
awk '{ for (i = 7; i < NF; i++) if ($i == "-" && $(i + 2) ~ /^.dev.loop/) print $5 }' /proc/self/mountinfo |
  while read -r disk; do umount --lazy "$disk" 2> /dev/null || :; done  # it may have ended
mount -t tmpfs -o size=1g container "$1"
mkdir -p "$1/up/etc/systemd/system" "$1/up/var/log" "$1/work" "$1/root"
for level in 2 3 4 5 S; do mkdir "$1/up/etc/rc$level.d"; done
shift_to="$1"; shift
for unit in "$@"; do ln -s /dev/null "$shift_to/up/etc/systemd/system/$unit.service"; done
ln -s /lib/systemd/system/multi-user.target "$shift_to/up/etc/systemd/system/default.target"
for file in fstab resolv.conf; do : > "$shift_to/up/etc/$file"; done
echo "127.0.0.1 localhost" > "$shift_to/up/etc/hosts"
"$PYTHON" -c 'import os, sys; [os.setxattr(d, "trusted.overlay.opaque", b"y") for d in sys.argv[1:]]' \\
  "$shift_to/up/etc/systemd/system" "$shift_to"/up/etc/rc?.d
mount -t overlay overlay -o "lowerdir=/,upperdir=$shift_to/up,workdir=$shift_to/work" "$shift_to/root"
echo held
exec cat
"""

# For one boot: a cgroup namespace rooted in our own cgroup, a pure v2 view of it, and a pid namespace, because nspawn
# takes the cgroup of PID 1 for the root of the hierarchy.
BOOT = """set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
exec systemd-nspawn --quiet --boot --directory="$1" --machine="$2" --uuid="$3" --link-journal=no --register=no \\
  --keep-unit --private-network --resolv-conf=off --timezone=off --console=pipe "${@:4}" < /dev/null
"""


def missing() -> str | None:
    """Why no container can be booted here; None if one can."""
    if os.geteuid() != 0:
        return "a container wants root"
    lacking = [tool for tool in ("systemd-nspawn", "unshare", "nsenter") if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs"
    return None if _cgroup2() else "no cgroup v2 hierarchy is mounted"


def _cgroup2() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[words.index("-") + 1] == "cgroup2":
            return Path(words[4])
    return None


class Container:
    """One machine; `boot` and `power_off` it as often as a test likes."""

    def __init__(self, shared: Sequence[Path] = ()) -> None:
        top = _cgroup2()
        assert top is not None, "see `missing`"
        self.name = f"stoker-{uuid.uuid4().hex[:8]}"
        self._shared = shared
        self._mounts = Path(tempfile.mkdtemp(prefix="stoker-container-"))
        self._cgroup = top / self.name
        self._console = (self._mounts.parent / f"{self.name}.console").open("w+b")
        self._holder: subprocess.Popen[bytes] | None = None
        self._machine: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        try:
            self._hold()
            return self.boot()
        except BaseException:
            self.end()
            raise

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def root(self) -> Path:
        """The container's root directory, as seen by itself: with its /run and its /proc."""
        return Path(f"/proc/{self._leader}/root")

    @property
    def on(self) -> bool:
        return self._machine is not None and self._machine.poll() is None

    def _hold(self) -> None:
        command = ["unshare", "-m", "--propagation", "private", "bash", "-c", HOLD, "hold", str(self._mounts), *MASKED]
        environ = {**os.environ, "PYTHON": sys.executable}
        self._holder = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._console
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"held\n":
            raise AssertionError(f"no overlay: {self.console()}")

    def boot(self) -> Self:
        """Return when systemd has finished starting."""
        assert self._holder is not None
        self._cgroup.mkdir(exist_ok=True)
        binds = [f"--bind-ro={path}" for path in (REPOSITORY, sys.prefix, sys.base_prefix)]
        binds += [f"--bind={path}" for path in self._shared]
        self._machine = subprocess.Popen(
            [
                "sh",
                "-c",
                'echo 0 > "$1/cgroup.procs"; shift; exec "$@"',
                "join",
                str(self._cgroup),
                "nsenter",
                "-m",
                f"--target={self._holder.pid}",
                "unshare",
                "-m",
                "-C",
                "-p",
                "-f",
                "--mount-proc",
                "--kill-child",
                "--propagation",
                "private",
                "bash",
                "-c",
                BOOT,
                "boot",
                str(self._mounts / "root"),
                self.name,
                uuid.uuid4().hex,
                *binds,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
        )
        until(self._up, why="the boot of the container")
        return self

    def _up(self) -> bool:
        assert self._machine is not None
        if self._machine.poll() is not None:
            raise AssertionError(f"the container died: {self.console()}")
        self._leader = _only_child(_only_child(self._machine.pid))
        return self._leader != 0 and self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """The stdout of a command that is run inside. AssertionError if it fails, unless failures are expected."""
        enter = 'echo 0 > "$1/payload/init.scope/cgroup.procs"; shift; exec "$@"'
        environ = ["env", "-i", f"PATH={os.environ['PATH']}", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8"]
        done = subprocess.run(
            [
                "sh",
                "-c",
                enter,
                "enter",
                str(self._cgroup),
                "nsenter",
                f"--target={self._leader}",
                "-m",
                "-p",
                "-n",
                "-u",
                "-i",
                "-C",
                "-r",
                "-w",
                *environ,
                *command,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "write", path, stdin=text)

    def power_off(self) -> None:
        """An orderly shutdown; the disk stays, for the next `boot`."""
        assert self._machine is not None
        os.kill(self._leader, POWEROFF)
        self._machine.wait(120)
        until(self._cgroup_removed, why="the end of the container's cgroup")

    def _cgroup_removed(self) -> bool:
        if not self._cgroup.exists():
            return True
        with contextlib.suppress(OSError):
            (self._cgroup / "cgroup.kill").write_text("1")
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                Path(directory).rmdir()
        return not self._cgroup.exists()

    def console(self) -> str:
        self._console.seek(0)
        return self._console.read().decode(errors="replace")[-4000:]

    def end(self) -> None:
        """Kill all processes in it and remove everything. May be called twice."""
        until(self._cgroup_removed, why="the end of the container's cgroup")
        for process in (self._machine, self._holder):
            if process is not None:
                process.kill()
                process.communicate()
        self._machine = self._holder = None
        self._console.close()
        Path(self._console.name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._mounts.rmdir()


def _only_child(pid: int) -> int:
    """The pid of the only child; 0 if there is none."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]) if pid else 0
    return 0
