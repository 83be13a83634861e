"""One daemon without privileges, a spawner and users for the tests of a module, which may name SETTINGS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import accounts as accounts_of_host
from tests.support.accounts import accounts
from tests.support.run_as import RunAsDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def system(request: pytest.FixtureRequest) -> Iterator[RunAsDaemon]:
    if why := accounts_of_host.why_not():
        pytest.skip(why)
    with accounts() as made:
        daemon = RunAsDaemon(made, getattr(request.module, "SETTINGS", ""))
        try:
            daemon.spawner.start()
            daemon.start()
            yield daemon
        finally:
            daemon.end()
