"""Too many connections, and clients that misuse the ones they have.

Owns the limits: one user can neither close the connections of others nor use up the daemon's own descriptors.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from stoker.rpc.capacity import RESERVE
from tests.support.facts import DEADLINE_S, until
from tests.support.rpc import request

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

pytestmark = pytest.mark.usefixtures("untouched")
MANY = 1_000
CAP = 64
SETTINGS = f"[rpc]\nmax_connections_per_uid = {CAP}\n"


def connect(daemon: DaemonProcess) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(DEADLINE_S)
    connected.connect(str(daemon.socket))
    return connected


def first_line(connected: socket.socket) -> dict[str, dict[str, dict[str, str]]]:
    with connected.makefile("rb") as stream:
        return dict(json.loads(stream.readline()))


def test_connections_when_a_user_opens_a_thousand_then_those_over_the_cap_get_errors(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(shared)) for _ in range(MANY)]
        for connected in opened:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connected.sendall(request("system.health", 1))
        answers = [first_line(connected) for connected in opened]

        assert bystander.call("system.health")["ok"]

    refused = [answer["error"]["data"]["code"] for answer in answers if "error" in answer]
    assert set(refused) == {"too_many_connections"}
    assert MANY - CAP - RESERVE <= len(refused) < MANY
    until(lambda: bystander.status()["connections"] == 1, why="the end of all others")
    with shared.client() as newcomer:
        assert newcomer.call("system.health")["ok"]


def test_connections_when_they_say_nothing_then_they_are_left_alone(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(shared)) for _ in range(20)]

        until(lambda: bystander.status()["connections"] > 20, why="every one of them let in")
        silent[0].sendall(request("system.health", 1))
        assert first_line(silent[0])["result"]["ok"]


def test_connections_when_broken_off_in_the_middle_of_frames_then_all_are_closed(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    for _ in range(100):
        with connect(shared) as connected:
            connected.sendall(b'{"jsonrpc":"2.0","id":1,"meth')

    until(lambda: bystander.status()["connections"] == 1, why="the end of all others")


def test_client_when_it_never_reads_its_answers_then_others_are_served(
    shared: DaemonProcess, bystander: stoker.Client
) -> None:
    with connect(shared) as deaf:
        deaf.setblocking(False)  # noqa: FBT003
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(request("system.status", 1) * 100)

        assert bystander.call("system.health")["ok"]
