"""One daemon for the tests of a module, with the settings that the module names.

Owns `shared` (SETTINGS and ENVIRON of the module decide how it is started), and a client for each test. Refuses
isolation: tests that stop, kill or fill their daemon take `daemon` or start their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    with DaemonProcess(getattr(request.module, "SETTINGS", ""), getattr(request.module, "ENVIRON", None)) as running:
        yield running


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[stoker.Client]:
    with shared.client() as connected:
        yield connected
