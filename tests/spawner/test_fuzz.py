"""Any packet and any policy: refused in words or taken as it is, by a spawner that lives on.

`make test-faults` tries a million cases of the parts that are functions.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.spawner.packets import (
    CHECK_MAGIC,
    MAGIC,
    MAX_EPOCH,
    MAX_OPEN_FILES,
    REQUEST,
    STARTED,
    LaunchRequest,
    RefusedError,
    parse,
)
from stoker.spawner.policy import read_policy

if TYPE_CHECKING:
    from tests.support.accounts import Accounts, SpawnerHost

CASES = max(20_000, 3_334 * int(os.environ.get("STOKER_FAULTS", "0")))
SENT = 60
RULES = (
    'daemon_user = "nobody"', "min_uid = 1000", "allow_root = false", 'users = ["root", 7]', "groups = []",
    'directory = "/a/b"', "[table]", "x = 1979-05-27T07:32:00Z", 'users = [["root"]]', "min_uid = 1e3", "# words",
)  # fmt: skip


def a_packet(chance: random.Random) -> bytes:
    """A valid request, cut, lengthened, with some bytes changed, or nothing like it."""
    packet = bytearray(
        REQUEST.pack(
            chance.choice([MAGIC, CHECK_MAGIC, b"STK2"]),
            chance.choice([0, 1, 999, 1_000, 65_534, chance.getrandbits(32)]),
            chance.choice([0, 1, 256, MAX_OPEN_FILES, MAX_OPEN_FILES + 1, chance.getrandbits(32)]),
            chance.choice([1, MAX_EPOCH, MAX_EPOCH + 1, chance.getrandbits(64)]),
            chance.randbytes(4),
            chance.randbytes(8),
        )
    )
    match chance.randrange(4):
        case 0:
            del packet[chance.randrange(len(packet)) :]
        case 1:
            packet += chance.randbytes(chance.randrange(1, 100))
        case 2:
            packet[chance.randrange(len(packet))] = chance.randrange(256)
    return bytes(packet)


def parsed(packet: bytes, fds: list[int]) -> LaunchRequest | None:
    """None if it is refused. Any other error fails the test."""
    with contextlib.suppress(RefusedError):
        return parse(packet, fds)
    return None


def test_parser_when_packets_are_random_then_each_is_refused_or_within_all_bounds(seed: int) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {CASES} cases\n")
    chance = random.Random(seed)
    taken = 0
    for _ in range(CASES):
        packet, fds = a_packet(chance), [7] * chance.choice([0, 1, 1, 1, 2])
        request = parsed(packet, fds)
        if request is None:
            continue
        taken += 1
        epoch, nonce, uid = request.launcher.split("-")
        assert len(packet) == REQUEST.size
        assert (packet[:4], fds, request.ready) in ((MAGIC, [7], 7), (CHECK_MAGIC, [], None))
        assert int(epoch) <= MAX_EPOCH
        assert 1 <= request.open_files <= MAX_OPEN_FILES
        assert (len(nonce), int(uid), len(request.instance)) == (8, request.uid, 16)
    assert 0 < taken < CASES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a policy")
def test_policy_when_texts_are_random_then_each_is_refused_or_admits_no_root(seed: int) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {CASES} cases\n")
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run-as.toml"
        for _ in range(CASES // 20):
            text = bytearray("\n".join(chance.choices(RULES, k=chance.randrange(6))).encode())
            for _ in range(chance.choice([0, 0, 1, 3])):
                text.insert(chance.randrange(len(text) + 1), chance.randrange(256))
            path.write_bytes(text)
            with contextlib.suppress(RefusedError):
                policy = read_policy(str(path))
                assert policy.daemon_uid != 0
                assert not policy.allow_root


def test_spawner_when_packets_are_random_then_it_lives_and_starts_the_next_launcher(
    spawner: SpawnerHost, host_accounts: Accounts, seed: int
) -> None:
    user = host_accounts.add("f")
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {CASES} cases\n")
    chance = random.Random(seed)
    for _ in range(SENT):
        packet = a_packet(chance)
        packet = packet[:4] + bytes(4) + packet[8:]  # for root, so that none is carried out
        answer = spawner.ask(packet, [0] * chance.choice([0, 1, 1, 3]))
        assert answer.code not in (STARTED, 255)

    answer, ready = spawner.launch(user.pw_uid)

    assert (answer.code, ready) == (STARTED, b"+"), answer.words
