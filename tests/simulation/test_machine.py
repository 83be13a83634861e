"""The same world under hypothesis: few steps, chosen so that a failure can be shrunk to the fewest of them.

Owns the rules: a stretch of the ordinary course, one happening by name, calm at the end. The long walk is in
test_walk.py.
"""

from __future__ import annotations

import os
import random

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.simulation.happenings import ACTIONS, COURSE, FAULTS, POSSIBLE, RELIEF
from tests.simulation.seams import simulated
from tests.simulation.walk import Walk

EXAMPLES = max(40, int(os.environ.get("STOKER_FAULTS", "0")))
luck = st.integers(0, 1 << 16)


class Machine(RuleBasedStateMachine):
    """All random choices come from hypothesis, so that it can shrink a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.walk = Walk(random.Random(0))
        self._seams = simulated(self.walk.world)
        self._seams.__enter__()

    @rule(luck=luck, steps=st.sampled_from([1, 5, 30]))
    def go_on(self, luck: int, steps: int) -> None:
        self.walk.chance.seed(luck)
        self.walk.go_on(steps)

    @rule(luck=luck, name=st.sampled_from(sorted(FAULTS)))
    def fault(self, luck: int, name: str) -> None:
        self._happen(luck, name)

    @rule(luck=luck, name=st.sampled_from(sorted(COURSE | RELIEF)))
    def one_thing(self, luck: int, name: str) -> None:
        self._happen(luck, name)

    def _happen(self, luck: int, name: str) -> None:
        if name not in POSSIBLE or POSSIBLE[name](self.walk.world):
            self.walk.chance.seed(luck)
            self.walk.happen(name)

    def teardown(self) -> None:
        try:
            if self.walk.world.laws.first is None:
                self.walk.chance.seed(0)
                self.walk.calm_down()
        finally:
            self._seams.__exit__(None, None, None)


@pytest.mark.timeout(1_800 + 2 * EXAMPLES)
def test_machine_when_events_come_in_any_order_then_no_law_is_broken_and_all_ends(seed: int) -> None:
    assert sorted(ACTIONS) == sorted([*COURSE, *FAULTS, *RELIEF])

    run_state_machine_as_test(
        hypothesis.seed(seed)(Machine),
        settings=settings(max_examples=EXAMPLES, stateful_step_count=30, database=None),
    )
