"""A year of retention on the real database, in simulated time: rows, files, bytes, memory and starts stay as they were.

Owns a clock that the test sets, and the jobs of each week, which are written with their changes, checkpoints and logs.
Everything else is the daemon's: the loop, the writer, the messages and the service itself.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.config.settings import RetentionSettings
from stoker.core.job.model import Change, State
from stoker.core.requests import Purge
from stoker.core.workflow.checkpoint import Checkpoint
from stoker.engine.inbox import AnswerRequest, Inbox
from stoker.engine.loop import Loop
from stoker.engine.memory import LiveState
from stoker.engine.memory.users import LiveUsers
from stoker.engine.turn import Turn
from stoker.executors.launcher_pool import LauncherPool
from stoker.process.run_roots import RunRoots
from stoker.store import sizes, snapshot
from stoker.store.batch import Batch
from stoker.store.keys import NewKey
from stoker.telemetry.otel import Telemetry
from stoker.telemetry.stalls import Stalls
from stoker.upkeep import retention
from stoker.upkeep.leftovers import Leftovers
from stoker.upkeep.refusals import Refusals
from stoker.upkeep.retention import Retention
from stoker.upkeep.usage import Usage
from tests.support.clocks import SetClock
from tests.support.facts import until_async
from tests.support.jobs import attempt, checkpoint, exited, job

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from stoker.store.loading import Wanted
    from stoker.store.open import Opened

START = 1_700_000_000_000
DAY_MS = 86_400_000
WEEKS = 52
JOBS_A_WEEK = 70
TABLES = ("jobs", "attempts", "changes", "checkpoints", "idempotency", "purged_jobs", "checkpoint_purges")


class NoDispatch:
    def declare_reads(self, _wanted: Wanted) -> None: ...

    def dispatch(self, _turn: Turn) -> bool:
        return False


class Answering:
    """The one effect that retention needs."""

    def after_commit(self, turn: Turn) -> None:
        for effect in turn.effects:
            if isinstance(effect, AnswerRequest):
                effect.request.answer(effect.result)


class NoRefusals(Refusals):
    def __init__(self) -> None: ...

    def current(self) -> None: ...


class IdleLaunchers(LauncherPool):
    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.logs_when_caught_up = 0

    async def caught_up(self) -> None:
        self.logs_when_caught_up = len(list(self._logs.glob("*/*")))


class NoHooks:
    def trigger(self, turn: Turn) -> Iterator[int]:  # noqa: ARG002 - as its like
        return iter(())


class Year:
    """A daemon without jobs of its own, whose weeks the test makes."""

    def __init__(self, state: Opened, root: Path, config: Config) -> None:
        self.clock, self.root, self.state = SetClock(START), root, state
        self.memory = LiveState(state.snapshot.queues, {}, 0, 0)
        self.background = BackgroundTasks()
        self.launchers = IdleLaunchers(root / "logs")
        self.inbox = Inbox()
        telemetry = Telemetry()
        after_commit = [Answering()]
        self.loop = Loop(
            self.inbox, state.writer, self.memory, self.clock, NoDispatch(), NoHooks(), Stalls(telemetry), after_commit
        )
        reader = state.reader
        leftovers = Leftovers(reader, state.writer, self.memory, RunRoots(root), self.launchers)
        usage = Usage(reader, root / "stoker.db", self.clock, LiveUsers())
        self.retention = Retention(
            config,
            reader,
            self.inbox,
            self.memory,
            self.clock,
            leftovers,
            usage,
            telemetry,
            self.background,
            NoRefusals(),
            None,
        )

    async def week(self) -> None:
        """Let the jobs of a week end, then make a pass of retention."""
        first = self.memory.last_id + 1
        for batch in self._ended(range(first, first + JOBS_A_WEEK)):
            await self.state.writer.commit(batch)
        self.memory.committed_seq = self.memory.last_seq
        self.clock.steady += 7 * DAY_MS
        self.retention.tick()
        assert self.background.is_running("retention")
        await until_async(lambda: not self.background.is_running("retention"))

    def _ended(self, ids: Sequence[int]) -> tuple[Batch, Batch]:
        """Their start and their end."""
        batch, end = Batch(), Batch()
        for ident in ids:
            at = self.clock.steady + ident % JOBS_A_WEEK
            of = job(State.FAILED if ident % 3 == 0 else State.SUCCEEDED, id=ident, finished_at=at, attempts=1)
            batch.new_jobs[ident] = of
            run = attempt(of, outcome=exited(), ended_at=at)
            batch.new_attempts[run.run_id] = end.attempts[run.run_id] = run
            batch.keys.append(NewKey(1000, f"k{ident}", bytes(16), ident, at))
            batch.checkpoints.append(_saved(ident, at))
            batch.changes += [self._change(ident, at, state) for state in ("queued", "running", of.state.value)]
            log = self.root / "logs" / str(ident // 1000) / str(ident) / "1.log"
            log.parent.mkdir(parents=True)
            log.write_text("hello\n")
        self.memory.last_id = ids[-1]
        return batch, end

    def _change(self, ident: int, at: int, to: str) -> Change:
        self.memory.last_seq += 1
        payload: dict[str, Any] = {"state": to}
        return Change(
            seq=self.memory.last_seq,
            at=at,
            kind="job",
            subject=str(ident),
            from_state=None,
            to_state=to,
            cause="submitted",
            actor_uid=0,
            payload=payload,
        )

    async def measured(self) -> dict[str, int]:
        """Rows by table, log directories, bytes of the database and of the memory, and the work of a start."""

        def counts(connection: sqlite3.Connection) -> dict[str, int]:
            return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}

        await self.state.writer.checkpoint()
        rows = await self.state.reader.run(counts)
        space = await self.state.reader.run(sizes.space)
        logs = len(list(self.root.glob("logs/*/*")))
        rows |= {"logs": logs, "buckets": len(list(self.root.glob("logs/*"))), "bytes": space.database}
        return rows | {"memory": held_bytes(self.memory), "start": await self.state.reader.run(start_steps)}


def held_bytes(root: object) -> int:
    """The bytes of all values that are reached from `root`."""
    seen, left = {id(root)}, [root]
    for one in left:
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, type | ModuleType | FunctionType):
                seen.add(id(other))
                left.append(other)
    return sum(map(sys.getsizeof, left))


def start_steps(connection: sqlite3.Connection) -> int:
    """How many steps SQLite takes for all that a start reads."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(count, 1)
    snapshot.read(connection)
    connection.set_progress_handler(None, 0)
    return steps


