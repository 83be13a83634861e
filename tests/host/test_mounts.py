"""The mounts of this process: the list, the mount above a path, and the notice of a change."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.host.mounts import Mounts

CHANGES = """
import os, resource, select, subprocess, sys
from stoker.host.mounts import Mounts
at = sys.argv[1]
mounts = Mounts()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
def told():
    return bool(select.select([mounts.fd], [], [], 0)[0])
assert not told()
for command in (["mount", "-t", "tmpfs", "x", at], ["umount", at]) * 2:
    subprocess.run(command, check=True)
    assert told()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    mounts.read()  # also if no descriptor is left
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not told()
    assert mounts.point_of(at + "/file") == (at if command[0] == "mount" else mounts.point_of(os.path.dirname(at)))
    if command[0] == "mount":
        assert mounts.kinds[os.stat(at).st_dev] == "tmpfs"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_mounts_when_one_comes_or_goes_then_a_notice_comes_and_it_is_read(tmp_path: Path) -> None:
    at = tmp_path / "a disk"
    at.mkdir()

    apart = ["unshare", "--mount", sys.executable, "-c", CHANGES, str(at)]
    subprocess.run(apart, check=True)


def test_mounts_when_nothing_changes_then_no_notice_comes() -> None:
    mounts = Mounts()

    assert not select.select([mounts.fd], [], [], 0)[0]
    assert mounts.point_of("/proc/self/status") == "/proc"
    assert mounts.point_of("/proc") == "/proc"
    assert mounts.point_of("/processes") == mounts.point_of("/")
    device = Path("/proc").stat().st_dev
    assert (mounts.kinds[device], mounts.device_of("/proc/self")) == ("proc", device)
    assert "/proc" in mounts.points_of([device])
    mounts.close()
