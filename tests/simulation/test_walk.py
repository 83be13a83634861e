"""Long random walks through the simulated world: no law is ever broken, and afterwards everything comes to its end.

Owns the length and the odds. `STOKER_SEED=` walks the same way again, `STOKER_FAULTS=N` walks further.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter

from tests.simulation.happenings import FAULTS
from tests.simulation.seams import simulated
from tests.simulation.walk import Walk

STEPS = 100_000
EPISODE = 2_500


def test_world_when_walked_at_random_then_no_law_is_broken_and_all_ends(seed: int) -> None:
    episodes = STEPS // EPISODE * max(1, int(os.environ.get("STOKER_FAULTS", "0")) // 50)
    done: Counter[str] = Counter()
    looks: Counter[str] = Counter()

    for number in range(episodes):
        walk = Walk(random.Random(f"{seed}/{number}"))
        with simulated(walk.world):
            walk.go(EPISODE)
            walk.calm_down()
        done += walk.world.done
        looks += walk.world.laws.looks

    faults = {name: done[name] for name in FAULTS}
    sys.stdout.write(f"seed {seed}: {done.total()} steps, faults {faults}, looks {dict(looks)}\n")
    assert done.total() >= STEPS
    assert all(faults.values()), "a fault that never fired proves nothing"
