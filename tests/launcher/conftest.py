"""A `host` for each test: launchers of an instance of its own, ended with everything that they started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.instance import LauncherHost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def host() -> AsyncIterator[LauncherHost]:
    host = LauncherHost()
    yield host
    await host.end()
