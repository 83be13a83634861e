"""The RecoveryService: what an earlier life, or a dead launcher, left behind is handed to the loop.

Owns the order of a recovery (reconnect, gather facts, plan, check, commit, sweep) and the row that remembers it.
Refuses to be a second actor: `core.job.recovery` plans, and each decision becomes an ordinary event for the ordinary
`step`, all in one commit. A crash in the middle changes nothing: the next start plans again from what is true then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.core.job.model import Outcome, State
from stoker.core.job.recovery import Action, Fact, Finding, RecoveryPlan, plan, validate
from stoker.engine.attempt_inputs import AttemptInputs
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.messages import Settle
from stoker.executors.local import LocalExecutor
from stoker.process import evidence
from stoker.process import identity as identities
from stoker.process.client import LauncherClient
from stoker.process.launchers import LauncherDead, find_launchers, remove_remains
from stoker.process.messages import Exited, RunState
from stoker.process.messages import ListedRun as HeldRun
from stoker.process.outcomes import outcome_of, read_outcomes, remove_outcomes
from stoker.process.tree import stop_unborn, sweep
from stoker.process.work_files import WorkFiles
from stoker.store.instance import Instance
from stoker.store.recoveries import Recovery
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Telemetry
from stoker.upkeep.recovered import Followed, Recovered, Remembered, counts
from stoker.upkeep.safe_mode import SafeModeSwitch

PATIENCE_S = 5.0  # at most: what is silent for longer is recovered when it answers
LEAKED_GRACE_MS = 1_000
LOOK_AGAIN_S = 5.0


class RecoveryFindings(Struct, frozen=True):
    """What was looked at, what it said, and the valid plan that follows from it. `heard`: launchers that answered."""

    plan: RecoveryPlan
    runs: Sequence[OpenRun]
    findings: Mapping[str, Finding]
    testimony: evidence.Testimony
    heard: Mapping[str, LauncherClient]
    outcome_logs: Sequence[Path]

    @property
    def whole_logs(self) -> list[Path]:
        """Outcome logs that cannot have grown since they were read: a launcher writes only while nobody listens."""
        return [path for path in self.outcome_logs if self._is_whole(path.stem)]

    def _is_whole(self, launcher: str) -> bool:
        client = self.heard.get(launcher)
        return launcher not in self.testimony.silent if client is None else not client.lost


class RecoveryService:
    """Recovers at start, and whenever a launcher dies or comes back."""

    def __init__(
        self,
        memory: LiveState,
        inbox: Inbox,
        local: LocalExecutor,
        clock: Clock,
        telemetry: Telemetry,
        safe_mode: SafeModeSwitch,
        attempt_inputs: AttemptInputs,
        work_files: WorkFiles,
        background: BackgroundTasks,
        *,
        state_dir: Path,
        of: Instance,
        stuck_ms: int,
    ) -> None:
        self._memory = memory
        self._inbox = inbox
        self._local = local
        local.on_launcher_lost = self.launcher_lost
        self._clock = clock
        self._telemetry = telemetry
        self._safe_mode = safe_mode
        self._attempt_inputs = attempt_inputs
        self._work_files = work_files
        self._patience_s = min(PATIENCE_S, stuck_ms / 1_000)
        self._state_dir = state_dir
        self._instance = of.id
        self._of = of
        self._background = background.group()
        self._row = Recovery(epoch=of.epoch, started_at=clock.now().wall)
        self._ends: Mapping[State, int] = {}

    async def recover(self, limit_s: float) -> None:
        """At start: settle, adopt or stop everything that is open.

        Raises PlanInvalid, TimeoutError, or what a witness raised: then nothing was changed and no worker signalled.
        """
        async with asyncio.timeout(limit_s):
            late = await self._reconnect()
            found = await self._weigh_after_births(list(self._memory.runs.values()))
        self._take_over(found)
        followed = await self._follow(found, replace(self._row, **counts(found.plan)))
        assert followed.row is not None, "a start is remembered"
        self._row, self._ends = followed.row, followed.ends
        self._wait_for(found.testimony.silent, late)
        self._background.start("end of the recovery", self._finish(found))
        self._background.retry("looks at stuck attempts", self._keep_looking)

    def _wait_for(self, silent: frozenset[str], late: Mapping[str, asyncio.Task[LauncherDead | None]]) -> None:
        """Recover the runs of each silent launcher when it answers; one that did so since is only told of."""
        for launcher in sorted(silent):
            log(LogEvent.LAUNCHER_STUCK, launcher=launcher)
            self._recover_when_it_answers(launcher, late.get(launcher))
        for launcher in sorted(late.keys() - silent):
            self._background.start(f"late answer of {launcher}", self._answered(late[launcher], launcher))

    def launcher_lost(self, launcher: str) -> None:
        """Under a living daemon a launcher died, or only the connection to it: the same facts, the same events."""
        self._recover_when_it_answers(launcher, self._greet(launcher))

    def _recover_when_it_answers(self, launcher: str, greeting: asyncio.Task[LauncherDead | None] | None) -> None:
        """The runs of one launcher, however long it is silent; no other waits for it. None: it is connected already."""

        async def recover() -> None:
            await self._or_distrust(self._recover_late(launcher, greeting))

        self._background.retry(f"runs of launcher {launcher}", recover)

    async def _or_distrust(self, work: Awaitable[None]) -> bool:
        """Whether `work` came to its end. An OSError is for whoever tries again; any other error ends all trust."""
        try:
            await work
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a service boundary: nobody awaits this, and nobody owns the runs
            self._safe_mode.enter(error)
            return False
        return True

    async def _recover_late(self, launcher: str, greeting: asyncio.Task[LauncherDead | None] | None) -> None:
        if greeting is not None and not await self._answered(greeting, launcher):
            await stop_unborn(await self._unborn(), self._instance)
        await self._recover_runs_of(launcher)

    async def _answered(self, greeting: asyncio.Task[LauncherDead | None], launcher: str) -> bool:
        """Whether it is ours (again); else it is proven dead. A child of a dead launcher may still hold its lock."""
        dead = await asyncio.shield(greeting)
        log(LogEvent.LAUNCHER_BACK if dead is None else LogEvent.LAUNCHER_LOST, launcher=launcher, error=dead)
        return dead is None

    async def _recover_runs_of(self, launcher: str) -> None:
        await self._inbox.barrier()  # what it said before is decided first: who its workers are, and which have ended
        found = await self._weigh(self._runs_of(launcher), {launcher}, for_ever=True)
        self._take_over(found)
        await self._follow(found, None)
        await self._forget(found)
        self._local.retire_idle()

    def _runs_of(self, launcher: str) -> list[OpenRun]:
        """Without those that it was not told of yet: proven never started, which is told when they are to be sent."""
        runs = [run for run in self._memory.runs.values() if run.attempt.launcher == launcher]
        return [run for run in runs if not self._attempt_inputs.holds(run.attempt.run_id)]

    async def _keep_looking(self) -> None:
        """Whom nobody could prove may be gone, or proven, a moment later."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)  # nothing tells of the end of a process that is not known to be ours
            held = [run for run in self._memory.runs.values() if run.job.state is State.HELD]
            stuck = [run for run in held if not self._local.owns(run.attempt.run_id)]
            if stuck and not await self._or_distrust(self._look_again(stuck)):
                return

    async def _look_again(self, stuck: Sequence[OpenRun]) -> None:
        found = await self._weigh(stuck, {run.attempt.launcher for run in stuck})
        if found.plan.count(Action.HOLD_STUCK) + found.plan.count(Action.WAIT) < len(stuck):
            self._take_over(found)
            await self._follow(found, None)

    # --- launchers of earlier lives ---

    async def _reconnect(self) -> dict[str, asyncio.Task[LauncherDead | None]]:
        """Connect to every launcher that lives; those that are silent are left with their greetings under way."""
        alive = find_launchers(self._state_dir).alive
        greetings = {launcher: self._greet(launcher) for launcher in alive}
        if not greetings:
            return {}
        done, _ = await asyncio.wait(greetings.values(), timeout=self._patience_s)
        for launcher, greeting in greetings.items():
            if greeting in done and (dead := greeting.result()) is not None:
                log(LogEvent.LAUNCHER_LOST, launcher=launcher, error=dead)
        return {launcher: greeting for launcher, greeting in greetings.items() if greeting not in done}

    async def _unborn(self) -> dict[str, list[int]]:
        """Children of dead launchers between fork and exec, by launcher: they would begin to work later, unseen."""
        found = await asyncio.to_thread(identities.scan, self._instance)
        alive = set(find_launchers(self._state_dir).alive)  # after the look: one born in between is no remains
        return {launcher: pids for launcher, pids in found.launchers.items() if launcher not in alive}

    def _greet(self, launcher: str) -> asyncio.Task[LauncherDead | None]:
        """Take a launcher over, however long it is silent; the result says that it is dead, if it is."""

        async def greet() -> LauncherDead | None:
            try:
                await self._local.launchers.reconnect(launcher)
            except LauncherDead as dead:
                return dead
            return None

        return self._background.retry(f"greeting of launcher {launcher}", greet)

    # --- plan and follow ---

    async def _weigh_after_births(self, runs: Sequence[OpenRun]) -> RecoveryFindings:
        """The plan, with nobody left who could begin to work behind it; none is signalled before a plan is valid."""
        unborn = await self._unborn()
        found = await self._weigh(runs)
        if unborn:
            await stop_unborn(unborn, self._instance)
            found = await self._weigh(runs)
        return found

    async def _weigh(
        self, runs: Sequence[OpenRun], among: Collection[str] | None = None, *, for_ever: bool = False
    ) -> RecoveryFindings:
        """Facts, and a valid plan of them; only looks. `among`: the launchers to be asked; None at a start: all."""
        # Before anybody is asked: who lived then and says nothing is silent, even if it dies meanwhile.
        alive = set(find_launchers(self._state_dir).alive)
        attempts = [run.attempt for run in runs]
        clients = [client for client in self._local.launchers if among is None or client.launcher in among]
        heard = await evidence.ask_launchers(clients, attempts, None if for_ever else self._patience_s)
        names = {client.launcher: client for client, _ in heard}
        logs = [(path, said) for path, said in read_outcomes(self._state_dir) if among is None or path.stem in among]
        written = {exited.run_id: self._local.credit_stop(exited) for _, said in logs for exited in said}
        held = {run.run_id: (client, self._credited(run)) for client, answer in heard for run in answer}
        testimony = evidence.Testimony(held, written, frozenset(alive - names.keys()))
        findings = (
            evidence.of_a_copy(attempts)
            if among is None and self._of.copied
            else await evidence.gather(
                self._instance, attempts, testimony, self._of.foreign_epochs, self._of.hidden_epochs
            )
        )
        rows = [(run.job, run.attempt) for run in runs]
        made = plan(rows, findings, self._of.epoch)
        validate(made, rows)
        return RecoveryFindings(made, runs, findings, testimony, names, [path for path, _ in logs])

    def _credited(self, run: HeldRun) -> HeldRun:
        """With a stop of ours that its launcher slept through."""
        return run if run.exit is None else replace(run, exit=self._local.credit_stop(run.exit))

    def _take_over(self, found: RecoveryFindings) -> None:
        """Tell the executor who runs what, before the plan's effects reach it."""
        log(LogEvent.RECOVERY_PLANNED, **counts(found.plan))
        held_runs = found.testimony.held
        for run in found.runs:
            run_id = run.attempt.run_id
            finding = found.findings[run_id]
            if self._memory.by_run(run_id) is None:
                continue  # it was settled while we looked: nobody has it any more
            if run_id in held_runs:
                client, held = held_runs[run_id]
                self._local.own(run_id, client, run.job.spec.grace_ms)
                self._local.freeze([run_id], frozen=False)  # whoever froze it may have died before the thaw
                self._hear_again(client.launcher, held)
            elif finding.fact is Fact.ORPHANED:
                adopt = run.job.spec.survive and run.attempt.stop_reason is None
                # A main process that has ended still names the session in which its children may be.
                main = finding.identity or run.attempt.identity
                self._local.own_orphan(run_id, main, run.job.spec, adopt=adopt)
        ours = {run.attempt.run_id for run in found.runs}
        for run_id, (_, held) in held_runs.items():
            if run_id not in ours and held.exit is not None and held.state is RunState.ENDED:
                self._settle_unknown(held.exit)

    def _hear_again(self, launcher: str, held: HeldRun) -> None:
        """What was said of a run while nobody listened: since when it runs, and that its main process has ended."""
        if held.started is not None and held.state is not RunState.ENDED:
            self._local.receive(launcher, [held.started])
        if held.exit is not None and held.state is RunState.CLOSING:
            self._local.receive(launcher, [held.exit])

    async def _follow(self, found: RecoveryFindings, row: Recovery | None) -> Followed:
        outcomes = await asyncio.to_thread(self._outcomes, found)
        return await self._inbox.ask(Recovered(found.plan, outcomes, row))

    def _outcomes(self, found: RecoveryFindings) -> dict[str, Outcome]:
        """The outcomes that the plan settles with, and the results that their runs left."""
        specs = {run.attempt.run_id: run.job.spec for run in found.runs}
        outcomes = {}
        for decision in found.plan.decisions:
            if decision.action is Action.SETTLE and decision.finding.outcome is not None:
                run_id = decision.run_id
                outcomes[run_id] = self._work_files.with_results(run_id, specs[run_id], decision.finding.outcome)
        return outcomes

    async def _forget(self, found: RecoveryFindings) -> None:
        """Remove outcome logs once all that they say is committed."""
        written = found.testimony.written
        for exited in written.values():
            self._settle_unknown(exited)
        if found.outcome_logs:
            await self._inbox.barrier()
            remove_outcomes(found.whole_logs)

    def _settle_unknown(self, exited: Exited) -> None:
        """An outcome whose attempt is settled, or was never ours: acknowledged, and recorded if nobody knows it."""
        self._inbox.post(Settle(exited.run_id, outcome_of(exited)))

    async def _finish(self, found: RecoveryFindings) -> None:
        """What need not be over before the daemon is ready: tidying up, leaked processes, the end of the row."""
        await self._forget(found)
        for launcher in find_launchers(self._state_dir).dead:
            remove_remains(self._state_dir, launcher)
        swept = await self._sweep_leaked()
        self._row = replace(self._row, finished_at=self._clock.now().wall, swept=swept)
        self._inbox.post(Remembered(self._row))
        await self._inbox.barrier()
        self._telemetry.orphans_found(self._row.stopped + self._row.unseen)
        log(LogEvent.RECOVERY_FINISHED, swept=swept, **counts(found.plan))

    async def _sweep_leaked(self) -> int:
        """Stop processes of this instance that no open attempt owns."""
        found = await asyncio.to_thread(identities.scan, self._instance)
        leaked = [run_id for run_id in found.runs if run_id not in self._memory.jobs_by_run]
        if not leaked:
            return 0
        result = await sweep(self._instance, leaked, grace_ms=LEAKED_GRACE_MS)
        if result.killed or result.left:  # else they ended while we looked, as at any restart
            log(LogEvent.WORKER_LEAKED, processes=len(result.left), stopped=result.killed, runs=len(leaked))
        self._telemetry.zombies_cleaned(result.killed)
        return result.killed

    def describe(self) -> dict[str, object]:
        """What this start found and did, for `system.status`; `requeued failed held` are what became of unseen ends."""
        told = msgspec.structs.asdict(self._row)
        del told["plan"]
        finished = self._row.finished_at
        took_ms = None if finished is None else finished - self._row.started_at
        return told | {
            "failed": self._ends.get(State.FAILED, 0),
            "held": self._ends.get(State.HELD, 0),
            "took_ms": took_ms,
        }

    async def close(self) -> None:
        await self._background.close()
