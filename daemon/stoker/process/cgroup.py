"""A cgroup v2 leaf for each attempt, where a subtree was delegated to the daemon: the one bound no worker escapes.

Owns finding that subtree and the files in it. Refuses a cgroup that was not delegated (by systemd's mark on its
directory, or by the setting) and hierarchies of version 1. Invariants: a leaf belongs to one run, so all of it may be
killed or frozen; `Leaf.in_force` names only limits that a controller enforces.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from stoker.core.errors import ConfigInvalid
from stoker.core.job.limits import Limits
from stoker.files import DIRECTORY, remove_tree

MARKS = ("user.delegate", "trusted.delegate")
LEAF = "run-"
REMOVED = frozenset({errno.ENOENT, errno.ENODEV})  # ENODEV: it was removed after its file was opened
CONTROLLERS = ("memory", "pids", "cpu")
# The controller and the file of each limit.
FILES = {"memory_bytes": ("memory", "memory.max"), "processes": ("pids", "pids.max")}


def find_root(setting: str) -> Path | None:
    """The directory for the leaves: `setting`, or our own cgroup if it is delegated; None without one.

    Raises ConfigInvalid if the setting is not a cgroup v2.
    """
    if setting == "off":
        return None
    if setting:
        root = Path(setting)
        if not (root / "cgroup.procs").exists() or not (root / "cgroup.events").exists():
            raise ConfigInvalid(f"cgroup.root: {setting} is not a cgroup v2 below the top one", errors=[setting])
        return root
    own = _own_cgroup()
    if own is None:
        return None
    # With DelegateSubgroup= (systemd 254) we run in a leaf of the delegated cgroup, otherwise in that cgroup itself.
    return next((cgroup for cgroup in (own, own.parent) if is_delegated(cgroup)), None)


def is_delegated(cgroup: Path) -> bool:
    """Whether systemd marked it as delegated (Delegate=yes)."""
    for mark in MARKS:
        with suppress(OSError):
            if os.getxattr(cgroup, mark) == b"1":
                return True
    return False


def read_mounts(mountinfo: str) -> Iterator[Path]:
    """The mount points of cgroup v2 in the text of /proc/self/mountinfo."""
    for line in filter(None, mountinfo.split("\n")):
        words = line.split(" ")
        separator = words.index("-")
        if words[separator + 1] == "cgroup2":
            yield Path(words[4])


def _own_cgroup() -> Path | None:
    mount = next(read_mounts(os.fsdecode(Path("/proc/self/mountinfo").read_bytes())), None)
    lines = os.fsdecode(Path("/proc/self/cgroup").read_bytes()).split("\n")
    inside = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return None if mount is None or inside is None else mount / inside


class Leaf(Struct, frozen=True):
    """One run's cgroup. `in_force`: names of the limits that its controllers enforce."""

    path: Path
    in_force: frozenset[str] = frozenset()

    @property
    def populated(self) -> bool:
        """Whether a living process is in it or below it; False once it is removed. Raises OSError if it is unknown."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except OSError as error:
            if error.errno not in REMOVED:
                raise
            return False

    def kill(self) -> None:
        """SIGKILL to all processes in it, forks under way included (Linux 5.14)."""
        _write(self.path / "cgroup.kill", "1")

    def freeze(self) -> None:
        _write(self.path / "cgroup.freeze", "1")

    def thaw(self) -> None:
        _write(self.path / "cgroup.freeze", "0")

    def remove(self) -> None:
        """Remove it. Raises OSError while a process lives or a cgroup is in it. May be repeated."""
        with suppress(FileNotFoundError):
            self.path.rmdir()

    def remove_tree(self) -> None:
        """Remove it and all cgroups inside, which takes long if a worker made thousands. Otherwise as `remove`."""
        parent = os.open(self.path.parent, DIRECTORY)
        try:
            with suppress(FileNotFoundError):
                remove_tree(self.path.name, parent, files=False)
        finally:
            os.close(parent)


class Cgroups:
    """The delegated subtree, with a leaf for each run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.controllers: frozenset[str] = frozenset()

    def prepare(self) -> None:
        """Enable the controllers for the leaves, which works only where no process is in the root itself.

        If the daemon runs in the root, rlimits must do. Moving out of it would be worse: once survivors are in leaves
        with controllers enabled, systemd cannot start the next daemon there (status 219).
        """
        available = (self._root / "cgroup.controllers").read_text().split()
        for controller in CONTROLLERS:
            if controller in available:
                with suppress(OSError):  # EBUSY: its limits cannot be enforced here, and `in_force` leaves them out
                    _write(self._root / "cgroup.subtree_control", f"+{controller}")
        self.controllers = frozenset((self._root / "cgroup.subtree_control").read_text().split())

    def make(self, run_id: str, limits: Limits) -> Leaf:
        """The leaf of a run that is about to start. Limits that are not in its `in_force` need an rlimit."""
        path = self._root / f"{LEAF}{run_id}"
        path.mkdir(exist_ok=True)
        in_force = set()
        for name, (controller, file) in FILES.items():
            wanted = getattr(limits, name)
            if wanted is not None and controller in self.controllers:
                _write(path / file, str(wanted))
                in_force.add(name)
        if "memory_bytes" in in_force:
            with suppress(FileNotFoundError):  # a kernel without swap
                _write(path / "memory.swap.max", "0")  # else the worker swaps at the limit instead of ending
        return Leaf(path, frozenset(in_force))

    def leaf(self, run_id: str) -> Leaf:
        return Leaf(self._root / f"{LEAF}{run_id}")

    def run_ids(self) -> list[str]:
        return [path.name.removeprefix(LEAF) for path in self._root.glob(f"{LEAF}*")]


def _write(path: Path, text: str) -> None:
    """Write a control file in one write, as the kernel demands, without creating it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
