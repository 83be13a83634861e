"""Fixtures for more than one folder of tests, and the rules for all tests: no limits of time, no coverage by luck.

Narrower fixtures live beside the tests that use them; `tests/support/README.md` lists what else there is.
"""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cgroups import cgroup
from tests.support.daemon import DaemonProcess
from tests.support.instance import LauncherHost
from tests.support.shares import long_first
from tests.support.work import DeafWorker, Gate, submit_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from types import ModuleType

    import stoker


# A slow machine is not a fault: an example may take any time, and so may its generation.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Handle the signals that a run behind nohup or & ignores: the programs of a test would ignore them, too."""
    config.addinivalue_line("markers", "long: takes half a minute or more; a worker begins with its share of these")
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # still no harm to us, and the default again after an exec


@pytest.hookimpl(trylast=True)  # hypothesis marks its tests first
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no coverage of tests that draw their examples: which lines they reach is luck. Begin with long tests."""
    for item in items:
        if item.get_closest_marker("hypothesis"):
            item.add_marker(pytest.mark.no_cover)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = long_first(items, lambda item: item.get_closest_marker("long") is not None, workers)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual one, also after a test that opened a state directory here: a container made later would not boot."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def seed() -> int:
    """Of all random choices of a test, which prints it: STOKER_SEED plays it again."""
    return int(os.environ.get("STOKER_SEED", secrets.randbelow(1 << 32)))


def daemon_of(module: ModuleType) -> DaemonProcess:
    """A stokerd that is not started yet, with the SETTINGS, ENVIRON and MODULES that a test module names."""
    daemon = DaemonProcess(getattr(module, "SETTINGS", ""), getattr(module, "ENVIRON", None))
    for name, text in getattr(module, "MODULES", {}).items():
        daemon.add_module(name, text)
    return daemon


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """A started stokerd with a state directory of its own."""
    with daemon_of(request.module) as running:
        yield running


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """One daemon for the tests of a module.

    For tests that neither stop nor fill their daemon, and that take ids from answers: others were there before them.
    """
    with daemon_of(request.module) as running:
        yield running


@pytest.fixture
def stopped_daemon(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """A stokerd that was never started: for tests that bring settings, arguments or a damaged state."""
    process = daemon_of(request.module)
    yield process
    process.end()


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[stoker.Client]:
    """A client of `daemon`; in `tests/engine` of the daemon that the tests of a module share."""
    with daemon.client() as connected:
        yield connected


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Closed; it opens at the end of the test at the latest."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


@pytest.fixture
def deaf(gate: Gate, tmp_path: Path) -> DeafWorker:
    return DeafWorker(gate, tmp_path / "deaf")


@pytest.fixture
def running_job(client: stoker.Client, gate: Gate) -> int:
    """A job whose worker waits at the gate, then succeeds."""
    return submit_running(client, gate.spec())


@pytest.fixture
async def host() -> AsyncIterator[LauncherHost]:
    """Launchers of an instance of their own, without a daemon. They end with all that they started."""
    host = LauncherHost()
    yield host
    await host.end()


@pytest.fixture
def cgroup_root() -> Iterator[Path]:
    """An empty cgroup, for `[cgroup] root` or for one run."""
    with cgroup() as path:
        yield path
