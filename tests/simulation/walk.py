"""A walk through the simulated world: the next thing that happens is drawn by weights that each walk draws anew.

Owns the odds, and the meaning of calm: without faults, everything that should end must end.
"""

from __future__ import annotations

import hashlib
import random
from itertools import count

from tests.simulation.happenings import ACTIONS, COURSE, FAULTS, possible
from tests.simulation.seams import simulated
from tests.simulation.world import LawBroken, World

WEIGHTS: dict[str, float] = {
    "start": 30, "turn": 40, "disk": 25, "launcher": 25, "wire": 25, "thread": 15, "worker": 10, "time": 10,
    "submit": 4, "verb": 1, "flow": 1, "flow verb": 6, "queue verb": 0.5, "schedule verb": 0.5, "emit": 0.5,
    "plug": 0.5, "touch": 1, "load": 0.3, "use": 0.3, "launcher back": 1, "room on disk": 2, "descriptors back": 3,
}  # fmt: skip
REQUESTS = ("submit", "verb", "flow", "flow verb", "queue verb", "schedule verb")
HAPPENINGS = ("touch", "load", "use", "plug", "emit")
WORK = ("turn", "disk", "launcher", "wire", "thread", "worker")  # what goes on once something has happened
FAULT_RATE = 0.15
PATIENT_SHARE = 0.3
CALM_STEPS = 40_000
LOOK_AGAIN = 1_500
FOOTPRINT_STEPS = 3_000
STILL = """
SELECT jobs.id, state, reason, (SELECT run_id FROM attempts WHERE job_id = jobs.id AND ended_at IS NULL) FROM jobs
WHERE state IN ('waiting', 'queued', 'running')
    OR EXISTS (SELECT 1 FROM attempts WHERE job_id = jobs.id AND ended_at IS NULL)
"""


class Walk:
    """One walk through a world."""

    def __init__(self, chance: random.Random, *, lies: bool = False) -> None:
        self.chance = chance
        self.world = World(chance, pidfs=chance.random() < 0.5, lies=lies)
        # Each walk draws how often each kind of fault happens: some often, some never. With few requests the daemon
        # often has nothing to do, and then most laws are asked.
        self._odds = WEIGHTS | {name: FAULT_RATE * chance.choice([0, 0.3, 1, 3]) for name in FAULTS}
        self._odds |= {name: WEIGHTS[name] * chance.choice([0.05, 0.3, 1]) for name in REQUESTS}
        if chance.random() < PATIENT_SHARE:
            self._let_jobs_wait()
        self.actions: list[str] = []

    def _let_jobs_wait(self) -> None:
        """Most jobs wait for what happens on the host; few faults, and a quick daemon, so that it is often idle."""
        self.world.clients.patience = 0.9
        self._odds |= {name: self._odds[name] * 0.1 for name in FAULTS}
        self._odds |= {name: WEIGHTS[name] * 0.05 for name in REQUESTS if name != "submit"}
        self._odds |= {name: WEIGHTS[name] * 4 for name in HAPPENINGS}
        self._odds |= {name: WEIGHTS[name] * 8 for name in WORK}

    def let_lists_expand(self) -> None:
        """Most requests are workflows with a list that is known only as they run, and that reuse earlier ones."""
        self.world.flows.lists = 0.9
        self._odds |= {name: self._odds[name] * 0.2 for name in FAULTS}
        self._odds |= {name: WEIGHTS[name] * 0.1 for name in REQUESTS} | {"flow": 2}
        self._odds |= {name: WEIGHTS[name] * 4 for name in WORK}

    def go(self, steps: int) -> None:
        for _ in range(steps):
            self._step(self._odds)

    def go_on(self, steps: int) -> None:
        """The ordinary course of things, without faults."""
        for _ in range(steps):
            self._step(WEIGHTS)

    def _step(self, odds: dict[str, float]) -> None:
        names = possible(self.world, [name for name, weight in odds.items() if weight])
        self.happen(self.chance.choices(names, [odds[name] for name in names])[0])

    def happen(self, name: str) -> None:
        self.actions.append(name)
        self.world.do(name, ACTIONS[name])

    def calm_down(self) -> None:
        """End all faults and workers and let time pass; afterwards nothing that should end is left.

        A schedule may have left a thousand runs, one after the other: as long as less is left, it goes on.
        """
        world = self.world
        world.calm = world.places.calm = True
        world.disk.fails = None
        world.denials.end()
        odds = {name: WEIGHTS[name] for name in COURSE if name not in REQUESTS}
        odds |= {"launcher back": 20, "room on disk": 20, "clear held": 0.5, "let go on": 0.5, "end schedules": 20}
        for one in world.launchers.values():
            one.spawner.dies = False
        world.host.end_strangers()
        least, since = len(self.left()), 0
        for step in count():
            self._step(odds)
            if step % 200 == 199:
                left = self.left()
                if not left:
                    world.whole()
                    return
                if len(left) < least:
                    least, since = len(left), step
                elif step - since >= CALM_STEPS:
                    raise LawBroken(f"after {CALM_STEPS} further calm steps this has not ended: {left}")
            if step == LOOK_AGAIN and world.life is not None:
                self.happen("kill daemon")  # a start examines attempts again that could not be proven

    def left(self) -> list[str]:
        """The things that are left and should have ended."""
        world = self.world
        jobs = [f"job {row}" for row in world.disk.database.execute(STILL)]
        workers = [f"worker {one.run_id}" for one in world.host.workers()]
        outcomes = [f"outcomes of {name}" for name, lines in world.disk.outcomes.items() if lines]
        life = [] if world.life is not None and world.life.ready else ["no daemon"]
        old = [f"launcher {one.name}" for one in world.living()]
        tasks = [f"task {name}" for name in (world.life.tasks if world.life is not None else [])]
        return tasks + jobs + workers + outcomes + life + (old if len(old) > 1 else [])


def footprint(seed: int) -> str:
    """A summary of the actions of a walk and of their results."""
    walk = Walk(random.Random(seed))
    with simulated(walk.world):
        walk.go(FOOTPRINT_STEPS)
        tables = [
            *walk.actions,
            *walk.world.disk.database.execute("SELECT seq, at, subject, to_state, payload FROM changes"),
        ]
    return hashlib.sha256(repr(tables).encode()).hexdigest()
