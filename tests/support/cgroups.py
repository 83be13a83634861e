"""A cgroup of version 2 for a test, and its removal with all that lives in it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.process.cgroup import read_mounts
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def cgroup() -> Iterator[Path]:
    """An empty cgroup. The test is skipped if none can be made here."""
    mount = next(read_mounts(Path("/proc/self/mountinfo").read_text()), None)
    if mount is None or not os.access(mount / "cgroup.procs", os.W_OK):
        pytest.skip("no writable cgroup v2 here")
    path = mount / f"stoker-test-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # the file is new in Linux 5.14
            (path / "cgroup.kill").write_text("1")
        until(lambda: is_empty(path), why=f"the end of all processes in {path}")
        # A worker may have nested them deeper than Python can call itself.
        subprocess.run(["find", path, "-depth", "-type", "d", "-delete"], check=True)


def is_empty(path: Path) -> bool:
    return "populated 0" in (path / "cgroup.events").read_text()
