"""The pace of long work: its pauses are a share of its pieces, however coarse the timers of the event loop are."""

from __future__ import annotations

import asyncio
from contextlib import closing
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest

from stoker.upkeep.pace import MOST_TAKEN_OFF_S, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

TIMER_S = 0.001


class CoarseTimers(asyncio.SelectorEventLoop):
    """Time passes only in pieces and pauses. A pause lasts whole milliseconds, and one more, as in uvloop."""

    now_s = 0.0
    paused_s = 0.0

    def time(self) -> float:
        return self.now_s

    def stop_for_a_minute(self) -> None:
        self.now_s += 60.0

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        lasts_s = (ceil(delay / TIMER_S) + 1) * TIMER_S
        self.now_s += lasts_s
        self.paused_s += lasts_s
        return self.call_soon(callback, *args, context=context)


async def work(loop: CoarseTimers, share: float, pieces: int, piece_s: float) -> None:
    pace = Pace(share)
    for _ in range(pieces):
        async with pace.piece():
            loop.now_s += piece_s


@pytest.mark.parametrize(("share", "piece_s"), [(0.35, 0.001), (3.0, 0.001), (0.35, 0.02), (3.0, 0.0001)])
def test_pace_when_timers_are_coarse_then_the_pauses_are_the_share_of_the_pieces(share: float, piece_s: float) -> None:
    with closing(CoarseTimers()) as loop:
        loop.run_until_complete(work(loop, share, 1_000, piece_s))

        assert loop.paused_s == pytest.approx(share * 1_000 * piece_s, abs=3 * TIMER_S)


async def work_after_a_stop(loop: CoarseTimers) -> None:
    pace = Pace(share=1.0)
    async with pace.piece():
        loop.now_s += 0.005
        asyncio.get_running_loop().call_soon(loop.stop_for_a_minute)
    loop.paused_s = 0.0
    for _ in range(100):
        async with pace.piece():
            loop.now_s += 0.005


def test_pace_when_the_daemon_was_stopped_in_a_pause_then_the_next_are_no_shorter() -> None:
    with closing(CoarseTimers()) as loop:
        loop.run_until_complete(work_after_a_stop(loop))

        assert loop.paused_s == pytest.approx(100 * 0.005, abs=MOST_TAKEN_OFF_S + 3 * TIMER_S)
