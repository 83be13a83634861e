"""The numbers of the other end of a connection are those that the kernel has, however many groups it is in."""

from __future__ import annotations

import os
import socket

import pytest

from stoker.rpc.peer import Peer, peer_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take other groups")


def peer_with(groups: list[int]) -> Peer:
    """As this process is seen that connects with these supplementary groups."""
    before = os.getgroups()
    os.setgroups(groups)
    try:
        ours, theirs = socket.socketpair()
    finally:
        os.setgroups(before)
    with ours, theirs:
        return peer_of(theirs, 7)


def test_peer_when_it_is_this_process_then_its_numbers_are_ours() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(theirs, 7)

    assert (peer.uid, peer.pid, peer.connection) == (os.geteuid(), os.getpid(), 7)
    assert peer.gids == {os.getegid(), *os.getgroups()}


@needs_root
@pytest.mark.parametrize("count", [0, 1, 40, 300, 5_000])
def test_peer_when_it_is_in_many_groups_then_all_are_known(count: int) -> None:
    groups = list(range(100_000, 100_000 + count))

    assert peer_with(groups).gids == {os.getegid(), *groups}
