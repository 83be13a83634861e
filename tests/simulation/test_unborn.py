"""A worker between fork and exec whose launcher and daemon both died: it never begins beside the next attempt.

Owns that moment, which the long walk meets only with some seeds: the child has closed its launcher's lock, so that one
counts as dead, and it does not show its run yet.
"""

from __future__ import annotations

import random
import signal

from tests.simulation.happenings import COURSE, possible
from tests.simulation.seams import simulated
from tests.simulation.walk import REQUESTS, WEIGHTS, Walk

EPISODES = 3
MOST_STEPS = 20_000
WITHOUT_BIRTH = {name: action for name, action in COURSE.items() if name not in ("worker", *REQUESTS)}


def leave_unborn(walk: Walk) -> int:
    """Walk until a launcher, and then its daemon, died in a spawn; returns the inode of the child."""
    world = walk.world
    for _ in range(MOST_STEPS):
        walk.go_on(1)
        for launcher in world.living():
            launcher.spawner.dies = True
        if world.done["died in spawn"] and world.life is not None:
            break
    (child,) = (process for process in world.host.living() if process.unborn)
    child.launcher = ""  # the exec has closed its descriptors, and still shows the old environment
    walk.happen("kill daemon")
    return child.inode


def start_without_birth(walk: Walk) -> None:
    """Start the next daemon and let it recover while no worker does anything."""
    for _ in range(MOST_STEPS):
        names = possible(walk.world, WITHOUT_BIRTH)
        walk.happen(walk.chance.choices(names, [WEIGHTS[name] for name in names])[0])
        if walk.world.life is not None and walk.world.life.ready:
            return
    raise AssertionError("the daemon never became ready")


def test_unborn_worker_when_launcher_and_daemon_have_died_then_it_never_begins(seed: int) -> None:
    for number in range(EPISODES):
        walk = Walk(random.Random(f"{seed}/{number}"))
        with simulated(walk.world):
            left = leave_unborn(walk)
            start_without_birth(walk)

            (child,) = (process for process in walk.world.host.processes.values() if process.inode == left)
            assert child.unborn
            assert child.doom == signal.SIGKILL
            walk.calm_down()
