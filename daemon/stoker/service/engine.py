"""The engine as a whole: requests come in here, and its parts begin and end.

Owns the order in which the parts begin and end, and the refusal of requests. `assembly` builds the parts.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TypeVar

from stoker.config import Config, Reloaded, merge_live
from stoker.config.accounts import quotas_of
from stoker.core.job.model import CLUSTER, State
from stoker.engine.dependents import Dependents
from stoker.engine.inbox import RequestMessage
from stoker.engine.intake import CommandRequest
from stoker.engine.settings import TurnChange
from stoker.engine.spec_defaults import SpecDefaults
from stoker.schedules.messages import SchedulesDeclared
from stoker.service.assembly import Assembly
from stoker.service.declared import declare, log_hook_problems
from stoker.telemetry.logs import set_level
from stoker.upkeep.after_restore import settle_restore
from stoker.upkeep.pace import Pace
from stoker.upkeep.recovery_messages import hold_jobs_without_attempt

T = TypeVar("T")


class Engine(Assembly):
    """All parts of the engine, and the operations on them together."""

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
        request.seen = await self.condition_watch.files.see(request.changing())
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
        if self.restored is not None:
            await settle_restore(self.restored, self.reader, self.inbox, self.recovery, elsewhere=self.instance_is_new)
        await self._declare()
        self.inbox.post(Dependents(dict.fromkeys(self.ended_needs, 0)))
        self.decisions.begin(self.undecided)
        await self.context.cgroups.remove_leftovers(set(self.memory.jobs_by_run))
        self.context.work_files.prepare(self.memory.jobs_by_run)
        await self.local.begin()
        if self.cluster is not None:
            on_cluster = [run for run in self.memory.runs.values() if run.attempt.launcher == CLUSTER]
            self.cluster.begin(run.attempt.run_id for run in on_cluster)
        self.deadlines.begin()
        self.followups.begin(self.memory.workflows.runs)
        self.background.retry("archives of earlier failures", self.archives.catch_up)
        self.background.retry(
            "search for jobs without an attempt", partial(hold_jobs_without_attempt, self.queries, self.inbox)
        )
        self.throttle.begin()
        self.condition_watch.begin(*self.conditions_left)
        self.schedule_clock.begin()
        self.workflow_limits.begin()
        self.journaling.begin()
        self._measure_users()
        self.cadence.start()
        self.housekeeping.tick()
        self.dispatcher.open("recovering")
        self.inbox.wake()

    @property
    def cluster_away(self) -> str | None:
        """Why the engine of the cluster does not answer; None if it does."""
        return "[cluster] directory is not set" if self.cluster is None else self.cluster.away

    def describe(self) -> str:
        """The state in one line, for `systemctl status`."""
        if self.safe_mode.state is not None:
            return f"safe mode: {self.safe_mode.state.why}"
        return f"{len(self.memory.runs)} running, {self.memory.total(State.QUEUED)} queued"

    async def launcher_answers(self) -> None:
        """Return when a launcher answers; in safe mode at once, as it needs no launcher."""
        if self.safe_mode.state is None:
            await self.local.launchers.answers()

    async def apply(self, asked: Config) -> Reloaded:
        """Put the settings in force that a running daemon can change, and name those that need a restart."""
        reloaded = merge_live(self.config, asked)
        self.config = config = reloaded.config
        self.memory.users.use(await asyncio.to_thread(quotas_of, config.quotas, config.quotas_users))
        set_level(config.log.level)
        self.dispatcher.slots = config.daemon.slots
        self.dispatcher.backends = self.preflight.backends = config.backends.keys()
        for part in (self.throttle, self.condition_watch.host, self.retention, self.backups, self.journaling):
            part.use(config)
        self.staleness.use(config.workflows.stale_ms)
        self.intake.use(SpecDefaults(config), config.jobs.ageing_ms, config.jobs.max_queued)
        self.hooks.use(config.hooks.values())
        self.owners.use(config.access)
        await self._declare()
        self.overflow.use(config)  # its queues are there now
        self._measure_users()
        self.inbox.wake()
        return reloaded

    def _measure_users(self) -> None:
        """At once if there are limits of bytes; later measurements follow those of the whole state."""
        if self.memory.users.quotas.bound_bytes:
            self.background.retry("measurement of users", lambda: self.usage.measure_users(Pace(1.0)))

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
        self.workflow_limits.close()
        self.heartbeats.stop()
        await self.background.close()
        await self.in_process.close()
        await self.local.close()
        if self.cluster is not None:
            await self.cluster.close()
        self.preflight.close()
        self.owners.close()
        self.condition_watch.close()
        self.log_threads.shutdown(wait=False, cancel_futures=True)
