"""A daemon for requests that it must refuse, and a check after each test that nothing has changed.

Owns `shared`, the raw connection, and `untouched`: nothing was stored, and a client that stayed connected is still
served on its old connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.rpc import RawClient
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker

FRAME_TIMEOUT_MS = 2_000


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    settings = getattr(request.module, "SETTINGS", "")
    with DaemonProcess(settings, {"STOKER_RPC_FRAME_TIMEOUT_MS": str(FRAME_TIMEOUT_MS)}) as running:
        yield running


def stored(client: stoker.Client) -> tuple[Any, ...]:
    """The facts that a submit would change."""
    client.call("system.health")  # waits for a turn: so the status has all that was committed before
    status = client.status()
    newest = client.list(limit=1)["jobs"]
    return status["last_seq"], newest and newest[0]["id"], [queue["name"] for queue in status["queues"]]


@pytest.fixture
def bystander(shared: DaemonProcess) -> Iterator[stoker.Client]:
    with shared.client() as client:
        yield client


@pytest.fixture
def untouched(shared: DaemonProcess, bystander: stoker.Client) -> Iterator[None]:
    before = stored(bystander)
    connection = bystander._socket

    yield

    assert stored(bystander) == before, "something was stored"
    assert bystander._socket is connection, "the bystander had to connect again"
    assert end_of(bystander, submit(bystander, shell("exit 0"))) == ("succeeded", "exit")
    assert shared.process is not None
    assert shared.process.poll() is None


@pytest.fixture
def raw(shared: DaemonProcess) -> Iterator[RawClient]:
    with RawClient(shared.socket) as connected:
        yield connected
