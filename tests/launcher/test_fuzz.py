"""Any bytes and any messages: a launcher takes them as they are or hangs up, and goes on.

Owns the mutations. `make test-faults` tries a million frames. Messages with wrong fields go to a real launcher.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.launcher import frames
from stoker.process.messages import Exited
from tests.support.instance import ended

if TYPE_CHECKING:
    from tests.support.instance import LauncherHost, Wire

FAULTS = int(os.environ.get("STOKER_FAULTS", "0"))
FRAMES = max(5_000, 3_334 * FAULTS)
MESSAGES = max(150, 50 * FAULTS)
NO_PID = 1 << 22  # as many as Linux has
WRONG: tuple[Any, ...] = (None, -1, 0, 1 << 70, 1.5, float("inf"), True, "", [], {}, [[]], [None], {"op": "ack"})


def a_message(chance: random.Random) -> dict[str, Any]:
    values: list[Any] = [
        None,
        7,
        -1 << 80,
        0.5,
        "é\ud800",
        "x" * chance.randrange(300),
        [[]] * chance.randrange(4),
        {"a": {}},
    ]
    return {"op": "any"} | {f"key-{number}": chance.choice(values) for number in range(chance.randrange(4))}


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    """The data as a socket may give it."""
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def damage(chance: random.Random, data: bytearray) -> bytearray:
    match chance.randrange(4):
        case 0:
            data[chance.randrange(len(data))] = chance.randrange(256)
        case 1:
            del data[chance.randrange(len(data)) :]
        case 2:
            data[:0] = chance.randbytes(chance.randrange(1, 9))
        case 3:
            body = chance.choice([b"[" * 100_000, b"[1" + b"0" * 5_000 + b"]", b'{"op":1}', b'["op"]', b"\xff", b""])
            data[:] = frames.LENGTH.pack(len(body)) + body
    return data


def read(parts: list[bytes]) -> list[dict[str, Any]]:
    """The messages that a launcher reads of them. Any error but BadFrameError fails the test."""
    unread, messages = bytearray(), []
    for part in parts:
        unread += part
        messages += frames.cut(unread)
    return messages


def test_frames_when_they_come_in_pieces_then_each_message_is_read_as_sent(seed: int) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {FRAMES // 2} cases\n")
    chance = random.Random(seed)
    for _ in range(FRAMES // 2):
        sent = [[a_message(chance) for _ in range(chance.randrange(3))] for _ in range(chance.randrange(1, 4))]

        messages = read(pieces(chance, b"".join(map(frames.pack, sent))))

        assert messages == [message for frame in sent for message in frame]


def test_frames_when_they_are_damaged_then_they_are_refused_or_hold_messages(seed: int) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {FRAMES // 2} cases\n")
    chance = random.Random(seed)
    refused = 0
    for _ in range(FRAMES // 2):
        data = damage(chance, bytearray(frames.pack([a_message(chance)])))
        try:
            messages = read(pieces(chance, bytes(data)))
        except frames.BadFrameError:
            refused += 1
        else:
            assert all("op" in message for message in messages)
    assert FRAMES // 8 < refused < FRAMES // 2


def spoiled(chance: random.Random, host: LauncherHost) -> dict[str, Any]:
    """A message with a field of a wrong kind, or without one."""
    message: dict[str, Any] = chance.choice(
        [
            {"op": "hello", "version": 1, "epoch": 1, "instance": host.instance},
            {"op": "list", "tag": 1, "run_ids": []},
            {"op": "ack", "run_ids": []},
            {"op": "signal", "run_id": "1.1.0", "signal": 15, "scope": "tree", "tag": 1},
            {"op": "signal_orphans", "run_id": "1.1.0", "processes": [[NO_PID, -1]], "signal": 15, "tag": 1},
            {"op": "read_logs", "runs": []},
            msgspec.to_builtins(host.order("/bin/true")),
        ]
    )
    name = chance.choice(list(message))
    if chance.random() < 0.2:
        del message[name]
    else:
        kinds = (int, float) if name == "epoch" else (type(message[name]),)  # a later epoch would be obeyed
        message[name] = chance.choice([value for value in WRONG if not isinstance(value, kinds)])
    return message


def survives(wire: Wire, message: dict[str, Any]) -> bool:
    """Whether the connection is still served after the message."""
    heard: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionError):
        wire.say(message, {"op": "list", "tag": "after", "run_ids": []})
        while frame := wire.hear():
            heard += frame
            if any(one.get("tag") == "after" for one in heard):
                return True
    return False


async def test_launcher_when_fields_are_of_a_wrong_kind_then_it_hangs_up_and_goes_on(
    host: LauncherHost, seed: int
) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {MESSAGES} cases\n")
    chance = random.Random(seed)
    client = await host.start()
    stays = host.staying()
    await host.running(client, stays)
    wire, dropped = None, 0
    for _ in range(MESSAGES):
        if wire is None:
            wire = host.wire(client.launcher)
            wire.hello(host.instance)
        if not survives(wire, spoiled(chance, host)):
            wire.close()
            wire, dropped = None, dropped + 1

    assert not ended(client.facts.pid)
    again = await host.reconnect(client.launcher, epoch=2)
    order = host.order("/bin/true", epoch=2)
    again.launch([order])
    assert (await host.heard(Exited, order)).exit_code == 0
    assert MESSAGES // 4 < dropped < MESSAGES
    assert stays.run_id in {run.run_id for run in await again.list_runs()}


async def test_launcher_when_a_tag_is_nested_deeply_then_it_goes_on_whatever_it_can_say(host: LauncherHost) -> None:
    """It says the tag again. At some depth it can read what it cannot say."""
    client = await host.start()
    stays = host.staying()
    await host.running(client, stays)
    for depth in range(940, 1_020):
        body = b'[{"op": "list", "run_ids": [], "tag": %b%b}]' % (b"[" * depth, b"]" * depth)
        wire = host.wire(client.launcher)
        wire.hello(host.instance)
        with contextlib.suppress(ConnectionError):
            wire.send_raw(frames.LENGTH.pack(len(body)) + body)
        with contextlib.suppress(RecursionError):
            wire.hear()
        wire.close()

    assert not ended(client.facts.pid)
