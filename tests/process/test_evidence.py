"""What is known of attempts when witnesses fail: a launcher that dies while it is asked, a worker nobody wrote down.

Owns the evidence alone; what a recovery makes of it is for tests/engine and tests/simulation.
"""

from __future__ import annotations

import os
import signal

import pytest

from stoker.process import evidence
from stoker.process.identity import Stat
from tests.support.facts import until_async
from tests.support.instance import LauncherHost


async def test_hear_when_a_launcher_dies_while_it_is_asked_then_the_others_are_heard(host: LauncherHost) -> None:
    dying, other = await host.start(), await host.start()
    order = host.staying()
    other.launch([order])
    os.kill(dying.facts.pid, signal.SIGKILL)
    await until_async(lambda: dying.lost)

    said = await evidence.hear([dying, other], [], {}, ())

    assert list(said.held) == [order.run_id]


def stat(parent: int = 1, session: int = 40, ticks: int = 7) -> Stat:
    return Stat("S", parent, session, 1, ticks)


@pytest.mark.parametrize(
    "living",
    [
        pytest.param({12: stat(parent=40), 40: stat()}, id="a child with a smaller number began in the same tick"),
        pytest.param({12: stat(parent=40, session=12), 40: stat()}, id="that child leads a session of its own"),
        pytest.param({12: stat(session=40), 40: stat()}, id="its own parent is dead"),
    ],
)
def test_leader_when_numbers_wrapped_within_a_tick_then_the_main_process_is_told(living: dict[int, Stat]) -> None:
    leader = evidence._leader(living)

    assert leader is not None
    assert leader.pid == 40


def test_leader_when_the_main_process_is_gone_then_nobody_leads() -> None:
    assert evidence._leader({41: stat(), 12: stat()}) is None
