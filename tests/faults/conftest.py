"""The shared parts of tortures: their length, the place where the files of a run are kept, and a booted systemd.

Owns three variables of the environment. `STOKER_SEED=` plays a run again, `STOKER_FAULTS=300` makes it longer (`make
test-faults`), `STOKER_KEEP=DIR` keeps state, ledger and log. Every torture prints its seed and what it did.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import disks
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
    """Stoker as installed in a container of its own: one boot for all tests that use it."""
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
    with contextlib.ExitStack() as stack:
        daemon = DaemonProcess(SETTINGS + SMALL)
        stack.callback(daemon.end)
        stack.enter_context(disks.small_disk(daemon.state_dir, "12m"))
        stack.callback(daemon.kill_all)
        yield daemon.start()
