"""Events for a single job, while messages of one turn and of the next are about the same event.

Owns a loop in which nothing starts, so that the test decides what is in a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.config import Config
from stoker.core.named_events import EmitParams
from stoker.core.requests import JobParams
from stoker.engine.inbox import Inbox
from stoker.engine.intake import Intake
from stoker.engine.loop import Loop
from stoker.engine.memory import LiveState
from stoker.engine.named_events import Emission
from stoker.engine.spec_defaults import SpecDefaults
from stoker.engine.submit import Submission
from stoker.store.loading import DEPENDENTS_LIMIT
from stoker.telemetry.otel import Telemetry
from stoker.telemetry.stalls import Stalls
from tests.support.still import Still

if TYPE_CHECKING:
    from stoker.store.open import Opened

EVENTS = DEPENDENTS_LIMIT + 20
NEWER = 10  # jobs
UNUSED = "SELECT count(*) FROM events WHERE reached = 0"
GIVEN = "SELECT job_id, count(DISTINCT event_id) FROM job_events GROUP BY job_id ORDER BY job_id"


@pytest.mark.parametrize("older", [EVENTS - 5, EVENTS + 5], ids=["fewer jobs than events", "more jobs than events"])
async def test_event_when_it_is_for_one_and_on_its_way_then_only_one_job_gets_it(state: Opened, older: int) -> None:
    """More events than one turn finds jobs for; newer jobs are stored in the same turn, and ask for what is kept."""
    memory, inbox, still = LiveState(state.snapshot.queues, {}, 0, 0), Inbox(), Still()
    loop = Loop(inbox, state.writer, memory, still, still, still, Stalls(Telemetry()), [inbox])
    intake = Intake(SpecDefaults(Config()), 60_000, 0)
    spec = JobParams(command="true", working_dir="/", wait_for="event:card")
    inbox.post(Submission(intake, [spec] * older, 0, atomic=False))
    loop.stop()
    await loop.run()

    for _ in range(EVENTS):
        inbox.post(Emission(EmitParams(name="card", one=True, keep_ms=9_000), 0))
    for _ in range(NEWER):
        inbox.post(Submission(intake, [spec], 0, atomic=False))
    loop.stop()
    await loop.run()

    served = min(EVENTS, older + NEWER)
    given = await state.reader.run(lambda connection: connection.execute(GIVEN).fetchall())
    assert given == [(job, 1) for job in range(1, served + 1)]
    unused = await state.reader.run(lambda connection: connection.execute(UNUSED).fetchone())
    assert unused == (EVENTS - served,)
