"""The real server with an engine in memory behind it, and a raw connection to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.rpc import ServerThread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rpc import RawClient


@pytest.fixture
def server() -> Iterator[ServerThread]:
    with ServerThread() as running:
        yield running


@pytest.fixture
def client(server: ServerThread) -> Iterator[RawClient]:
    with server.connect() as connected:
        yield connected
