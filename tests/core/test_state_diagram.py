"""The diagram in ARCHITECTURE.md equals the one that is generated from the table."""

from __future__ import annotations

from stoker.core.job.model import State
from tests.support.state_diagram import ARCHITECTURE, edges, inserted


def test_diagram_when_drawn_anew_then_it_is_the_one_in_the_document() -> None:
    text = ARCHITECTURE.read_text()

    assert inserted(text) == text, "python -m tests.support.state_diagram draws it"


def test_edges_when_listed_then_every_state_and_unsafe_end_is_among_them() -> None:
    kinds = edges()

    assert {after for _, after in kinds} == set(State)
    assert "Ended" in kinds[State.RUNNING, State.HELD]
