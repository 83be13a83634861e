"""The engine as a whole: its parts, wired once, and the sink that executors report to.

Owns the wiring and the order in which the parts begin and end. Refuses decisions: those are made in turns.
Invariant: every report of an executor reaches the loop as a message, in the order in which it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config, Reloaded, merge_live
from stoker.core.clock import Now, SystemClock
from stoker.core.errors import DiskFull, StokerError
from stoker.core.job import events as ev
from stoker.core.job.model import STOKER, Attempt, ExecutionMode, Job, Outcome, Queue, QueueClass, State
from stoker.core.throttle import Pressure
from stoker.core.workflow.fingerprint import digest
from stoker.engine.attempt_inputs import AttemptInputs
from stoker.engine.deadlines import Deadlines
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.effects import Effects
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.loop import Loop
from stoker.engine.memory import LiveState, OpenRun
from stoker.engine.messages import Alarms, Dependents, Reports, Settle, TurnChange
from stoker.engine.preflight import Preflight
from stoker.engine.spec_defaults import SpecDefaults
from stoker.engine.submit import Intake
from stoker.engine.subscriptions import Subscriptions
from stoker.engine.timers import Alarm, Limit, Timers
from stoker.engine.turn import Turn
from stoker.engine.witnesses import LauncherWitnesses
from stoker.executors.base import Executor, Report, Start
from stoker.executors.environment import WorkerContext
from stoker.executors.in_process import InProcessExecutor
from stoker.executors.local import LocalExecutor
from stoker.host.probe import Probe
from stoker.store.directory import StateDirectory
from stoker.store.open import Opened
from stoker.store.snapshot import Snapshot
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log, set_level
from stoker.telemetry.stalls import Stalls
from stoker.upkeep import maintenance
from stoker.upkeep.damaged_rows import hold_jobs_without_attempt
from stoker.upkeep.drain import Drain
from stoker.upkeep.housekeeping import Housekeeping
from stoker.upkeep.recovery import RecoveryService
from stoker.upkeep.safe_mode import SafeModeState, safe_mode
from stoker.upkeep.staleness import Staleness
from stoker.upkeep.throttle import Throttle
from stoker.workflows.archive import Archives
from stoker.workflows.followups import FollowUps

NO_ROOM = "the disk is full: nothing can be written, so nothing is decided until there is room"


class Engine:
    """All parts of the engine; see each module for what it owns."""

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        opened: Opened,
        context: WorkerContext,
        background: BackgroundTasks,
        progress: Callable[[int, int], None],
    ) -> None:
        self.background = background
        self.config = config
        self.state_dir: Path = directory.root
        self.safe_mode: SafeModeState | None = None
        self.clock = SystemClock(opened.instance.anchor)
        self.reader = opened.reader  # for what the daemon itself needs, and is never behind a person's question
        self.queries = opened.queries
        self.telemetry = context.telemetry
        self.memory = _read_memory(opened.snapshot)
        self._untold = opened.snapshot.untold
        self.timers = Timers()
        self.subscriptions = Subscriptions(opened.reader, self.memory.last_seq)
        self.stalls = Stalls(self.telemetry)
        watched = self.stalls.watched
        self.local = LocalExecutor(
            context, watched(self.report), self._nudge, self._lost, background, stuck_ms=config.launcher.stuck_ms
        )
        self.in_process = InProcessExecutor(self.report)
        executors: dict[ExecutionMode, Executor] = {
            ExecutionMode.SUBPROCESS: self.local,
            ExecutionMode.IN_PROCESS: self.in_process,
        }
        self.memory.workflows.surroundings = digest(dict(context.base))
        self.dispatcher = Dispatcher(self.memory, executors, config.daemon.slots)
        self.loop = Loop(opened.writer, self.memory, self.clock, self.dispatcher, self.stalls, self._act)
        self.tokens = context.tokens
        self.memory.work_files = self._work_files = context.work_files
        self.heartbeats = Heartbeats(
            self.memory, context.work_files, self.timers, self.clock, self._alarm, self.local.launchers.pid_of
        )  # fmt: skip
        self._executors = executors
        self.attempt_inputs = AttemptInputs(
            opened.reader, context.work_files, self.memory, self._start, self.report, background
        )  # fmt: skip
        self.effects = Effects(
            self.memory, executors, self.timers, self.subscriptions, self.telemetry, self.loop.post,
            self.attempt_inputs.start,
        )  # fmt: skip
        self.deadlines = Deadlines(
            self.timers, self.clock, self.loop, self.local.signal,
            LauncherWitnesses(self.memory, self.local.launchers, self.loop, config.launcher.stuck_ms), self._judge,
            self.heartbeats.begin_anew, background,
        )  # fmt: skip
        self.intake = Intake(SpecDefaults(config), config.jobs.ageing_ms, config.jobs.max_queued)
        self.instance = opened.instance.id
        self.context = context
        self.preflight = Preflight(self.clock, context.base["PATH"], background)
        self.archives = Archives(opened.queries, directory.root, background)
        self.followups = FollowUps(self.memory, opened.reader, self.loop, background)
        self.housekeeping = Housekeeping(
            directory, opened.writer, self.loop, self.memory, self.intake, self.dispatcher, self.clock, background,
            instance=opened.instance.id, schema=opened.schema, min_free_bytes=config.disk.min_free_bytes,
        )  # fmt: skip
        self.staleness = Staleness(opened.queries, self.memory, self.clock, background, self._stale_ms)
        self.throttle = Throttle(
            Probe(), config.throttle_policy(), self.clock, config.cpu.sample_ms, self._pressed, watched(self._tick)
        )
        maintenance.register(opened.writer, self.clock)
        self._build_beginning_and_end(opened, progress)
        self.telemetry.watch_queue_depth(lambda: self.housekeeping.depths)

    def _build_beginning_and_end(self, opened: Opened, progress: Callable[[int, int], None]) -> None:
        """Recovery and drain."""
        config, background = self.config, self.background
        self.recovery = RecoveryService(
            self.memory, self.loop, self.local, self.clock, self.telemetry, self._distrust, self.attempt_inputs.holds,
            background, state_dir=self.state_dir, of=opened.instance, stuck_ms=config.launcher.stuck_ms,
        )  # fmt: skip
        self.drain = Drain(
            self.memory, self.loop, self.intake, self.dispatcher, self.subscriptions, background,
            timeout_ms=config.daemon.drain_timeout_ms, progress=progress,
        )  # fmt: skip

    # --- between the parts ---

    def _act(self, turn: Turn) -> None:
        self.effects.act(turn)
        self.heartbeats.close(effect.run_id for effect in turn.effects if isinstance(effect, ev.Settled))
        self.deadlines.rearm()
        self.followups.look(turn.touched_workflows)
        self.archives.look(turn)

    def _start(self, mode: ExecutionMode, starts: Sequence[Start]) -> None:
        for start in starts:
            if start.job.spec.speaks:
                self.heartbeats.open(start.attempt.run_id)
        self._executors[mode].start(starts)

    def _arm(self, job: Job, attempt: Attempt, started: int) -> None:
        self.timers.arm(job, attempt, started)
        self.heartbeats.began(job, attempt, started)

    def _alarm(self, alarm: Alarm) -> None:
        self.loop.post(Alarms([alarm], self.local.signal))

    def _tick(self) -> None:
        self.deadlines.look(self.config.cpu.sample_ms)
        self.housekeeping.tick()
        self.staleness.tick()

    def _stale_ms(self) -> int:
        return self.config.workflows.stale_ms

    def _nudge(self) -> None:
        self.loop.nudge()

    def report(self, reports: Sequence[Report]) -> None:
        """Hand what executors report to the loop."""
        self.loop.post(
            Reports(
                reports,
                self.effects.delivered,
                self.clock.steady_from_boot,
                self._arm,
                self._unknown,
                self.drain.under_way,
            )
        )

    def _lost(self, launcher: str) -> None:
        self.recovery.launcher_lost(launcher)

    def _unknown(self, run_id: str, outcome: Outcome) -> None:
        self.loop.post(Settle(run_id, outcome, self.local.acknowledge_unknown))

    def _pressed(self, pressure: Pressure) -> None:
        self.dispatcher.throttled = pressure.throttled
        event = LogEvent.QUEUE_THROTTLED if pressure.throttled else LogEvent.QUEUE_UNTHROTTLED
        log(event, causes=[cause.value for cause in pressure.causes], levels=dict(pressure.levels))
        if pressure.throttled:
            self.telemetry.throttle_began(pressure.causes)
        if self.config.throttle.freeze_running:
            low = [run.attempt.run_id for run in self.memory.runs.values() if self._is_low(run)]
            self._freeze(low, frozen=pressure.throttled)
        self.loop.nudge()

    def _freeze(self, run_ids: Sequence[str], *, frozen: bool) -> None:
        felt, at = self.local.freeze(run_ids, frozen=frozen), self.clock.now().steady
        (self.memory.frozen.freeze if frozen else self.memory.frozen.thaw)(felt, at)
        self.heartbeats.excuse(felt, frozen=frozen)

    def _judge(self, alarm: Alarm, now: Now) -> Alarm | None:
        """The alarm that follows from one that is due; None where it is to be looked at later."""
        if alarm.limit is Limit.HEARTBEAT:
            return self.heartbeats.judge(alarm, now)
        run = self.memory.by_run(alarm.run_id)
        of_run_time = alarm.limit is Limit.TIMEOUT or (
            alarm.limit is Limit.WARN and run is not None and run.job.spec.deadline is None
        )
        later = self.memory.frozen.postponed(alarm, now) if of_run_time else None
        if later is None:
            return alarm
        self.timers.look_again(later, later.at)
        return None

    def _is_low(self, run: OpenRun) -> bool:
        return self.memory.queues[run.job.spec.queue].queue_class is QueueClass.LOW

    # --- beginning and ending ---

    async def begin(self) -> None:
        """Recover, then start what may start. On a recovery that cannot be trusted: stay readable, change nothing."""
        try:
            await self.recovery.recover(self.config.recovery.timeout_ms / 1_000)
        except Exception as error:  # noqa: BLE001 - a service boundary: whatever it is, nothing follows from it
            self._distrust(error)
            await self.recovery.close()
            await self.local.close()  # without a daemon, launchers write outcomes down for the next start
            return
        await self._declare_queues()
        self.loop.post(Dependents(dict.fromkeys(self._untold, 0)))
        self.local.remove_leftovers(self.memory.jobs_by_run)
        self._work_files.prepare(self.memory.jobs_by_run)
        await self.local.begin()
        self.timers.pend_at(0, 0)  # whatever came due while no daemon ran
        self.deadlines.rearm()
        self.followups.look(self.memory.workflows.runs)
        self.background.retry("archives of earlier failures", self.archives.catch_up)
        self.background.retry(
            "search for jobs without an attempt", partial(hold_jobs_without_attempt, self.queries, self.loop)
        )
        self.throttle.start()
        self.housekeeping.tick()
        self.dispatcher.open("recovering")
        self.loop.nudge()

    def _distrust(self, error: Exception) -> None:
        """From now on nothing is started and nothing is taken; what runs and is owned is still settled."""
        self.safe_mode = safe_mode(error, self.config.recovery.timeout_ms)
        log(LogEvent.RECOVERY_FAILED, error=error)
        log(LogEvent.SAFE_MODE_ENTERED, reason=self.safe_mode.why)
        self.dispatcher.close(self.safe_mode.why)
        self.drain.hands_off = True

    def refusal(self) -> StokerError | None:
        """Why nothing can be changed now, if so."""
        if self.safe_mode is not None:
            return self.safe_mode.refusal()
        if self.housekeeping.lost is not None:
            return self.housekeeping.lost
        if self.loop.waiting:
            return DiskFull(NO_ROOM, hint="free some space: what is under way, limits and stops too, then goes on")
        return None

    def describe(self) -> str:
        """In a line, for `systemctl status`."""
        if self.safe_mode is not None:
            return f"safe mode: {self.safe_mode.why}"
        return f"{len(self.memory.runs)} running, {self.memory.total(State.QUEUED)} queued"

    async def state_is_in_place(self) -> None:
        """Raises StateRefused when the state directory was removed or replaced under this daemon."""
        if self.housekeeping.lost is not None:
            raise self.housekeeping.lost

    async def launcher_answers(self) -> None:
        """A launcher answers; in safe mode there need be none."""
        if self.safe_mode is None:
            await self.local.launchers.answers()

    async def apply(self, asked: Config) -> Reloaded:
        """Put the settings in force that a running daemon can change, and name those that need a restart."""
        reloaded = merge_live(self.config, asked)
        self.config = config = reloaded.config
        set_level(config.log.level)
        self.dispatcher.slots = config.daemon.slots
        self.throttle.policy = config.throttle_policy()
        self.intake.use(SpecDefaults(config), config.jobs.ageing_ms, config.jobs.max_queued)
        await self._declare_queues()
        self.loop.nudge()
        return reloaded

    async def _declare_queues(self) -> None:
        """Queues of the settings file, where they say something else than the database."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def declare(turn: Turn) -> None:
            for name, section in self.config.queues.items():
                before = turn.memory.queues.get(name)
                queue = section.over(before or Queue(name=name))
                if queue != before:
                    turn.set_queue(queue, "configured", STOKER)

        self.loop.post(TurnChange(declare, done))
        await done

    async def end(self) -> None:
        """Stop in reverse; what runs is left to its launcher. Safe after a begin that failed half-way."""
        self.throttle.stop()
        await self.housekeeping.close()
        self.deadlines.stop()
        self.heartbeats.stop()
        await self.background.close()
        await self.in_process.close()
        await self.local.close()
        self.preflight.close()


def _read_memory(snapshot: Snapshot) -> LiveState:
    memory = LiveState(snapshot.queues, snapshot.resources, snapshot.last_id, snapshot.last_seq)
    memory.load_counts(snapshot.counts)
    memory.needed = snapshot.needed
    memory.workflows.last_id, memory.workflows.last_checkpoint = snapshot.last_workflow, snapshot.last_checkpoint
    memory.workflows.load(snapshot.workflows, snapshot.chain_heads)
    for job, attempt in snapshot.runs:
        memory.open(job, attempt)
        if job.workflow_id in memory.workflows.runs:
            memory.workflows.runs[job.workflow_id].enter(
                job, live=True
            )  # what it holds is not in the row of its workflow
    return memory
