"""A spawner that has as many children as it may have: the daemon learns why it gets no launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stoker.process.spawner import SpawnRefused, Wish, ask
from tests.support.facts import line_with

if TYPE_CHECKING:
    from pathlib import Path

FULL = """
import socket, sys
from stoker.spawner.server import SpawnServer
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
SpawnServer(listener, "", max_children=0).run()
"""
WISH = Wish(uid=70_001, epoch=1, nonce="00" * 4, instance="00" * 8, open_files=64)


@pytest.mark.skipif(os.geteuid() != 0, reason="the daemon asks only a spawner of root")
def test_request_when_the_spawner_is_full_then_its_words_arrive(tmp_path: Path) -> None:
    path = str(tmp_path / "spawner.sock")
    full = subprocess.Popen(
        [sys.executable, "-c", FULL, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line_with(full, full.stdout, "listens")
        ready, written = os.pipe()
        for _ in range(50):
            with pytest.raises(SpawnRefused, match="0 launchers run already, as many as one spawner starts") as refused:
                ask(path, WISH, written, "/var/lib/stoker-users")
            assert refused.value.transient
        os.close(ready)
        os.close(written)
    finally:
        full.terminate()
        full.communicate()