def _saved(ident: int, at: int) -> Checkpoint:
    return checkpoint(bytes(2_000), id=ident, chain=f"j{ident}", at=at, job_id=ident)


@asynccontextmanager
async def year(state: Opened, root: Path, **keep: Any) -> AsyncIterator[Year]:
    started = Year(state, root, Config(retention=RetentionSettings(**{"keep_last": 10, "every_ms": 1_000, **keep})))
    turns = asyncio.ensure_future(started.loop.run())
    try:
        yield started
    finally:
        started.loop.stop()
        await turns
        await started.background.close()


@pytest.mark.timeout(600)
async def test_year_when_jobs_end_every_week_then_the_state_stays_as_after_two_months(
    state: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "QUIET", 0.0)
    async with year(state, tmp_path / "state") as weeks:
        for _ in range(WEEKS // 4):
            await weeks.week()
        quarter = await weeks.measured()
        for _ in range(WEEKS - WEEKS // 4):
            await weeks.week()
        end = await weeks.measured()

    assert end["jobs"] == quarter["jobs"] == 4 * JOBS_A_WEEK
    assert end["logs"] == end["attempts"] == end["jobs"]
    assert end["idempotency"] == quarter["idempotency"] == 9 * JOBS_A_WEEK
    assert (end["purged_jobs"], end["checkpoint_purges"]) == (0, 0)
    assert end["changes"] <= quarter["changes"] * 1.1
    assert end["buckets"] <= 3
    assert end["bytes"] <= quarter["bytes"] * 1.1
    assert 0 < end["memory"] <= quarter["memory"] * 1.1
    assert 0 < end["start"] <= quarter["start"] * 1.1


async def test_pass_when_few_jobs_ended_then_the_newest_stay_however_old(state: Opened, tmp_path: Path) -> None:
    async with year(state, tmp_path / "state", keep_last=2 * JOBS_A_WEEK) as weeks:
        for _ in range(4):
            await weeks.week()
        weeks.clock.steady += 100 * DAY_MS
        await weeks.week()

        assert (await weeks.measured())["jobs"] == 2 * JOBS_A_WEEK


async def test_pass_when_logs_may_go_then_they_do_once_no_launcher_makes_another(state: Opened, tmp_path: Path) -> None:
    async with year(state, tmp_path / "state", keep="1h", keep_failed="1h", keep_last=0) as weeks:
        await weeks.week()

        assert weeks.launchers.logs_when_caught_up == JOBS_A_WEEK
        assert (await weeks.measured())["logs"] == 0


async def test_pass_when_clients_ask_for_previews_then_it_still_removes(state: Opened, tmp_path: Path) -> None:
    async with year(state, tmp_path / "state", keep="1h", keep_failed="1h", keep_last=0) as weeks:

        async def ask_for_ever() -> None:
            while True:
                await weeks.retention.preview(Purge(before=weeks.clock.steady))

        asking = [asyncio.ensure_future(ask_for_ever()) for _ in range(2)]
        await weeks.week()
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)

        assert (await weeks.measured())["jobs"] == 0


async def test_pass_when_failed_ones_are_kept_for_ever_then_only_they_stay(state: Opened, tmp_path: Path) -> None:
    async with year(state, tmp_path / "state", keep="1h", keep_failed="forever", keep_last=0) as weeks:
        await weeks.week()
        await weeks.week()

        assert (await weeks.measured())["jobs"] == 2 * JOBS_A_WEEK // 3
