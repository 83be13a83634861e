"""Pids of jobs of a user that are used again by processes of other users: none of them is signalled or adopted.

Owns the users of the decoys: the user of the jobs, another one, the daemon's own, whom the daemon may signal, and root.
Decoys of others have the mark of the run on top. `make test-faults` lets a thousand numbers be used again.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import reuse
from tests.support.crowd import ENDS, Crowd, strike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.run_as import RunAsDaemon

FAULTS = int(os.environ.get("STOKER_FAULTS", "0"))
WORKERS = 8 if FAULTS == 0 else 32
REUSES = max(WORKERS // 2, 334 * FAULTS // 300)  # at each of three moments
MISSING = reuse.why_not()
SETTINGS = f"[daemon]\nmax_running = {WORKERS + 2}\n"

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.timeout(300 + 10 * REUSES),
]


@pytest.fixture
def crowd(system: RunAsDaemon) -> Iterator[Crowd]:
    user, other = system.add_user("worker"), system.accounts.add("stranger")
    strangers = [other.pw_uid, system.user.pw_uid, 0, user.pw_uid]
    submitted = Crowd(system, WORKERS, partial(system.client_of, user), user=user.pw_uid, strangers=strangers)
    try:
        yield submitted
    finally:
        submitted.leave()
        system.accounts.remove_user(user)
        system.accounts.remove_user(other)


@pytest.mark.parametrize("happen", ENDS)
def test_strangers_of_any_user_when_they_have_pids_of_jobs_then_none_is_signalled(
    crowd: Crowd, happen: Callable[[Crowd], None]
) -> None:
    strike(crowd, happen, REUSES)
