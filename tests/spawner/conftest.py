"""Real accounts and a spawner for the tests of this room, which need root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import accounts as accounts_of_host
from tests.support.accounts import Accounts, SpawnerHost, accounts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def host_accounts() -> Iterator[Accounts]:
    if why := accounts_of_host.why_not():
        pytest.skip(why)
    with accounts() as made:
        yield made


@pytest.fixture(scope="module")
def spawner(host_accounts: Accounts) -> Iterator[SpawnerHost]:
    host = SpawnerHost(host_accounts.add("d"))
    try:
        host.start()
        yield host
    finally:
        host.end()


@pytest.fixture(autouse=True)
def policy_of_all(request: pytest.FixtureRequest) -> None:
    """Each test begins with the policy that admits every user."""
    if "spawner" in request.fixturenames:
        request.getfixturevalue("spawner").allow("")
