"""The RecoveryService: attempts that an earlier daemon, or a dead launcher, left open get their outcome.

Owns the order of a recovery (reconnect, gather facts, plan, validate, commit, sweep) and the row that records it.
`core.job.recovery` plans; each decision becomes an ordinary event, and all are one commit. After a crash the next start
plans again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import Clock
from stoker.core.job.model import CLUSTER, State
from stoker.core.job.recovery import Action, Fact, Finding, plan, validate
from stoker.engine.attempt_inputs import AttemptInputs
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.reports import Settle
from stoker.engine.step_files import StepEnd, StepFiles
from stoker.engine.turn import Turn
from stoker.executors.local import LocalExecutor
from stoker.process import evidence
from stoker.process import identity as identities
from stoker.process.launchers import LauncherDead, find_launchers, remove_remains
from stoker.process.messages import Exited, RunState
from stoker.process.messages import ListedRun as HeldRun
from stoker.process.outcomes import outcome_of, read_outcomes, remove_outcomes
from stoker.process.stopping import stop_unborn, sweep
from stoker.process.work_files import WorkFiles
from stoker.store.instance import Instance
from stoker.store.recoveries import Recovery
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.telemetry.otel import Counted, Telemetry
from stoker.upkeep.recovery_findings import RecoveryFindings
from stoker.upkeep.recovery_messages import Followed, Recovered, Remembered, counts
from stoker.upkeep.safe_mode import SafeModeSwitch

if TYPE_CHECKING:
    from stoker.core.daemon_views import RecoveryStatus

PATIENCE_S = 5.0  # a launcher that is silent for longer is recovered when it answers
LEAKED_GRACE_MS = 1_000
RECHECK_S = 5.0


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
        step_files: StepFiles,
        background: BackgroundTasks,
        *,
        of: Instance,
        stuck_ms: int,
    ) -> None:
        self._memory = memory
        self._inbox = inbox
        self._local = local
        self._clock = clock
        self._telemetry = telemetry
        self._safe_mode = safe_mode
        self._attempt_inputs = attempt_inputs
        self._work_files = work_files
        self._step_files = step_files
        self._roots = work_files.roots
        self._patience_s = min(PATIENCE_S, stuck_ms / 1_000)
        self._instance = of.id
        self._of = of
        self._background = background.group()
        self._row = Recovery(epoch=of.epoch, started_at=clock.now().wall)
        self._ends: Mapping[State, int] = {}
        self.has_silent_launcher = False  # at the start

    async def recover(self, limit_s: float) -> None:
        """At start: settle, adopt or stop all open attempts.

        Raises PlanInvalid, TimeoutError, or an error of gathering the facts; nothing was changed or signalled then.
        """
        async with asyncio.timeout(limit_s):
            late = await self._reconnect()
            at_home = [run for run in self._memory.runs.values() if run.attempt.launcher != CLUSTER]
            result = await self._plan_after_stopping_unborn(at_home)
        self.has_silent_launcher = bool(result.launcher_facts.silent)
        self._take_over(result)
        followed = await self._follow(result, replace(self._row, **counts(result.plan)))
        assert followed.row is not None, "a start has a row"
        self._row, self._ends = followed.row, followed.ends
        self._wait_for(result.launcher_facts.silent, late)
        self._settle_written(result)
        self._background.retry("end of the recovery", partial(self._finish, result))
        self._background.retry("checks of stuck attempts", self._recheck_stuck)

    def _wait_for(self, silent: frozenset[str], late: Mapping[str, asyncio.Task[LauncherDead | None]]) -> None:
        """Recover the runs of each silent launcher when it answers; one that answered meanwhile is only logged."""
        for launcher in sorted(silent):
            log(LogEvent.LAUNCHER_STUCK, launcher=launcher)
            self._recover_when_it_answers(launcher, late.get(launcher))
        for launcher in sorted(late.keys() - silent):
            self._background.start(f"late answer of {launcher}", self._answered(late[launcher], launcher))

    def after_commit(self, _turn: Turn) -> None:
        """Recover the runs of launchers that died while this daemon runs, or to which the connection broke."""
        for launcher in self._local.take_lost():
            self._recover_when_it_answers(launcher, self._greet(launcher))

    def _recover_when_it_answers(self, launcher: str, greeting: asyncio.Task[LauncherDead | None] | None) -> None:
        """Recover the runs of one launcher, however long it is silent. `greeting` is None if it is connected."""

        async def recover() -> None:
            await self._or_safe_mode(self._recover_late(launcher, greeting))

        self._background.retry(f"runs of launcher {launcher}", recover)

    async def _or_safe_mode(self, work: Awaitable[None]) -> bool:
        """Whether `work` succeeded. The caller retries an OSError; any other error puts the daemon in safe mode."""
        try:
            await work
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - a service boundary: no caller awaits this
            self._safe_mode.enter(error)
            return False
        return True

    async def _recover_late(self, launcher: str, greeting: asyncio.Task[LauncherDead | None] | None) -> None:
        if greeting is not None and not await self._answered(greeting, launcher):
            await stop_unborn(await self._unborn(), self._instance)
        await self._recover_runs_of(launcher)

    async def _answered(self, greeting: asyncio.Task[LauncherDead | None], launcher: str) -> bool:
        """True: it is connected (again). False: it is proven dead; its children may still hold its lock."""
        dead = await asyncio.shield(greeting)
        log(LogEvent.LAUNCHER_BACK if dead is None else LogEvent.LAUNCHER_LOST, launcher=launcher, error=dead)
        return dead is None

    async def _recover_runs_of(self, launcher: str) -> None:
        await self._inbox.barrier()  # its earlier reports come first: identities of workers, and outcomes
        result = await self._gather_and_plan(self._runs_of(launcher), {launcher}, for_ever=True)
        self._take_over(result)
        await self._follow(result, None)
        self._settle_written(result)
        await self._forget(result)
        self._local.retire_idle()

    def _runs_of(self, launcher: str) -> list[OpenRun]:
        """The open runs of a launcher. Runs whose order was not sent yet are left out: sending it will fail them."""
        runs = [run for run in self._memory.runs.values() if run.attempt.launcher == launcher]
        return [run for run in runs if not self._attempt_inputs.holds(run.attempt.run_id)]

    async def _recheck_stuck(self) -> None:
        """Check stuck attempts again: their processes may have ended, or can be proven now."""
        while True:
            await asyncio.sleep(RECHECK_S)  # polls: the end of a process that is not ours cannot be waited for
            held = [
                run
                for run in self._memory.runs.values()
                if run.job.state is State.HELD and run.attempt.launcher != CLUSTER
            ]
            stuck = [run for run in held if not self._local.owns(run.attempt.run_id)]
            if stuck and not await self._or_safe_mode(self._recheck(stuck)):
                return

    async def _recheck(self, stuck: Sequence[OpenRun]) -> None:
        result = await self._gather_and_plan(stuck, {run.attempt.launcher for run in stuck})
        if result.plan.count(Action.HOLD_STUCK) + result.plan.count(Action.WAIT) < len(stuck):
            self._take_over(result)
            await self._follow(result, None)

    # --- launchers of earlier daemons ---

    async def _reconnect(self) -> dict[str, asyncio.Task[LauncherDead | None]]:
        """Connect to every living launcher; returns the greetings of silent ones, which go on."""
        alive = find_launchers(self._roots).alive
        greetings = {launcher: self._greet(launcher) for launcher in alive}
        if not greetings:
            return {}
        done, _ = await asyncio.wait(greetings.values(), timeout=self._patience_s)
        for launcher, greeting in greetings.items():
            if greeting in done and (dead := greeting.result()) is not None:
                log(LogEvent.LAUNCHER_LOST, launcher=launcher, error=dead)
        return {launcher: greeting for launcher, greeting in greetings.items() if greeting not in done}

    async def _unborn(self) -> dict[str, list[int]]:
        """Children of dead launchers between fork and exec, by launcher: they could start a worker later, unseen."""
        processes = await asyncio.to_thread(identities.scan, self._instance)
        alive = set(find_launchers(self._roots).alive)  # after the scan, to include launchers started meanwhile
        return {launcher: pids for launcher, pids in processes.launchers.items() if launcher not in alive}

    def _greet(self, launcher: str) -> asyncio.Task[LauncherDead | None]:
        """Connect to a launcher, however long it is silent; the result is not None if it is dead."""

        async def greet() -> LauncherDead | None:
            try:
                await self._local.launchers.reconnect(launcher)
            except LauncherDead as dead:
                return dead
            return None

        return self._background.retry(f"greeting of launcher {launcher}", greet)

    # --- plan and follow ---

    async def _plan_after_stopping_unborn(self, runs: Sequence[OpenRun]) -> RecoveryFindings:
        """Stop the children of dead launchers and plan again; nothing is signalled before a plan is valid."""
        unborn = await self._unborn()
        result = await self._gather_and_plan(runs)
        if unborn:
            await stop_unborn(unborn, self._instance)
            result = await self._gather_and_plan(runs)
        return result

    async def _gather_and_plan(
        self, runs: Sequence[OpenRun], among: Collection[str] | None = None, *, for_ever: bool = False
    ) -> RecoveryFindings:
        """The facts and a valid plan; changes nothing. `among`: the launchers to be asked; None at a start: all."""
        # Listed before asking: a launcher of this list that does not answer counts as silent, even if it dies now.
        alive = set(find_launchers(self._roots).alive)
        attempts = [run.attempt for run in runs]
        clients = [client for client in self._local.launchers if among is None or client.launcher in among]
        answered = await evidence.ask_launchers(clients, attempts, None if for_ever else self._patience_s)
        names = {client.launcher: client for client, _ in answered}
        logs = [(path, ends) for path, ends in read_outcomes(self._roots) if among is None or path.stem in among]
        written = {exited.run_id: self._local.credit_stop(exited) for _, ends in logs for exited in ends}
        held = {run.run_id: (client, self._credited(run)) for client, answer in answered for run in answer}
        launcher_facts = evidence.LauncherFacts(held, written, frozenset(alive - names.keys()))
        findings = (
            evidence.of_a_copy(attempts)
            if among is None and self._of.copied
            else await evidence.gather(
                self._instance, attempts, launcher_facts, self._of.foreign_epochs, self._of.hidden_epochs
            )
        )
        findings = {run_id: self._met_alive(finding) for run_id, finding in findings.items()}
        rows = [(run.job, run.attempt) for run in runs]
        findings = evidence.with_unordered(findings, rows, self._work_files, self._of.earlier_epochs)
        proposed = plan(rows, findings, self._of.epoch)
        validate(proposed, rows)
        return RecoveryFindings(proposed, runs, findings, launcher_facts, names, [path for path, _ in logs])

    def _met_alive(self, finding: Finding) -> Finding:
        """The finding, corrected by a stop under way: it may know processes that hide their environment from /proc."""
        living = self._local.living(finding.run_id) if finding.fact is Fact.GONE else ()
        if not living:
            return finding
        shown = f"pid {', '.join(map(str, living))} of it is being stopped"
        return Finding(run_id=finding.run_id, fact=Fact.ORPHANED, evidence=shown)

    def _credited(self, run: HeldRun) -> HeldRun:
        """The run. Its end is credited to our stop if its launcher did not know of the stop."""
        return run if run.exit is None else replace(run, exit=self._local.credit_stop(run.exit))

    def _take_over(self, result: RecoveryFindings) -> None:
        """Register with the executor which launcher has which run, before the effects of the plan reach it."""
        log(LogEvent.RECOVERY_PLANNED, **counts(result.plan))
        held_runs = result.launcher_facts.held
        for run in result.runs:
            run_id = run.attempt.run_id
            finding = result.findings[run_id]
            if self._memory.by_run(run_id) is None:
                continue  # it was settled while the facts were gathered
            if run_id in held_runs:
                client, held = held_runs[run_id]
                self._local.own(run_id, client, run.job.spec.grace_ms)
                self._local.freeze([run_id], frozen=False)  # an earlier daemon may have died before it thawed the run
                self._replay_reports(client.launcher, held)
            elif finding.fact is Fact.ORPHANED:
                adopt = run.job.spec.survive and run.attempt.stop_reason is None
                # The session of a main process that has ended may still contain its children.
                main = finding.identity or run.attempt.identity
                self._local.own_orphan(run_id, main, run.job.spec, adopt=adopt)
        for run_id, (_, held) in held_runs.items():
            # Also runs that were settled while their launcher was not connected: it has no acknowledgement yet.
            if self._memory.by_run(run_id) is None and held.exit is not None and held.state is RunState.ENDED:
                self._settle_unknown(held.exit)

    def _replay_reports(self, launcher: str, held: HeldRun) -> None:
        """Reports that were lost while no daemon listened: the start of a run, and the exit of its main process."""
        if held.started is not None and held.state is not RunState.ENDED:
            self._local.receive(launcher, [held.started])
        if held.exit is not None and held.state is RunState.CLOSING:
            self._local.receive(launcher, [held.exit])

    async def _follow(self, result: RecoveryFindings, row: Recovery | None) -> Followed:
        ends = await asyncio.to_thread(self._ends_of, result)
        outcomes = {run_id: end.outcome for run_id, end in ends.items()} | await self._step_files.at_ends(ends)
        return await self._inbox.ask(Recovered(result.plan, outcomes, row))

    def _ends_of(self, result: RecoveryFindings) -> dict[str, StepEnd]:
        """The ends of the runs that the plan settles, with the results that these left."""
        specs = {run.attempt.run_id: run.job.spec for run in result.runs}
        ends = {}
        for decision in result.plan.decisions:
            if decision.action is Action.SETTLE and decision.finding.outcome is not None:
                run_id, spec = decision.run_id, specs[decision.run_id]
                outcome = self._work_files.with_results(run_id, spec, decision.finding.outcome)
                ends[run_id] = StepEnd(spec, outcome)
        return ends

    def _settle_written(self, result: RecoveryFindings) -> None:
        """Outcomes that launchers wrote down for attempts that are not open."""
        for exited in result.launcher_facts.written.values():
            self._settle_unknown(exited)

    async def _forget(self, result: RecoveryFindings) -> None:
        if result.outcome_logs:
            await self._inbox.barrier()
            alive, logs = find_launchers(self._roots).alive, read_outcomes(self._roots)
            remove_outcomes(result.committed_logs(logs, alive, self._memory.by_run))

    def _settle_unknown(self, exited: Exited) -> None:
        """Acknowledge an outcome without an open attempt; record it if it is unknown."""
        self._inbox.post(Settle(exited.run_id, outcome_of(exited)))

    async def _finish(self, result: RecoveryFindings) -> None:
        """Work that does not delay readiness: tidying up, leaked processes, the end of the row."""
        await self._forget(result)
        for launcher in find_launchers(self._roots).dead:
            remove_remains(self._roots, launcher)
        swept = await self._sweep_leaked()
        self._row = replace(self._row, finished_at=self._clock.now().wall, swept=swept)
        self._inbox.post(Remembered(self._row))
        await self._inbox.barrier()
        self._telemetry.count(Counted.ORPHANED_JOBS, self._row.stopped + self._row.unseen)
        log(LogEvent.RECOVERY_FINISHED, swept=swept, **counts(result.plan))

    async def _sweep_leaked(self) -> int:
        """Stop processes of this instance that no open attempt owns."""
        leaked = await self._leaked()
        if not leaked:
            return 0
        result = await sweep(self._instance, leaked, grace_ms=LEAKED_GRACE_MS)
        if result.killed or result.left:  # else they ended during the scan, as at any restart
            log(LogEvent.WORKER_LEAKED, processes=len(result.left), stopped=result.killed, runs=len(leaked))
        self._telemetry.count(Counted.ZOMBIES_CLEANED, result.killed)
        return result.killed

    async def _leaked(self) -> list[str]:
        processes = await asyncio.to_thread(identities.scan, self._instance)
        return [run_id for run_id in processes.runs if run_id not in self._memory.jobs_by_run]

    async def stop_leaked(self) -> list[str]:
        """Stop them now, before anything starts. Returns the runs that still have a process."""
        await self._sweep_leaked()
        return await self._leaked()

    def describe(self) -> RecoveryStatus:
        """The recovery of this start, for `system.status`."""
        row = self._row
        return {
            "epoch": row.epoch,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "took_ms": None if row.finished_at is None else row.finished_at - row.started_at,
            "settled": row.settled,
            "adopted": row.adopted,
            "stopped": row.stopped,
            "requeued": row.requeued,
            "failed": self._ends.get(State.FAILED, 0),
            "held": self._ends.get(State.HELD, 0),
            "unseen": row.unseen,
            "stuck": row.stuck,
            "swept": row.swept,
        }

    async def close(self) -> None:
        await self._background.close()
