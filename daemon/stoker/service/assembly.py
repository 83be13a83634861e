"""The parts of the engine: each is built after the parts that it uses, and is given them.

Owns the wiring, and the order of what acts after a commit. `engine` begins and ends the parts.
"""

from __future__ import annotations

from pathlib import Path

from stoker.background.cadence import Cadence, Duty
from stoker.background.tasks import BackgroundTasks
from stoker.cluster.shared_directory import SharedDirectory
from stoker.cluster.slurm import Slurm
from stoker.config import Config
from stoker.config.accounts import quotas_of
from stoker.core.clock import SystemClock
from stoker.core.cluster import ClusterOptions
from stoker.core.errors import DiskFull
from stoker.core.job.model import ExecutionMode
from stoker.core.raw_bytes import native
from stoker.core.workflow.checkpoint import Packed
from stoker.core.workflow.fingerprint import digest
from stoker.engine.attempt_inputs import AttemptInputs
from stoker.engine.deadlines import Deadlines
from stoker.engine.decisions import Decisions
from stoker.engine.dispatcher import Dispatcher
from stoker.engine.effects import Effects
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.hooks import Hooks
from stoker.engine.inbox import Inbox
from stoker.engine.intake import Intake, Rooms
from stoker.engine.loop import Loop
from stoker.engine.memory import memory_of
from stoker.engine.reports import ReportSink
from stoker.engine.saved_checkpoints import Save
from stoker.engine.spec_defaults import SpecDefaults
from stoker.engine.standstills import Standstills
from stoker.engine.step_files import StepFiles
from stoker.engine.stored_bytes import StoredBytes
from stoker.engine.subscriptions import Subscriptions
from stoker.engine.timers import Timers
from stoker.executors.base import Executor
from stoker.executors.cluster import HANDED_AT_ONCE, ClusterExecutor
from stoker.executors.environment import WorkerContext
from stoker.executors.in_process import InProcessExecutor
from stoker.executors.local import LocalExecutor
from stoker.executors.owner_standing import OwnerStanding
from stoker.executors.without_cluster import WithoutCluster
from stoker.host.threads import start_threads
from stoker.schedules.clock import ScheduleClock
from stoker.service.preflight import Preflight
from stoker.store.directory import StateDirectory
from stoker.store.open import Opened
from stoker.store.writer import Writer
from stoker.telemetry.stalls import Stalls
from stoker.upkeep import maintenance
from stoker.upkeep.backups import Backups
from stoker.upkeep.condition_watch import ConditionWatch
from stoker.upkeep.drain import Drain
from stoker.upkeep.file_watch import FileWatch
from stoker.upkeep.host_state import HostState
from stoker.upkeep.housekeeping import Housekeeping
from stoker.upkeep.journaling import Journaling
from stoker.upkeep.leftovers import Leftovers
from stoker.upkeep.load_history import LoadHistory
from stoker.upkeep.overflow import Overflow
from stoker.upkeep.recovery import RecoveryService
from stoker.upkeep.refusals import Refusals
from stoker.upkeep.retention import Retention
from stoker.upkeep.safe_mode import SafeModeSwitch
from stoker.upkeep.staleness import Staleness
from stoker.upkeep.throttle import Throttle
from stoker.upkeep.usage import Usage
from stoker.upkeep.watchdog import Watchdog
from stoker.workflows.archive import Archives
from stoker.workflows.control_steps import ControlSteps
from stoker.workflows.followups import FollowUps
from stoker.workflows.limits import WorkflowLimits

# Each waits for a command of the engine, or for the shared directory. A stop finds one while all orders wait.
CLUSTER_THREADS = HANDED_AT_ONCE + 4
LOG_THREADS = 4  # a read that hangs takes one of them; only reads of logs wait for a free one


