"""The seed of a simulation: printed by each test, and given by STOKER_SEED to play one again."""

from __future__ import annotations

import os
import secrets

import pytest


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("STOKER_SEED", secrets.randbelow(1 << 32)))
