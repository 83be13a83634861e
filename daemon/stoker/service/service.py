"""The methods of the protocol for jobs, queues, resources and the daemon, as plain calls.

A method that changes something posts a message to the loop; one that only reads asks the store. Nothing is decided
here, and answers come from committed state. Futures and awaitables fail with a StokerError, or with a bug of ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from stoker.config import Reloaded
from stoker.core.access import Viewer
from stoker.core.answers import JobStanding, SubmitAnswer
from stoker.core.errors import InvalidParams, JobNotFound, WaitTimeout
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Attempt, Job, Queue, Resource
from stoker.core.rate import changed
from stoker.core.redaction import redacted_attempt
from stoker.core.requests import (
    JobChanges,
    JobFilter,
    JobParams,
    Purge,
    QueueSettings,
    RestartParams,
    RetryParams,
    Verb,
    VerbParams,
)
from stoker.core.standstill import Wait
from stoker.core.throttle import check_floor
from stoker.core.units import counted, duration, instant
from stoker.engine.commands import Editing, VerbCommand
from stoker.engine.intake import Seeker
from stoker.engine.settings import TurnChange, set_queue, set_resource
from stoker.engine.submit import Answers, Submission
from stoker.engine.subscriptions import ChangeFeed, ended
from stoker.engine.turn import Turn
from stoker.service.changes import WatchStart, watch
from stoker.service.checkpoints import CheckpointService
from stoker.service.engine import Engine
from stoker.service.events import EventService
from stoker.service.explanation import explanation_of
from stoker.service.hooks import HookService
from stoker.service.logs import LogFeed, LogStart, log_feed
from stoker.service.overview import OverviewService
from stoker.service.ownership import Ownership
from stoker.service.rates import RateService
from stoker.service.schedules import ScheduleService
from stoker.service.status import jobs_seen, queue_views, resource_views, status_view
from stoker.service.users import UserService
from stoker.service.views import attempt_view, change_view, job_now, job_views, no_workflow
from stoker.service.workers import WorkerService
from stoker.service.workflows import WorkflowService
from stoker.store import attempts, changes, job_search, keys
from stoker.store import jobs as job_rows
from stoker.store import workflows as workflow_rows
from stoker.telemetry.otel import Counted
from stoker.upkeep.health import Health

if TYPE_CHECKING:
    from stoker.core.daemon_views import (
        DrainBegun,
        HealthView,
        ProcessStatus,
        Purged,
        PurgePreview,
        QueueChanged,
        QueueList,
        QueuePaused,
        QueueRoom,
        ReloadedView,
        ResourceChanged,
        ResourceList,
        SettingsView,
        StatusView,
    )
    from stoker.core.views import AttemptView, Explanation, JobDetails, JobHistory, JobPage

ANY_ORDINAL = 2**31
MOST_DEPENDENTS = 100
ANSWER_S = 0.08  # of a search; a portion more may follow


class Service:
    """The engine, as the handlers of rpc/methods.py call it."""

    def __init__(
        self,
        engine: Engine,
        facts: Callable[[], ProcessStatus],
        health: Health,
        reload: Callable[[], Awaitable[Reloaded]],
        settings: Callable[[], Awaitable[SettingsView]],
    ) -> None:
        self._engine = engine
        self.workflows = WorkflowService(engine)
        self.schedules = ScheduleService(engine, self.workflows)
        self.rates = RateService(engine)
        self.events = EventService(engine)
        self.hooks = HookService(engine)
        self.checkpoints = CheckpointService(engine)
        self.workers = WorkerService(engine)
        self.overview = OverviewService(engine)
        self.users = UserService(engine)
        self.ownership = Ownership(engine.queries)
        self.backups = engine.backups
        self._facts = facts
        self._health = health
        self._reload = reload
        self.settings = settings

    # --- jobs ---

    def submit(self, jobs: list[JobParams], viewer: Viewer, *, atomic: bool) -> asyncio.Future[Answers]:
        """Store jobs. The future gives one answer a job, after the commit of all of them."""
        return self._engine.submit(Submission(self._engine.intake, jobs, viewer.uid, atomic=atomic, role=viewer.role))

    def command(self, verb: Verb, sent: VerbParams, peer_uid: int) -> asyncio.Future[JobStanding]:
        return self._engine.request(VerbCommand(verb, sent.id, _event(verb, Actor(peer_uid, sent.reason), sent)))

    def edit(self, job_id: int, changes: JobChanges, peer_uid: int, note: str | None) -> asyncio.Future[JobStanding]:
        return self._engine.request(Editing(self._engine.intake, job_id, changes, Actor(peer_uid, note)))

    async def get(self, job_id: int, before: int | None, limit: int, viewer: Viewer) -> JobDetails:
        """One job with its newest attempts, or with the newest of those before that ordinal."""
        job = await job_now(self._engine, job_id)
        (view,) = await job_views(self._engine, [job], viewer)
        page, older = await self._attempts(job, before, limit)
        if not viewer.looks_into(job.owner_uid):
            page = [redacted_attempt(attempt) for attempt in page]
        waiting = [] if job.final else await self._engine.queries.run(job_rows.dependents, job_id, 0, MOST_DEPENDENTS)
        behind = [dependent.job_id for dependent in waiting]
        return {**view, "attempts_list": page, "attempts_before": older, "dependents": behind}

    async def _attempts(self, job: Job, before: int | None, limit: int) -> tuple[list[AttemptView], int | None]:
        """A page of attempts, and the `before` of the next page, which has older ones."""
        runs = await self._engine.queries.run(attempts.page, job.id, before or ANY_ORDINAL, limit)
        older = runs[0].ordinal if len(runs) == limit and runs[0].ordinal > 1 else None
        shown = [self._attempt_view(job, attempt) for attempt in runs]
        return shown, older

    async def find(self, peer_uid: int, key: str) -> SubmitAnswer:
        """The job that this user submitted with that idempotency key. Raises JobNotFound."""
        queries = self._engine.queries
        keyed = (await queries.run(keys.by_keys, [(peer_uid, key)])).get((peer_uid, key))
        standings = {} if keyed is None else await queries.run(job_rows.standings, [keyed.job_id])
        for standing in standings.values():
            return SubmitAnswer(standing.id, standing.state, existing=True)
        if keyed is not None and keyed.purged_state is not None:
            raise JobNotFound(
                f"job {keyed.job_id} was submitted with this key, {keyed.purged_state}, and has been removed since",
                hint="submit it with another key to run it again",
                id=keyed.job_id,
            )
        raise JobNotFound("no job was submitted with this key", hint="stoker ls --all")

    async def list(self, job_filter: JobFilter, viewer: Viewer) -> JobPage:
        """A page of matching jobs. Commands are searched only in jobs that it may look into.

        Raises QueueNotFound, WorkflowNotFound, StepNotFound.
        """
        if job_filter.queue is not None:
            self._engine.memory.queue(job_filter.queue, "queue")
        steps = await self._steps(job_filter.workflow, job_filter.step)
        only = viewer.sees if job_filter.search is None else viewer.owns
        jobs, following = await self._search(job_filter, steps, only)
        return {"jobs": await job_views(self._engine, jobs, viewer), "next": following}

    async def _steps(self, workflow_id: int | None, step: str | None) -> Sequence[str] | None:
        """The steps of the workflow that a filter names; None if it names none."""
        if workflow_id is None:
            return None
        if step is not None:
            return [one["name"] for one in (await self.workflows.steps(workflow_id, step))["steps"]]
        if workflow_id not in await self._engine.queries.run(workflow_rows.states, [workflow_id]):
            raise no_workflow(self._engine, workflow_id)
        return None

    async def _search(
        self, job_filter: JobFilter, steps: Sequence[str] | None, only: int | None
    ) -> tuple[Sequence[Job], int | None]:
        """A page of jobs, and the cursor of the next. A page is short if its search took ANSWER_S: the next goes on."""
        found: list[Job] = []
        size, portion, began = 0, job_filter, time.monotonic()
        name = "before" if job_filter.after is None else "after"
        while True:
            portion = msgspec.structs.replace(portion, limit=job_filter.limit + 1 - len(found))
            scan = await self._engine.queries.search(job_search.scan, portion, steps, only)
            found += scan.jobs
            size += scan.size
            if len(found) > job_filter.limit:
                return found[: job_filter.limit], found[job_filter.limit - 1].id
            if scan.next is None or size > job_search.PAGE_BYTES or time.monotonic() > began + ANSWER_S:
                return found, scan.next
            portion = msgspec.structs.replace(portion, **{name: scan.next})

    async def history(self, job_id: int, after: int, limit: int) -> JobHistory:
        """The changes of a job after that sequence number, and its newest attempts."""
        job = await job_now(self._engine, job_id)
        log, following = await self._engine.queries.run(changes.page_of_job, job_id, after, limit)
        shown = [change_view(change, self._engine.config.privacy.redact_env) for change in log]
        removed = not await self._engine.queries.run(changes.begins, job_id)
        page, older = await self._attempts(job, None, limit)
        return {
            "id": job_id,
            "changes": shown,
            "next": following,
            "older_removed": removed,
            "attempts": page,
            "attempts_before": older,
        }

    def _attempt_view(self, job: Job, attempt: Attempt) -> AttemptView:
        unstoppable = self._engine.local.unstoppable(attempt.run_id)
        return attempt_view(job, attempt, self._engine.memory, unstoppable)

    async def why(self, job_id: int, viewer: Viewer) -> Explanation:
        """Explain why a job does not run, or why it ended as it did."""
        return await explanation_of(self._engine, await job_now(self._engine, job_id), viewer, self.ownership)

    async def wait(self, job_ids: Sequence[int], *, any_one: bool, timeout_ms: int | None) -> Sequence[JobStanding]:
        """Wait until the jobs have ended, or one of them has. Raises JobNotFound, WaitTimeout, TooManyWaits."""
        subscriptions = self._engine.subscriptions
        waiter = subscriptions.await_ends(job_ids, any_one=any_one)
        try:
            standings = await self._engine.reader.run(job_rows.standings, tuple(waiter.left))
            for job_id in job_ids:
                if job_id not in standings:
                    raise JobNotFound(f"there is no job {job_id}", hint="stoker ls --all", id=job_id)
                if ended(standings[job_id].state):
                    waiter.add_end(standings[job_id])
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1_000):
                await waiter.done.wait()
        except TimeoutError:
            missing = next(job_id for job_id in job_ids if job_id in waiter.left)
            message = f"job {missing} has not ended within {duration(timeout_ms or 0)}"
            raise WaitTimeout(message, hint=f"stoker why {missing}", id=missing) from None
        finally:
            subscriptions.forget(waiter)
        return [waiter.ends[job_id] for job_id in job_ids if job_id in waiter.ends]

    def waiting(self, token: str | None, wait: Wait) -> AbstractContextManager[None]:
        """A client waits meanwhile; `token`: that of the attempt in which it runs, if it runs in one."""
        return self._engine.standstills.waiting(token, wait)

    async def logs(self, job_id: int, ordinal: int | None, start: LogStart, *, follow: bool) -> LogFeed:
        """The log of one attempt; with `follow`, until the attempt ends."""
        job = await job_now(self._engine, job_id)
        return await log_feed(self._engine, job, ordinal, start, follow=follow)

    def hung_up(self, connection: int) -> None:
        """A client hung up: discard the uploads that it has begun."""
        self.checkpoints.hung_up(connection)

    # --- queues and resources ---

    async def queues(self) -> QueueList:
        return {"queues": queue_views(self._engine)}

    def set_queue(self, settings: QueueSettings, peer_uid: int) -> asyncio.Future[QueueChanged]:
        def change(turn: Turn) -> QueueChanged:
            before = turn.memory.queues.get(settings.name, Queue(name=settings.name))
            values = {
                name: value
                for name in ("queue_class", "max_running", "min_running", "max_queued")
                if (value := getattr(settings, name)) is not UNSET
            }
            if settings.defaults is not UNSET:
                values["defaults"] = before.defaults | msgspec.to_builtins(settings.defaults)
            if settings.rate is not UNSET or settings.burst is not UNSET:
                values["rate"] = changed(before.rate, settings.rate, settings.burst)
            queue = msgspec.structs.replace(before, **values)
            for bound in ("min_running", "max_running"):
                if bound in values:
                    check_floor(queue.min_running, queue.max_running, bound)
            self._engine.intake.specs.check_defaults(queue)
            set_queue(turn, queue, "set", Actor(peer_uid, settings.reason))
            return {"name": settings.name}

        return self._engine.request(TurnChange(change))

    async def wait_for_room(self, name: str, seeker: Seeker, timeout_ms: int | None) -> QueueRoom:
        """Wait until a queue accepts so many jobs of a user. Raises QueueNotFound, WaitTimeout."""
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1_000):
                places = await self._engine.rooms.wait(name, seeker)
        except TimeoutError:
            jobs = counted(seeker.wanted.in_queue, "job")
            message = f"queue {name!r} has had no room for {jobs} within {duration(timeout_ms or 0)}"
            raise WaitTimeout(message, hint="stoker queue ls", queue=name) from None
        return {"name": name, "places": places}

    def pause_queue(self, name: str, peer_uid: int, note: str | None, *, paused: bool) -> asyncio.Future[QueuePaused]:
        """Start no jobs of a queue, or start them again."""

        def change(turn: Turn) -> QueuePaused:
            queue = turn.memory.queue(name, "name")
            cause = "paused" if paused else "resumed"
            set_queue(turn, msgspec.structs.replace(queue, paused=paused), cause, Actor(peer_uid, note))
            return {"name": name, "paused": paused}

        return self._engine.request(TurnChange(change))

    async def resources(self, viewer: Viewer) -> ResourceList:
        return {"resources": resource_views(self._engine.memory, viewer)}

    def set_resource(
        self, name: str, capacity: int, peer_uid: int, note: str | None
    ) -> asyncio.Future[ResourceChanged]:
        def change(turn: Turn) -> ResourceChanged:
            set_resource(turn, Resource(name=name, capacity=capacity), Actor(peer_uid, note))
            return {"name": name, "capacity": capacity}

        return self._engine.request(TurnChange(change))

    # --- the daemon ---

    async def status(self, viewer: Viewer) -> StatusView:
        stale = await self._engine.staleness.find(jobs_seen(self._engine.memory, viewer))
        return {
            **status_view(self._engine, viewer),
            **self._facts(),
            "usage": await self._engine.usage.describe(),
            "retention_off": self._engine.retention.describe_time_off(),
            "backups": self.backups.describe(),
            "journal": self._engine.journaling.describe(),
            "stale_checkpoints": stale,
        }

    async def health(self) -> HealthView:
        """Whether the vital parts answer and the host can start jobs."""
        report = await self._health.check()
        shortage = self._engine.memory.shortage
        report["checks"]["journal"] = self._engine.journaling.error or "ok"
        report["checks"]["starts"] = f"the host cannot start a process: {shortage.error}" if shortage.lasts else "ok"
        return {
            "ok": report["ok"] and not shortage.lasts and self._engine.journaling.error is None,
            "checks": report["checks"],
        }

    async def reload(self) -> ReloadedView:
        """Read the settings again. Raises ConfigInvalid without any change."""
        self._engine.refusals.check()
        reloaded = await self._reload()
        return {"changed": reloaded.changed, "restart": reloaded.restart}

    async def purge(self, asked: Purge, peer_uid: int) -> Purged | PurgePreview:
        """Remove ended jobs for about a second, or only count them. Raises InvalidParams, QueueNotFound."""
        now = self._engine.clock.now().wall
        if asked.before > now:
            raise InvalidParams(
                f"before: {instant(asked.before)} is in the future: jobs that run now may have ended by then",
                hint="give an age, as in --before 30d",
                path="before",
            )
        if asked.queue is not None:
            self._engine.memory.queue(asked.queue, "queue")
        if asked.dry_run:
            return await self._engine.retention.preview(asked)
        self._engine.refusals.check()
        return await self._engine.retention.purge(asked, Actor(peer_uid, asked.reason))

    async def drain(self, *, stop: bool) -> DrainBegun:
        """Begin to drain; the daemon ends when it is done."""
        self._engine.drain.begin(stop_survivors=stop)
        drain, timeout_ms = self._engine.drain, self._engine.config.daemon.drain_timeout_ms
        return {"draining": True, "waits_for": drain.waits_for, "timeout_ms": timeout_ms}

    def count_denial(self) -> None:
        self._engine.telemetry.count(Counted.ACCESS_DENIED)

    async def watch(
        self, after_seq: int | None, history: str | None, job_id: int | None, workflow_id: int | None, viewer: Viewer
    ) -> ChangeFeed:
        return await watch(self._engine, self.ownership, WatchStart(after_seq, history, job_id, workflow_id), viewer)


def _event(verb: Verb, actor: Actor, sent: VerbParams) -> ev.Event:
    match sent:
        case RetryParams():
            return ev.Retry(actor=actor, deadline=sent.deadline, timeout_ms=sent.timeout_ms)
        case RestartParams():
            return ev.Restart(actor=actor, yes=sent.yes, force=sent.force, reassign=sent.reassign)
    return ev.VERBS[verb.value](actor=actor)
