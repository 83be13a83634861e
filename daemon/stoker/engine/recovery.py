"""The RecoveryService: what an earlier life, or a dead launcher, left behind is handed to the loop.

Owns the order of a recovery (reconnect, gather facts, plan, check, commit, sweep) and the row that remembers it.
Refuses to be a second actor: `core.recovery` plans, and each decision becomes an ordinary event for the ordinary
`step`, all in one commit. A crash in the middle changes nothing: the next start plans again from what is true then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from stoker.core import events as ev
from stoker.core.clock import Clock
from stoker.core.recovery import Action, Decision, Fact, Finding, RecoveryPlan, event_of, plan, validate
from stoker.engine.book import Book, Run
from stoker.engine.inbox import Message, Settle
from stoker.engine.loop import Loop
from stoker.engine.turn import Turn
from stoker.executors.base import Ended
from stoker.executors.local import LocalExecutor
from stoker.process import evidence
from stoker.process import identity as identities
from stoker.process.capture import log_of, remove_empty
from stoker.process.launchers import find_launchers, remove_remains
from stoker.process.messages import Exited, RunState
from stoker.process.messages import Run as HeldRun
from stoker.process.outcomes import outcome_of, read_outcomes, remove_outcomes
from stoker.process.tree import stop_processes, sweep
from stoker.store.instance import Instance
from stoker.store.recoveries import Recovery
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Telemetry

GREETING_S = 5.0
LEAKED_GRACE_MS = 1_000


class RecoveryService:
    """Recovers at start, and whenever a launcher dies or comes back."""

    def __init__(
        self, book: Book, loop: Loop, local: LocalExecutor, clock: Clock, telemetry: Telemetry, *, state_dir: Path,
        of: Instance,
    ) -> None:  # fmt: skip
        self._book = book
        self._loop = loop
        self._local = local
        self._clock = clock
        self._telemetry = telemetry
        self._state_dir = state_dir
        self._instance = of.id
        self._of = of
        self._tasks: set[asyncio.Task[None]] = set()
        self.last = Recovery(epoch=of.epoch, started_at=clock.now().wall)

    async def recover(self) -> None:
        """At start: settle, adopt or stop everything that is open. Raises PlanInvalid: then nothing was changed."""
        silent = await self._reconnect()
        await self._stop_unborn()
        outcomes = read_outcomes(self._state_dir)
        written = {exited.run_id: exited for _, found in outcomes for exited in found}
        made = await self._plan(list(self._book.runs.values()), written, silent, copied=self._of.copied)
        self.last = replace(self.last, plan=msgspec.json.encode(made.decisions).decode(), **_counts(made))
        await self._follow(made, self.last)
        self._spawn(self._finish(made, outcomes, written))

    async def launcher_lost(self, launcher: str) -> None:
        """A launcher died under a living daemon: the same facts, the same events."""
        if not await self._came_back(launcher):
            await self._stop_unborn()
        await self._recover_runs_of(launcher)

    async def _came_back(self, launcher: str) -> bool:
        """Whether only the connection was lost. A child of a dead launcher may still hold its lock: nobody answers."""
        if launcher not in find_launchers(self._state_dir).alive:
            return False
        try:
            await self._local.launchers.reconnect(launcher)
        except OSError as error:
            log(LogEvent.LAUNCHER_LOST, launcher=launcher, error=error)
            return False
        return True

    async def _recover_runs_of(self, launcher: str) -> None:
        outcomes = [(path, found) for path, found in read_outcomes(self._state_dir) if path.stem == launcher]
        written = {exited.run_id: exited for _, found in outcomes for exited in found}
        runs = [run for run in self._book.runs.values() if run.attempt.launcher == launcher]
        made = await self._plan(runs, written, ())
        await self._follow(made, None)
        await self._forget(outcomes, written)

    # --- launchers of earlier lives ---

    async def _reconnect(self) -> set[str]:
        """Connect to every launcher that lives; those that do not answer are recovered when they do."""
        alive, dead = find_launchers(self._state_dir)
        for launcher in dead:
            remove_remains(self._state_dir, launcher)
        greetings = {asyncio.ensure_future(self._local.launchers.reconnect(launcher)): launcher for launcher in alive}
        if not greetings:
            return set()
        done, late = await asyncio.wait(greetings, timeout=GREETING_S)
        for greeting in done:
            if greeting.exception() is not None:
                log(LogEvent.LAUNCHER_LOST, launcher=greetings[greeting], error=greeting.exception())
        for greeting in late:
            log(LogEvent.LAUNCHER_STUCK, launcher=greetings[greeting])
            self._spawn(self._recover_late(greeting, greetings[greeting]))
        return {greetings[greeting] for greeting in late}

    async def _stop_unborn(self) -> None:
        """Children of dead launchers between fork and exec would begin to work later: they end before anything else."""
        found = await asyncio.to_thread(identities.scan, self._instance)
        alive = set(find_launchers(self._state_dir).alive)  # after the look: one born in between is no remains
        unborn = [pid for launcher, pids in found.launchers.items() if launcher not in alive for pid in pids]
        await stop_processes(unborn, self._instance)

    async def _recover_late(self, greeting: asyncio.Task[Any], launcher: str) -> None:
        await asyncio.wait([greeting])
        await self._recover_runs_of(launcher)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- plan and follow ---

    async def _plan(
        self, runs: Sequence[Run], written: Mapping[str, Exited], silent: Collection[str], *, copied: bool = False
    ) -> RecoveryPlan:
        attempts = [run.attempt for run in runs]
        testimony = await evidence.hear(list(self._local.launchers), attempts, written, silent)
        findings = (
            evidence.of_a_copy(attempts)
            if copied
            else await evidence.find(self._instance, attempts, testimony, self._of.foreign_epochs)
        )
        rows = [(run.job, run.attempt) for run in runs]
        made = plan(rows, findings)
        validate(made, rows)
        log(LogEvent.RECOVERY_PLANNED, **_counts(made))
        self._take_over(runs, findings, testimony)
        return made

    def _take_over(self, runs: Sequence[Run], findings: Mapping[str, Finding], testimony: evidence.Testimony) -> None:
        """Tell the executor who runs what, before the plan's effects reach it."""
        for run in runs:
            run_id = run.attempt.run_id
            finding = findings[run_id]
            if run_id in testimony.held:
                client, held = testimony.held[run_id]
                self._local.own(run_id, client, run.job.spec.grace_ms)
                self._local.freeze([run_id], frozen=False)  # whoever froze it may have died before the thaw
                self._hear_again(client.launcher, held)
            elif finding.fact is Fact.ORPHANED:
                adopt = run.job.spec.survive and run.attempt.stop_reason is None
                self._local.own_orphan(run_id, finding.identity, run.job.spec.grace_ms, adopt=adopt)
        ours = {run.attempt.run_id for run in runs}
        for run_id, (_, held) in testimony.held.items():
            if run_id not in ours and held.exit is not None and held.state is RunState.ENDED:
                self._settle_unknown(held.exit)

    def _hear_again(self, launcher: str, held: HeldRun) -> None:
        """What was said of a run while nobody listened: since when it runs, and that its main process has ended."""
        if held.started is not None and held.state is not RunState.ENDED:
            self._local.hear(launcher, [held.started])
        if held.exit is not None and held.state is RunState.CLOSING:
            self._local.hear(launcher, [held.exit])

    async def _follow(self, made: RecoveryPlan, row: Recovery | None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop.post(Recovered(made, row, done))
        await done

    async def _forget(self, outcomes: Sequence[tuple[Path, Sequence[Exited]]], written: Mapping[str, Exited]) -> None:
        """Remove outcome logs, and logs that nothing was written to, once all that they say is committed."""
        for exited in written.values():
            self._settle_unknown(exited)
        if outcomes:
            await self._loop.barrier()
            remove_outcomes([path for path, _ in outcomes])
            empty = [exited.run_id for exited in written.values() if not exited.log_bytes]
            await asyncio.to_thread(remove_empty, [log_of(self._state_dir, run_id) for run_id in empty])

    def _settle_unknown(self, exited: Exited) -> None:
        """An outcome whose attempt is settled, or was never ours: acknowledged, and recorded if nobody knows it."""
        ended = Ended(exited.run_id, outcome_of(exited))
        self._loop.post(Settle(ended, self._local.acknowledge_unknown))

    async def _finish(
        self,
        made: RecoveryPlan,
        outcomes: Sequence[tuple[Path, Sequence[Exited]]],
        written: Mapping[str, Exited],
    ) -> None:
        """What need not be over before the daemon is ready: tidying up, leaked processes, the end of the row."""
        await self._forget(outcomes, written)
        swept = await self._sweep_leaked()
        self.last = replace(self.last, finished_at=self._clock.now().wall, swept=swept)
        await self._follow(RecoveryPlan(), self.last)
        self._telemetry.orphans_found(self.last.stopped + self.last.unseen)
        log(LogEvent.RECOVERY_FINISHED, swept=swept, **_counts(made))

    async def _sweep_leaked(self) -> int:
        """Stop processes of this instance that no open attempt owns."""
        found = await asyncio.to_thread(identities.scan, self._instance)
        leaked = [run_id for run_id in found.runs if run_id not in self._book.jobs_by_run]
        if not leaked:
            return 0
        result = await sweep(self._instance, leaked, grace_ms=LEAKED_GRACE_MS)
        log(LogEvent.WORKER_LEAKED, processes=result.killed, runs=len(leaked))
        self._telemetry.zombies_cleaned(result.killed)
        return result.killed

    def describe(self) -> dict[str, object]:
        """What the last start found, for `system.status`."""
        told = msgspec.structs.asdict(self.last)
        del told["plan"]
        return told

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Recovered(Message):
    """A plan as a message: all of its decisions are one turn, and so one commit."""

    def __init__(self, made: RecoveryPlan, row: Recovery | None, done: asyncio.Future[None]) -> None:
        self._made = made
        self._row = row
        self._done = done

    def decide(self, turn: Turn) -> None:
        turn.batch.recovery = self._row
        for decision in self._made.decisions:
            _carry_out(turn, decision)
        turn.answers.append(lambda: self._done.set_result(None))


def _carry_out(turn: Turn, decision: Decision) -> None:
    run = turn.book.by_run(decision.run_id)
    if run is None:
        return  # it ended between the look and now, and its end was heard
    event = event_of(decision)
    if event is not None:
        turn.step(decision.job_id, event)
    elif decision.action is Action.STOP:
        turn.effects.append(ev.Stop(decision.run_id, run.job.spec.grace_ms))


def _counts(made: RecoveryPlan) -> dict[str, int]:
    return {
        "settled": made.count(Action.SETTLE),
        "adopted": made.count(Action.ADOPT),
        "stopped": made.count(Action.STOP),
        "requeued": made.count(Action.REQUEUE),
        "unseen": made.count(Action.UNSEEN),
        "stuck": made.count(Action.HOLD_STUCK),
    }
