"""A call in another thread, as its task awaits it."""

from __future__ import annotations

import asyncio

import pytest

from stoker.store.hop import Hop
from tests.support.facts import until_async


async def test_hop_when_it_ends_then_its_task_goes_on_in_the_same_callback() -> None:
    hop, taken = Hop[int](asyncio.get_running_loop()), list[int]()

    async def work() -> None:
        taken.append(await hop)

    def end() -> None:
        hop.set_result(7)
        taken.append(8)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)  # the task awaits the hop
    asyncio.get_running_loop().call_soon(end)
    await task

    assert taken == [7, 8]


async def test_hop_when_it_fails_then_its_task_gets_the_error() -> None:
    hop = Hop[int](asyncio.get_running_loop())

    async def work() -> int:
        return await hop

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(hop.set_exception, ValueError("no such row"))

    with pytest.raises(ValueError, match="no such row"):
        await task


async def test_hop_when_it_has_ended_before_then_the_result_is_there() -> None:
    hop = Hop[int](asyncio.get_running_loop())
    hop.set_result(7)

    assert await hop == 7


async def test_hop_when_its_task_is_cancelled_then_a_later_end_changes_nothing() -> None:
    hop = Hop[int](asyncio.get_running_loop())

    async def work() -> int:
        return await hop

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await until_async(task.done)

    assert task.cancelled()
    assert hop.done()  # so the thread leaves it as it is