class Assembly:
    """All parts of the engine; see each module for what it owns."""

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        opened: Opened,
        context: WorkerContext,
        background: BackgroundTasks,
        watchdog: Watchdog,
    ) -> None:
        self.config = config
        self.context = context
        self.background = background
        self.state_dir: Path = directory.root
        self.instance = opened.instance.id
        self.clock = SystemClock(opened.instance.anchor)
        self.reader = opened.reader  # for the daemon itself, so that it never waits for a query of a client
        self.queries = opened.queries
        self.box = opened.box
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
        self._build_drain(watchdog)
        maintenance.register(opened.writer)
        self.telemetry.watch(lambda: self.housekeeping.gauges)

    def _build_memory(self, opened: Opened) -> None:
        """The memory, and the parts that requests pass before the loop."""
        self.memory = memory_of(opened.snapshot)
        self.memory.users.use(quotas_of(self.config.quotas, self.config.quotas_users))
        self.memory.workflows.surroundings = digest(dict(self.context.base))
        self.ended_needs, self.undecided = opened.snapshot.ended_needs, opened.snapshot.undecided
        self.restored = opened.snapshot.restored
        self.conditions_left = opened.snapshot.undelivered, opened.snapshot.ends_met
        self.instance_is_new = opened.instance.copied
        self.inbox = Inbox()
        self.subscriptions = Subscriptions(self.reader, opened.snapshot.history, self.memory.last_seq)
        self.timers = Timers()
        self.intake = Intake(
            SpecDefaults(self.config), self.config.jobs.ageing_ms, self.config.jobs.max_queued, opened.box.digest
        )
        self.preflight = Preflight(self.clock, native(self.context.base["PATH"]), blind=self.context.roots.submitter)
        self.preflight.backends = self.config.backends.keys()
        self.log_threads = start_threads(LOG_THREADS, "logs")

    def _build_executors(self) -> None:
        """The parts that start and stop attempts; their reports go to the inbox."""
        self.step_files = StepFiles(self.context.work_files)
        sink = ReportSink(
            self.inbox, self.memory, self.context.work_files, self.clock, self.background, self.step_files
        )
        self.local = LocalExecutor(
            self.context,
            self.stalls.watched(sink.report),
            self.inbox.wake,
            self.background,
            stuck_ms=self.config.launcher.stuck_ms,
        )
        control_steps = ControlSteps(self.memory, self.reader, self.inbox, self.intake)
        self.in_process = InProcessExecutor(sink.report, control_steps.handlers)
        self._executors: dict[ExecutionMode, Executor] = {
            ExecutionMode.SUBPROCESS: self.local,
            ExecutionMode.IN_PROCESS: self.in_process,
        }
        self.cluster = self._cluster(sink)
        self._executors[ExecutionMode.CLUSTER] = self.cluster or WithoutCluster(sink.report)
        self.heartbeats = Heartbeats(
            self.memory, self.context.work_files, self.timers, self.clock, self.inbox, self.local.launchers
        )
        self.owners = OwnerStanding(self.clock, self.config.access, self.context.roots, self.context.spawner)
        self.attempt_inputs = AttemptInputs(
            self.reader,
            self.context.work_files,
            self.memory,
            self._executors,
            self.heartbeats,
            sink.report,
            self.background,
            self.step_files,
            self.box,
            self.owners,
        )

    def _cluster(self, sink: ReportSink) -> ClusterExecutor | None:
        settings = self.config.cluster
        if not settings.directory:
            return None
        return ClusterExecutor(
            SharedDirectory(Path(settings.directory), self.instance),
            Slurm(),
            self.context,
            lambda queue: self.config.backends.get(queue, ClusterOptions()),
            sink.report,
            self.inbox.wake,
            self._keep_checkpoint,
            start_threads(CLUSTER_THREADS, "cluster"),
            self.background,
            python=settings.python,
            window_ms=self.config.recovery.window_ms,
        )

    async def _keep_checkpoint(self, run_id: str, packed: Packed, status: str) -> None:
        """Store a checkpoint from a node. Raises StaleAttempt, and DiskFull while there is no room."""
        if isinstance(self.intake.closed, DiskFull):
            raise self.intake.closed
        await self.inbox.ask(Save(self.memory, run_id, packed, status))

    def _build_effects(self) -> None:
        """The parts that start attempts, watch them, and carry out what a turn decided."""
        self.dispatcher = Dispatcher(
            self.memory,
            self._executors,
            self.config.daemon.slots,
            lambda: self.cluster is not None and self.cluster.away is None,
            self.config.backends.keys(),
            lambda: () if self.cluster is None else self.cluster.full,
        )
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
            self.step_files,
            self.background,
            of=opened.instance,
            stuck_ms=self.config.launcher.stuck_ms,
        )

    def _build_loop(self, writer: Writer) -> None:
        """The loop, and the parts that act after each of its commits, in order."""
        self.decisions = Decisions(self.reader, self.inbox, self.background)
        self.followups = FollowUps(self.memory, self.reader, self.inbox, self.background)
        self.archives = Archives(self.queries, self.context.roots, self.background)
        self.rooms = Rooms(self.memory, self.intake)
        self.standstills = Standstills(self.memory, self.dispatcher, self.tokens, self.reader, self.background)
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
        self.overflow = Overflow(
            self.config,
            self.clock,
            self.memory,
            self.dispatcher,
            self.intake,
            self.inbox,
            self.reader,
            self.background,
        )
        files = FileWatch(self.memory, self.inbox, self.clock, self.background)
        host = HostState(self.config, self.clock, self.memory, self.inbox, self.throttle, self.background)
        self.condition_watch = ConditionWatch(self.memory, self.inbox, files, host)
        self.hooks = Hooks(self.intake, self.config.hooks.values())
        self.schedule_clock = ScheduleClock(
            self.memory, self.intake, self.inbox, self.reader, self.clock, self.background, files
        )
        self.workflow_limits = WorkflowLimits(self.memory, self.inbox, self.clock)
        waited_for = (StoredBytes(), self.rooms, self.standstills)
        followers = (self.followups, self.workflow_limits, self.archives, *waited_for, self.schedule_clock)
        after = (self.effects, self.inbox, self.recovery, self.decisions, self.condition_watch, *followers)
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
        self.usage = Usage(self.queries, directory.database, self.clock, self.memory.users)
        self.retention = Retention(
            self.config,
            self.queries,
            self.inbox,
            self.memory,
            self.clock,
            Leftovers(self.queries, opened.writer, self.memory, self.context.roots, self.local.launchers),
            self.usage,
            self.telemetry,
            self.background,
            self.refusals,
            opened.instance.off,
        )
        self.backups = Backups(self.config, directory, opened.writer, self.clock, self.telemetry, self.background)

    def _build_upkeep(self) -> None:
        """The parts that watch the checkpoints and the host, and the one timer for all periodic duties."""
        self.staleness = Staleness(
            self.queries, self.memory, self.clock, self.background, self.config.workflows.stale_ms
        )
        self.load_history = LoadHistory(self.throttle, self.memory, self.dispatcher, self.clock)
        duties: dict[str, Duty] = {
            "sample of the host": self.throttle,
            "history of the load": self.load_history,
            "overflow of queues": self.overflow,
            "watch of conditions": self.condition_watch,
            "check for a gap of time": self.deadlines,
            "check of the schedules' clock": self.schedule_clock,
            "check of the limits of workflows": self.workflow_limits,
            "housekeeping": self.housekeeping,
            "search for stale checkpoints": self.staleness,
            "retention": self.retention,
            "backup": self.backups,
            "journal": self.journaling,
        }
        self.cadence = Cadence(self.config.cpu.sample_ms / 1_000, duties, self.stalls, self.background)

    def _build_drain(self, watchdog: Watchdog) -> None:
        self.drain = Drain(
            self.memory,
            self.inbox,
            self.intake,
            self.dispatcher,
            self.subscriptions,
            self.safe_mode,
            self.background,
            timeout_ms=self.config.daemon.drain_timeout_ms,
            watchdog=watchdog,
        )
