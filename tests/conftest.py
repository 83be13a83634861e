"""Fixtures that more than one folder of tests uses, and the choice of tests that measure coverage.

Owns the daemon of a test and its gate: anything narrower lives beside the tests that use it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.work import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


COVER_CORE = ("tests/core/", "tests/simulation/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage where it is asked for: it doubles the time of any other test for nothing."""
    for item in items:
        if not item.nodeid.startswith(COVER_CORE):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual one, also after a test that opened a state directory here: a container made later would not boot."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    """A started stokerd with default settings and a state directory of its own."""
    with DaemonProcess() as running:
        yield running


@pytest.fixture
def stopped_daemon() -> Iterator[DaemonProcess]:
    """A stokerd that was never started: for tests that bring settings, arguments or a damaged state."""
    process = DaemonProcess()
    yield process
    process.end()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Closed; it opens at the end of the test at the latest."""
    made = Gate(tmp_path / "gate")
    yield made
    made.open()
