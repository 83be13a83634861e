"""Long random walks through the simulated world: no law is ever broken, and afterwards everything comes to its end.

Owns the length and the odds. `STOKER_SEED=` walks the same way again, `STOKER_FAULTS=N` walks further.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.flows import VERBS
from tests.simulation.happenings import FAULTS
from tests.simulation.seams import simulated
from tests.simulation.walk import Walk
from tests.simulation.world import LawBroken

# The observable effect of each fault, by which it counts.
CONSEQUENCES = (
    "EAGAIN on connect",
    "died in spawn",
    "denied by the host",
    "task tried again",
    "descriptors back",
    "storage failed",
    "launcher back",
    "room on disk",
    "drained",
    "pid used again",
    "emptied environment",
    "became root",
    "nameless child",
    "changed before a look",
    "changed after a look",
    "notices lost",
)
LOOKS = (
    "order", "start", "rate", "supersede", "unsafe start", "use", "signal", "acknowledgement", "answer", "refusal",
    "answers", "commit", "slot", "overlap", "due", "idle", "kept", "memory", "flows", "chain", "whole",
    "event", "conditions", "holding", "file", "awaited file", "hook", "hook refused", "expanded", "inner limit",
    "skipped", "user at its limit", "job of another",
)  # fmt: skip
STEPS = 140_000
EPISODE = 2_500
LENGTH = max(1, int(os.environ.get("STOKER_FAULTS", "0")) // 50)
LIST_EPISODES = 4
LIST_SEED = 304  # of walks that are short, so that some would meet no list at all
CONTROLS = 5
CONTROL_STEPS = 600
ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(1_800 * LENGTH)
def test_world_when_walked_at_random_then_no_law_is_broken_and_all_ends(seed: int) -> None:
    episodes = STEPS // EPISODE * LENGTH
    done: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    verbs: Counter[str] = Counter()

    for number in range(episodes):
        walk = Walk(random.Random(f"{seed}/{number}"))
        with simulated(walk.world):
            walk.go(EPISODE)
            walk.calm_down()
        done += walk.world.done
        looks += walk.world.laws.looks
        verbs += walk.world.flow_laws.verbs

    faults = {name: done[name] for name in (*FAULTS, *CONSEQUENCES)}
    sys.stdout.write(f"seed {seed}: {done.total()} steps, faults {faults}, looks {dict(looks)}, verbs {dict(verbs)}\n")
    assert done.total() >= STEPS
    assert all(faults.values()), "a fault that never fired proves nothing"
    assert [name for name in LOOKS if not looks[name]] == [], "a law that nobody asks proves nothing"
    assert [name for name in VERBS if not verbs[name]] == []


def test_world_when_lists_expand_in_runs_that_reuse_others_then_no_law_is_broken(seed: int) -> None:
    """The same few walks each time; further ones with `STOKER_FAULTS=N`, or from `STOKER_SEED`."""
    start = LIST_SEED if LENGTH == 1 and "STOKER_SEED" not in os.environ else seed
    reused = 0

    for number in range(LIST_EPISODES * LENGTH):
        walk = Walk(random.Random(f"{start}/{number}"))
        walk.let_lists_expand()
        with simulated(walk.world):
            walk.go(EPISODE)
            walk.calm_down()
        reused += walk.world.laws.looks["reused in an expansion"]

    sys.stdout.write(f"seed {start}: {reused} looks at expansions that reused steps\n")
    assert reused, "a law that nobody asks proves nothing"


def test_world_when_the_disk_lies_then_the_laws_notice(seed: int) -> None:
    """The negative control: a disk that loses what it reported as written must break a law."""
    noticed = losses = 0

    for number in range(CONTROLS):
        walk = Walk(random.Random(f"{seed}/{number}"), lies=True)
        with simulated(walk.world):
            try:
                walk.go_on(CONTROL_STEPS)
                walk.happen("power loss")
                losses += 1
                walk.go_on(CONTROL_STEPS)
            except LawBroken:
                noticed += 1

    sys.stdout.write(f"seed {seed}: {losses} losses of power on a disk that lies, {noticed} noticed\n")
    assert losses == CONTROLS
    assert noticed


def test_world_when_a_seed_is_walked_again_then_everything_happens_as_before(seed: int) -> None:
    """This must also hold in another process, where sets of strings have another order."""
    walked = {
        subprocess.run(
            [sys.executable, "-c", f"from tests.simulation.walk import footprint; print(footprint({seed}))"],
            env={**os.environ, "PYTHONHASHSEED": order},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for order in ("1", "2")
    }

    assert len(walked) == 1
    assert walked.pop().strip()
