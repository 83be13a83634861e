"""The token of an attempt: it names its run, and cannot be made for another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import StaleAttempt
from stoker.core.tokens import Tokens

TOKENS = Tokens("ab" * 32)
RUN = "42.3.0123456789abcdef"


def test_token_when_it_is_ours_then_it_names_its_run() -> None:
    assert TOKENS.run_of(TOKENS.of(RUN)) == RUN


def test_token_when_made_by_another_instance_then_it_is_refused() -> None:
    with pytest.raises(StaleAttempt):
        TOKENS.run_of(Tokens("cd" * 32).of(RUN))


@given(st.text(max_size=80))
def test_token_when_invented_then_it_is_refused(text: str) -> None:
    with pytest.raises(StaleAttempt):
        TOKENS.run_of(text)


def test_token_when_moved_to_another_run_then_it_is_refused() -> None:
    mac = TOKENS.of(RUN).rpartition(":")[2]

    with pytest.raises(StaleAttempt):
        TOKENS.run_of(f"42.4.0123456789abcdef:{mac}")
