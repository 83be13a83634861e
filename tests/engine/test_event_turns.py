"""Events for a single job, while messages of one turn and of the next are about the same event.

Owns a loop in which nothing starts, so that the test decides what is in a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.config import Config
from stoker.core.named_events import EmitParams
from stoker.core.requests import JobParams
from stoker.engine.inbox import Inbox, Message
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
REACHED = "SELECT reached FROM events"
GIVEN = "SELECT job_id, count(DISTINCT event_id) FROM job_events GROUP BY job_id ORDER BY job_id"


class Turns:
    """A loop in which nothing starts, and jobs that wait for an event."""

    def __init__(self, state: Opened) -> None:
        memory, still = LiveState(state.snapshot.queues, {}, 0, 0), Still()
        self._inbox = Inbox()
        self._loop = Loop(self._inbox, state.writer, memory, still, still, still, Stalls(Telemetry()), [self._inbox])
        self._intake = Intake(SpecDefaults(Config()), 60_000, 0)

    def submission(self, jobs: int) -> Submission:
        spec = JobParams(command="true", working_dir="/", wait_for="event:card")
        return Submission(self._intake, [spec] * jobs, 0, atomic=False)

    async def take(self, *messages: Message) -> None:
        """Take turns until nothing is left; the messages are in the first one, as many as it may have."""
        for message in messages:
            self._inbox.post(message)
        self._loop.stop()
        await self._loop.run()


@pytest.mark.parametrize("older", [EVENTS - 5, EVENTS + 5], ids=["fewer jobs than events", "more jobs than events"])
async def test_event_when_it_is_for_one_and_on_its_way_then_only_one_job_gets_it(state: Opened, older: int) -> None:
    """More events than one turn finds jobs for; newer jobs are stored in the same turn, and ask for what is kept."""
    turns = Turns(state)
    await turns.take(turns.submission(older))

    events = [Emission(EmitParams(name="card", one=True, keep_ms=9_000), 0) for _ in range(EVENTS)]
    await turns.take(*events, *(turns.submission(1) for _ in range(NEWER)))

    served = min(EVENTS, older + NEWER)
    given = await state.reader.run(lambda connection: connection.execute(GIVEN).fetchall())
    assert given == [(job, 1) for job in range(1, served + 1)]
    unused = await state.reader.run(lambda connection: connection.execute(UNUSED).fetchone())
    assert unused == (EVENTS - served,)


async def test_event_when_newer_jobs_get_it_on_its_way_then_all_are_counted(state: Opened) -> None:
    """More jobs wait than one turn serves; newer ones get the event before it has reached the rest."""
    turns = Turns(state)
    await turns.take(turns.submission(EVENTS))

    await turns.take(Emission(EmitParams(name="card", keep_ms=9_000), 0), turns.submission(NEWER))

    reached = await state.reader.run(lambda connection: connection.execute(REACHED).fetchone())
    assert reached == (EVENTS + NEWER,)
