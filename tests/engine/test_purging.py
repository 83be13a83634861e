"""The turn that removes rows: what other messages of the turn, runs and open jobs use is left for a later pass.

The loop, the writer and the messages are those of the daemon; the test decides which of them share a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.clock import Now
from stoker.core.job.conditions import ConditionGroup
from stoker.core.job.model import STOKER, Need, State
from stoker.core.retention import StillNeeded
from stoker.core.workflow.state import Workflow, WorkflowState
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store.directory import StateDirectory
from stoker.store.loading import Wanted, load
from stoker.store.open import open_state
from stoker.store.retention import Candidates, PurgePortion
from stoker.store.workflows import INSERT, insert_row
from stoker.upkeep.purging import Purging
from tests.support.batches import put
from tests.support.jobs import attempt, job, spec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stoker.core.job.model import Job
    from stoker.store.open import Opened

NOW = Now(1_000, 1_000)
ENDED_AT = 5


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[Opened]:
    """An open state directory with the ended jobs 1 to 4, of which 3 and 4 are steps of workflow 1."""
    directory = StateDirectory(tmp_path / "state")
    opened = await open_state(directory, "boot", 1, 0)
    await opened.writer.read(fill)
    yield opened
    for part in (opened.writer, opened.reader, opened.queries):
        await part.close()
    directory.unlock()


def fill(connection: sqlite3.Connection) -> None:
    steps: dict[str, Any] = {"workflow_id": 1}
    put(connection, [ended(1), ended(2), ended(3, step="a", **steps), ended(4, step="b", **steps)])
    of = Workflow(
        id=1,
        name="w",
        owner_uid=0,
        trace_id="t",
        flow='{"flow":{},"parameters":{},"steps":[]}',
        flow_hash=bytes(16),
        created_at=0,
        state=WorkflowState.SUCCEEDED,
        finished_at=ENDED_AT,
    )
    connection.execute(INSERT, insert_row(of))


def ended(ident: int, **fields: Any) -> Job:
    return job(State.SUCCEEDED, id=ident, finished_at=ENDED_AT, **fields)


def everything(at: int = ENDED_AT) -> Candidates:
    return Candidates({1: at, 2: at}, {1: at}, {1: [3, 4]})


async def removed(opened: Opened, memory: LiveState, candidates: Candidates, *ids: int) -> PurgePortion | None:
    """The jobs that a turn removes if another message of that turn has read the jobs `ids`."""
    wanted, purging = Wanted(NOW, ids=set(ids)), Purging(candidates, STOKER)
    purging.declare_reads(wanted)
    turn = Turn(memory, NOW, await opened.writer.read(load, wanted))
    purging.apply_to(turn)
    return turn.finish().purge


@pytest.fixture
def memory(state: Opened) -> LiveState:
    empty = LiveState(state.snapshot.queues, {}, 4, 0)
    empty.named_needs = StillNeeded()
    return empty


async def test_purge_when_nothing_uses_them_then_all_candidates_go(state: Opened, memory: LiveState) -> None:
    portion = await removed(state, memory, everything())

    assert portion == PurgePortion(NOW.wall, [1, 2], {1: [3, 4]})


async def test_purge_when_another_message_has_read_a_job_then_it_stays(state: Opened, memory: LiveState) -> None:
    assert await removed(state, memory, everything(), 1) == PurgePortion(NOW.wall, [2], {1: [3, 4]})


async def test_purge_when_jobs_ended_again_since_then_they_stay(state: Opened, memory: LiveState) -> None:
    assert await removed(state, memory, everything(at=ENDED_AT - 1)) is None


async def test_purge_when_an_attempt_is_in_memory_then_its_job_stays(state: Opened, memory: LiveState) -> None:
    memory.open(ended(2), attempt(ended(2)))

    portion = await removed(state, memory, everything())

    assert portion is not None
    assert portion.jobs == [1]


async def test_purge_when_a_step_is_used_then_its_whole_workflow_stays(state: Opened, memory: LiveState) -> None:
    memory.named_needs = StillNeeded(jobs={4})

    assert await removed(state, memory, everything()) == PurgePortion(NOW.wall, [1, 2], {})


async def test_purge_when_an_open_job_waits_for_them_then_they_stay(state: Opened, memory: LiveState) -> None:
    memory.enter(None, job(id=9, asked=spec(wait_for=ConditionGroup(all=("workflow:1", "job:2")))), None)

    assert await removed(state, memory, everything()) == PurgePortion(NOW.wall, [1], {})


async def test_purge_when_a_job_is_submitted_meanwhile_then_its_needs_stay(state: Opened, memory: LiveState) -> None:
    memory.enter(None, job(id=9, asked=spec(needs=(Need(job=2),))), None)
    memory.enter(None, ended(10, asked=spec(needs=(Need(job=1),))), None)

    portion = await removed(state, memory, everything())

    assert portion is not None
    assert portion.jobs == [1]


async def test_purge_when_its_pass_was_cancelled_then_its_message_removes_nothing(
    state: Opened, memory: LiveState
) -> None:
    purging, wanted = Purging(everything(), STOKER), Wanted(NOW)
    purging.declare_reads(wanted)
    turn = Turn(memory, NOW, await state.writer.read(load, wanted))
    purging.future.cancel()
    memory.named_needs = None

    purging.apply_to(turn)

    assert turn.finish().purge is None


async def test_purge_when_only_changes_may_go_then_a_turn_gives_them_up(state: Opened, memory: LiveState) -> None:
    assert await removed(state, memory, Candidates(changes=7)) == PurgePortion(NOW.wall, changes=7)
