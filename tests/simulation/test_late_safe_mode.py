"""Safe mode that begins while the daemon works, as a recovery of a silent launcher can fail later."""

from __future__ import annotations

import random

import pytest

from stoker.upkeep.housekeeping import MAINTENANCE_TICKS
from tests.simulation.happenings import COURSE, possible
from tests.simulation.seams import simulated
from tests.simulation.walk import REQUESTS, WEIGHTS, Walk

MOST_STEPS = 20_000
WITHOUT_REQUESTS = [name for name in COURSE if name not in REQUESTS]


def start(walk: Walk) -> None:
    for _ in range(MOST_STEPS):
        names = possible(walk.world, WITHOUT_REQUESTS)
        walk.happen(walk.chance.choices(names, [WEIGHTS[name] for name in names])[0])
        if walk.world.life is not None and walk.world.life.ready:
            return
    raise AssertionError("the daemon never became ready")


@pytest.mark.parametrize(("safe", "stored"), [(False, 1), (True, 0)])
def test_maintenance_when_safe_mode_has_begun_then_no_job_is_stored(seed: int, safe: bool, stored: int) -> None:  # noqa: FBT001
    walk = Walk(random.Random(seed))
    world = walk.world
    with simulated(world):
        start(walk)
        assert world.life is not None
        engine, loop = world.life.engine, world.life.loop
        with loop.running():
            if safe:
                engine.safe_mode.enter(TimeoutError())
            engine.housekeeping._ticks = MAINTENANCE_TICKS - 1
            engine.housekeeping.tick()

        while loop.restless or world.disk.asked:
            loop.turn()
            if world.disk.asked:
                world.disk.serve()

        ((jobs,),) = world.disk.database.execute("SELECT count(*) FROM jobs")
    assert jobs == stored
