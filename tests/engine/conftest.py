"""In this folder the client is one of the daemon that the tests of a module share.

Refuses isolation: tests that stop, kill or fill their daemon take `daemon` or start their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.still import new_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import stoker
    from stoker.store.open import Opened
    from tests.support.daemon import DaemonProcess


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[stoker.Client]:
    with shared.client() as connected:
        yield connected


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[Opened]:
    async with new_state(tmp_path / "state") as opened:
        yield opened
