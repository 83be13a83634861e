"""In this folder the client is one of the daemon that the tests of a module share.

Refuses isolation: tests that stop, kill or fill their daemon take `daemon` or start their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.daemon import DaemonProcess


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[stoker.Client]:
    with shared.client() as connected:
        yield connected
