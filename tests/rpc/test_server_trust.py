"""A client talks only to a server that it can trust: another user could listen at a path in a shared directory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import PermissionDenied
from stoker.rpc.async_client import AsyncClient
from stoker.rpc.conversation import Conversation
from tests.support.peers import NEEDS_ROOT, can_be_others

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not can_be_others(), reason=NEEDS_ROOT)

OTHER, OWNER = 70_001, 70_002
PROGRAM = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
os.setresuid(*[int(sys.argv[2])] * 3)
server.listen()
print("listens", flush=True)
while True:
    client, _ = server.accept()
    if client.recv(4096):
        client.sendall(b'{"jsonrpc":"2.0","id":1,"result":{"pid":1}}\\n')
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A socket of another user, who answers every first request."""
    path = tmp_path / "s.sock"
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(path), str(OTHER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listens\n"
        yield path
        server.kill()


def test_server_when_it_owns_the_directory_then_it_is_trusted(path: Path) -> None:
    os.chown(path.parent, OTHER, -1)

    with Conversation(path) as conversation:
        assert conversation.call("system.status") == {"pid": 1}


@pytest.mark.parametrize("owner", [0, OWNER])
def test_server_when_it_is_another_user_then_no_request_is_sent(path: Path, owner: int) -> None:
    os.chown(path.parent, owner, -1)

    with Conversation(path) as conversation, pytest.raises(PermissionDenied, match=f"is served by uid {OTHER}, which"):
        conversation.call("job.submit", {"command": "secret"})


def test_async_client_when_the_server_is_another_user_then_no_request_is_sent(path: Path) -> None:
    async def ask() -> None:
        client = AsyncClient(str(path))
        try:
            await client.call("system.status")
        finally:
            await client.close()

    with pytest.raises(PermissionDenied, match=f"is served by uid {OTHER}, which"):
        asyncio.run(ask())
