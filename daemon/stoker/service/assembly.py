"""The engine as a whole: all parts are built here, and requests come in here.

Owns the wiring, the order in which the parts begin and end, and the reasons to refuse requests. Decisions are made in
turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from stoker.background.cadence import Cadence, Duty
from stoker.background.tasks import BackgroundTasks
from stoker.config import Config, Reloaded, merge_live
from stoker.core.clock import SystemClock
from stoker.core.job.model import ExecutionMode, State
from stoker.core.raw_bytes import native
from stoker.core.workflow.fingerprint import digest
from stoker.engine.attempt_inputs import AttemptInputs
from stoker.engine.commands import TurnChange
from stoker.engine.deadlines import Deadlines
from stoker.engine.dependents import Dependents
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.effects import Effects
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.hooks import Hooks
from stoker.engine.inbox import Inbox, RequestMessage
from stoker.engine.intake import CommandRequest, Intake, Rooms
from stoker.engine.loop import Loop
from stoker.engine.memory import memory_of
from stoker.engine.reports import ReportSink
from stoker.engine.spec_defaults import SpecDefaults
from stoker.engine.subscriptions import Subscriptions
from stoker.engine.timers import Timers
from stoker.executors.base import Executor
from stoker.executors.environment import WorkerContext
from stoker.executors.in_process import InProcessExecutor
from stoker.executors.local import LocalExecutor
from stoker.host.threads import start_threads
from stoker.schedules.clock import ScheduleClock
from stoker.schedules.messages import SchedulesDeclared
from stoker.service.declared import declare, log_hook_problems
from stoker.service.preflight import Preflight
from stoker.store.directory import StateDirectory
from stoker.store.open import Opened
from stoker.store.writer import Writer
from stoker.telemetry.logs import set_level
from stoker.telemetry.stalls import Stalls
from stoker.upkeep import maintenance
from stoker.upkeep.after_restore import settle_restore
from stoker.upkeep.awaited import Awaited
from stoker.upkeep.backups import Backups
from stoker.upkeep.drain import Drain
from stoker.upkeep.file_watch import FileWatch
from stoker.upkeep.host_state import HostState
from stoker.upkeep.housekeeping import Housekeeping
from stoker.upkeep.journaling import Journaling
from stoker.upkeep.leftovers import Leftovers
from stoker.upkeep.recovery import RecoveryService
from stoker.upkeep.recovery_messages import hold_jobs_without_attempt
from stoker.upkeep.refusals import Refusals
from stoker.upkeep.retention import Retention
from stoker.upkeep.safe_mode import SafeModeSwitch
from stoker.upkeep.staleness import Staleness
from stoker.upkeep.throttle import Throttle
from stoker.upkeep.usage import Usage
from stoker.workflows.archive import Archives
from stoker.workflows.followups import FollowUps

T = TypeVar("T")
LOG_THREADS = 4  # a read that hangs takes one of them; only reads of logs wait for a free one


class Engine:
    """All parts of the engine; see each module for what it owns. A part is built after the parts that it uses."""

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        opened: Opened,
        context: WorkerContext,
        background: BackgroundTasks,
        progress: Callable[[int, int], None],
    ) -> None:
        self.config = config
        self.context = context
        self.background = background
        self.state_dir: Path = directory.root
        self.instance = opened.instance.id
        self.clock = SystemClock(opened.instance.anchor)
        self.reader = opened.reader  # for the daemon itself, so that it never waits for a query of a client
        self.queries = opened.queries
        self.tokens = context.tokens
        self.telemetry = context.telemetry
        self.stalls = Stalls(self.telemetry)
        self._build_memory(opened)
        self._build_executors()
        self._build_effects()
        self._build_recovery(opened)
        self._build_loop(opened.writer)
        self._build_refusals(directory, opened)
        self._build_retention(directory, opened)
        self.journaling = Journaling(config, directory, opened.feed, opened.writer, self.reader, self.clock, background)
        self._build_upkeep()
        self._build_drain(progress)
        maintenance.register(opened.writer)
        self.telemetry.watch_queue_depth(lambda: self.housekeeping.depths)

    def _build_memory(self, opened: Opened) -> None:
        """The memory, and the parts that requests pass before the loop."""
        self.memory = memory_of(opened.snapshot)
        self.memory.workflows.surroundings = digest(dict(self.context.base))
        self._ended_needs, self._restored = opened.snapshot.ended_needs, opened.snapshot.restored
        self._conditions_left = opened.snapshot.undelivered, opened.snapshot.ends_met
        self._instance_is_new = opened.instance.copied
        self.inbox = Inbox()
        self.subscriptions = Subscriptions(self.reader, opened.snapshot.history, self.memory.last_seq)
        self.timers = Timers()
        self.intake = Intake(SpecDefaults(self.config), self.config.jobs.ageing_ms, self.config.jobs.max_queued)
        self.preflight = Preflight(self.clock, native(self.context.base["PATH"]))
        self.log_threads = start_threads(LOG_THREADS, "logs")

    def _build_executors(self) -> None:
        """The parts that start and stop attempts; their reports go to the inbox."""
        sink = ReportSink(self.inbox, self.memory, self.context.work_files, self.clock, self.background)
        self.local = LocalExecutor(
            self.context,
            self.stalls.watched(sink.report),
            self.inbox.wake,
            self.background,
            stuck_ms=self.config.launcher.stuck_ms,
        )
        self.in_process = InProcessExecutor(sink.report)
        self._executors: dict[ExecutionMode, Executor] = {
            ExecutionMode.SUBPROCESS: self.local,
            ExecutionMode.IN_PROCESS: self.in_process,
        }
        self.heartbeats = Heartbeats(
            self.memory, self.context.work_files, self.timers, self.clock, self.inbox, self.local.launchers
        )
        self.attempt_inputs = AttemptInputs(
            self.reader,
            self.context.work_files,
            self.memory,
            self._executors,
            self.heartbeats,
            sink.report,
            self.background,
        )

    def _build_effects(self) -> None:
        """The parts that start attempts, watch them, and carry out what a turn decided."""
        self.dispatcher = Dispatcher(self.memory, self._executors, self.config.daemon.slots)
        self.deadlines = Deadlines(
            self.timers,
            self.clock,
            self.inbox,
            self.memory,
            self.heartbeats,
            self.local.launchers,
            self.background,
            patience_ms=self.config.launcher.stuck_ms,
            sample_ms=self.config.cpu.sample_ms,
        )
        self.effects = Effects(
            self.memory,
            self._executors,
            self.local,
            self.context.work_files,
            self.attempt_inputs,
            self.deadlines,
            self.subscriptions,
            self.telemetry,
            self.inbox,
        )

    def _build_recovery(self, opened: Opened) -> None:
        self.safe_mode = SafeModeSwitch(self.dispatcher, self.config.recovery.timeout_ms)
        self.recovery = RecoveryService(
            self.memory,
            self.inbox,
            self.local,
            self.clock,
            self.telemetry,
            self.safe_mode,
            self.attempt_inputs,
            self.context.work_files,
            self.background,
            state_dir=self.state_dir,
            of=opened.instance,
            stuck_ms=self.config.launcher.stuck_ms,
        )

    def _build_loop(self, writer: Writer) -> None:
        """The loop, and the parts that act after each of its commits, in order."""
        self.followups = FollowUps(self.memory, self.reader, self.inbox, self.background)
        self.archives = Archives(self.queries, self.state_dir, self.background)
        self.rooms = Rooms(self.memory, self.intake)
        self.throttle = Throttle(
            self.config,
            self.clock,
            self.memory,
            self.dispatcher,
            self.local,
            self.heartbeats,
            self.inbox,
            self.telemetry,
        )
        files = FileWatch(self.memory, self.inbox, self.clock, self.background)
        host = HostState(self.config, self.clock, self.memory, self.inbox, self.throttle, self.background)
        self.awaited = Awaited(self.memory, self.inbox, files, host)
        self.hooks = Hooks(self.intake, self.config.hooks.values())
        self.schedule_clock = ScheduleClock(self.memory, self.intake, self.inbox, self.clock, self.background, files)
        followers = (self.followups, self.archives, self.rooms, self.schedule_clock)
        after = (self.effects, self.inbox, self.recovery, self.awaited, *followers)
        self.loop = Loop(self.inbox, writer, self.memory, self.clock, self.dispatcher, self.hooks, self.stalls, after)

    def _build_refusals(self, directory: StateDirectory, opened: Opened) -> None:
        """The parts that can give a reason to refuse requests."""
        self.housekeeping = Housekeeping(
            directory,
            opened.writer,
            self.inbox,
            self.memory,
            self.intake,
            self.dispatcher,
            self.clock,
            self.background,
            instance=self.instance,
            schema=opened.schema,
            min_free_bytes=self.config.disk.min_free_bytes,
        )
        self.refusals = Refusals(self.safe_mode, self.housekeeping, self.loop)

    def _build_retention(self, directory: StateDirectory, opened: Opened) -> None:
        """The parts that remove ended jobs, measure the room that the state takes, and back it up."""
        self.usage = Usage(self.queries, directory.database, self.clock)
        self.retention = Retention(
            self.config,
            self.queries,
            self.inbox,
            self.memory,
            self.clock,
            Leftovers(self.queries, opened.writer, self.memory, directory.root, self.local.launchers),
            self.usage,
            self.telemetry,
            self.background,
            self.refusals,
            opened.instance.off,
        )
        self.backups = Backups(self.config, directory, self.clock, self.telemetry, self.background)

    def _build_upkeep(self) -> None:
        """The parts that watch the checkpoints and the host, and the one timer for all periodic duties."""
        self.staleness = Staleness(
            self.queries, self.memory, self.clock, self.background, self.config.workflows.stale_ms
        )
        duties: dict[str, Duty] = {
            "sample of the host": self.throttle,
            "watch of conditions": self.awaited,
            "check for a gap of time": self.deadlines,
            "check of the schedules' clock": self.schedule_clock,
            "housekeeping": self.housekeeping,
            "search for stale checkpoints": self.staleness,
            "retention": self.retention,
            "backup": self.backups,
            "journal": self.journaling,
        }
        self.cadence = Cadence(self.config.cpu.sample_ms / 1_000, duties, self.stalls, self.background)

    def _build_drain(self, progress: Callable[[int, int], None]) -> None:
        self.drain = Drain(
            self.memory,
            self.inbox,
            self.intake,
            self.dispatcher,
            self.subscriptions,
            self.safe_mode,
            self.background,
            timeout_ms=self.config.daemon.drain_timeout_ms,
            progress=progress,
        )

    # --- requests ---

    def request(self, request: RequestMessage[T]) -> asyncio.Future[T]:
        """Post a request, or refuse it while nothing can be changed."""
        if (refusal := self.refusals.current()) is not None:
            request.fail(refusal)
        else:
            self.inbox.post(request)
        return request.future

    def submit(self, request: CommandRequest[T]) -> asyncio.Future[T]:
        """Like `request`, after a check that its commands can be executed. Recent results are reused."""
        if (refusal := self.refusals.current()) is not None:
            request.fail(refusal)
        elif self.preflight.check_known(request) and not request.changing():
            self.inbox.post(request)
        else:
            self.background.start("check of commands", self._check_and_post(request))
        return request.future

    async def _check_and_post(self, request: CommandRequest[T]) -> None:
        await self.preflight.check(request)
        request.seen = await self.awaited.files.see(request.changing())
        self.request(request)  # which may be refused by now

    # --- begin and end ---

    async def begin(self) -> None:
        """Recover, then start jobs. If the recovery fails, the daemon can be read but changes nothing."""
        try:
            await self.recovery.recover(self.config.recovery.timeout_ms / 1_000)
        except Exception as error:  # noqa: BLE001 - a service boundary: after any error the daemon changes nothing
            self.safe_mode.enter(error)
            await self.recovery.close()
            await self.local.close()  # without a daemon, launchers write outcomes down for the next start
            return
        if self._restored is not None:
            await settle_restore(
                self._restored, self.reader, self.inbox, self.recovery, elsewhere=self._instance_is_new
            )
        await self._declare()
        self.inbox.post(Dependents(dict.fromkeys(self._ended_needs, 0)))
        await self.context.cgroups.remove_leftovers(set(self.memory.jobs_by_run))
        self.context.work_files.prepare(self.memory.jobs_by_run)
        await self.local.begin()
        self.deadlines.begin()
        self.followups.begin(self.memory.workflows.runs)
        self.background.retry("archives of earlier failures", self.archives.catch_up)
        self.background.retry(
            "search for jobs without an attempt", partial(hold_jobs_without_attempt, self.queries, self.inbox)
        )
        self.throttle.begin()
        self.awaited.begin(*self._conditions_left)
        self.schedule_clock.begin()
        self.journaling.begin()
        self.cadence.start()
        self.housekeeping.tick()
        self.dispatcher.open("recovering")
        self.inbox.wake()

    def describe(self) -> str:
        """The state in one line, for `systemctl status`."""
        if self.safe_mode.state is not None:
            return f"safe mode: {self.safe_mode.state.why}"
        return f"{len(self.memory.runs)} running, {self.memory.total(State.QUEUED)} queued"

    async def launcher_answers(self) -> None:
        """Return when a launcher answers; at once in safe mode, which needs none."""
        if self.safe_mode.state is None:
            await self.local.launchers.answers()

    async def apply(self, asked: Config) -> Reloaded:
        """Put the settings in force that a running daemon can change, and name those that need a restart."""
        reloaded = merge_live(self.config, asked)
        self.config = config = reloaded.config
        set_level(config.log.level)
        self.dispatcher.slots = config.daemon.slots
        for part in (self.throttle, self.awaited.host, self.retention, self.backups, self.journaling):
            part.use(config)
        self.staleness.use(config.workflows.stale_ms)
        self.intake.use(SpecDefaults(config), config.jobs.ageing_ms, config.jobs.max_queued)
        self.hooks.use(config.hooks.values())
        await self._declare()
        self.inbox.wake()
        return reloaded

    async def _declare(self) -> None:
        """Store the queues, rates and schedules of the settings file that differ; log hooks that can never run."""
        await self.inbox.ask(TurnChange(partial(declare, self.config)))
        await self.inbox.ask(SchedulesDeclared(self.config.schedules.values()))
        if self.config.hooks:
            hooks = [*self.hooks.by_name.values()]
            self.background.retry("check of hooks", partial(log_hook_problems, hooks, self.preflight, self.queries))

    async def end(self) -> None:
        """Stop the parts in reverse order; launchers keep the running attempts. Safe after a failed `begin`."""
        self.cadence.stop()
        await self.housekeeping.close()
        self.deadlines.stop()
        self.schedule_clock.close()
        self.heartbeats.stop()
        await self.background.close()
        await self.in_process.close()
        await self.local.close()
        self.preflight.close()
        self.awaited.close()
        self.log_threads.shutdown(wait=False, cancel_futures=True)
