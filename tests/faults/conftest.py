"""What all tortures share: how long they go on, where the files of a run are kept, and a booted systemd.

Owns three variables of the environment. `STOKER_SEED=` plays a run again, `STOKER_FAULTS=300` makes it longer (`make
test-faults`), `STOKER_KEEP=DIR` keeps state, ledger and log. Every torture prints its seed and what it did.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.service import Service
from tests.support.task_door import add_door
from tests.support.torture import SETTINGS
from tests.support.work import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tortured(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """A started daemon with the settings of a torture."""
    daemon = DaemonProcess(SETTINGS)
    daemon.relay_stderr()
    add_door(daemon)
    with daemon as started:
        yield started
        if "STOKER_KEEP" in os.environ:
            kept = Path(os.environ["STOKER_KEEP"]) / request.node.name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(started.home, kept, symlinks=True, ignore=shutil.ignore_patterns("*sock", "notify"))


@pytest.fixture(scope="session")
def installed_service() -> Iterator[Service]:
    """Stoker as installed in a container of its own: one boot for all tests that want it."""
    with Service() as installed:
        yield installed


@pytest.fixture
def service(installed_service: Service) -> Iterator[Service]:
    """The same, as if nothing had ever run there."""
    yield installed_service
    installed_service.clean()


@pytest.fixture
def shared_gate(service: Service) -> Iterator[Gate]:
    """A gate that workers inside the container wait at, too."""
    gate = Gate(service.shared / "gate")
    yield gate
    gate.open()


SMALL = "[disk]\nmin_free_bytes = 2_000_000\nreserve_bytes = 1_000_000\n"


@pytest.fixture
def small_disk() -> Iterator[DaemonProcess]:
    """A daemon whose state directory is a file system of twelve megabytes."""
    daemon = DaemonProcess(SETTINGS + SMALL)
    daemon.state_dir.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs", str(daemon.state_dir)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        daemon.end()
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield daemon.start()
    finally:
        daemon.kill_all()
        subprocess.run(["umount", "--lazy", str(daemon.state_dir)], check=True)
        daemon.end()
