"""A crowd that says anything for a while: the daemon answers all of it, never slowly, and is well afterwards.

`STOKER_SEED` plays a run again, `STOKER_FAULTS` says how many things are said, in hundreds.
"""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.fuzz import Phrases, Talker

if TYPE_CHECKING:
    from collections.abc import Iterator

SAID = 100 * int(os.environ.get("STOKER_FAULTS", "8"))
TALKERS = 12
SETTINGS = "[daemon]\nmax_running = 8\n[queues.q1]\nmax_queued = 50\n"


@pytest.fixture
def fuzzed() -> Iterator[DaemonProcess]:
    with DaemonProcess(SETTINGS) as started:
        yield started


def test_daemon_when_a_crowd_says_anything_then_all_is_answered_and_no_turn_is_slow(
    fuzzed: DaemonProcess, seed: int
) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}: {SAID} things said\n")
    dice = random.Random(seed)
    phrases = Phrases(dice)
    talkers = [Talker(fuzzed.socket) for _ in range(TALKERS)]
    faults: list[str] = []
    answered = 0
    with fuzzed.client() as bystander:
        for _ in range(SAID):
            place = dice.randrange(TALKERS)
            talker = talkers[place]
            talker.say(*phrases.frame())
            if dice.random() < 0.8:  # else its answers pile up
                talker.listen()
            if talker.hung_up or dice.random() < 0.02:
                faults += talker.faults
                talker.close()
                talkers[place] = Talker(fuzzed.socket)
            bystander.call("queue.list")
            answered += 1
        for talker in talkers:
            faults += [f"no answer to {name}" for name in talker.settle()] + talker.faults
            talker.close()
        health = bystander.call("system.health")

    assert faults == []
    assert answered == SAID
    assert health["ok"]
    assert fuzzed.events("request_failed") == []
