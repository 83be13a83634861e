"""Subprocess attempts: handed to launchers, whose messages become reports for the engine.

Owns the launcher of each run, and the stop ladders. If a launcher dies, recovery finds out about its runs.
Invariants: an attempt ends once its whole process tree is gone; processes that outlive the main process get the same
ladder as a stop; an attempt goes to the launcher that its row names, and to no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import Identity, Job, Outcome, OutcomeKind, Spec
from stoker.core.job.run_id import RunId
from stoker.executors.base import Report, Sink, Start, never_started
from stoker.executors.environment import WorkerContext
from stoker.executors.launcher_pool import LauncherPool
from stoker.executors.local_run import LocalRun
from stoker.executors.orphan_logs import OrphanLogs
from stoker.executors.user_launchers import UserLaunchers
from stoker.executors.without_launcher import end_without_launcher, stop_orphan
from stoker.process import messages
from stoker.process.client import LauncherClient
from stoker.process.outcomes import began_of, order_failed, order_too_large, outcome_of, refusal_of
from stoker.process.stopping import Ladder, Sweep, await_end
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class LocalExecutor:
    """Runs subprocesses through launchers. `ready` wakes the loop."""

    def __init__(
        self,
        context: WorkerContext,
        sink: Sink,
        ready: Callable[[], None],
        background: BackgroundTasks,
        *,
        stuck_ms: int,
    ) -> None:
        self._context = context
        self._background = background.group()
        self._sink = sink
        self._ready = ready
        self._lost: list[str] = []  # launchers
        self.launchers = LauncherPool(context, self.receive, self._launcher_ready, self._background, stuck_ms=stuck_ms)
        self._users = UserLaunchers(
            context, self.launchers, self.receive, self._background, self._start_of_user, sink, stuck_ms=stuck_ms
        )
        self._orphan_logs = OrphanLogs(context.roots, self._launcher_of)
        self._runs: dict[str, LocalRun] = {}
        self._clients: dict[str, LauncherClient] = {}  # the launcher of each run
        self._orphans: dict[str, Identity | None] = {}  # runs without a launcher: their main processes
        self._reassigned_alive: set[str] = set()  # reassigned runs that have a process known to live

    def _launcher_ready(self) -> None:
        self._orphan_logs.ask()
        self._ready()

    def _start_of_user(self, starts: Sequence[Start]) -> None:
        self._launcher_ready()
        self.start(starts)

    def _run(self, run_id: str) -> LocalRun:
        return self._runs.setdefault(run_id, LocalRun(run_id))

    # --- runs and their launchers ---

    def launcher_for(self, job: Job) -> str | None:
        uid = self._context.roots.runs_as(job.owner_uid)
        return self.launcher if uid is None else self._users.named(uid)

    @property
    def launcher(self) -> str | None:
        """The one for new runs of the daemon's own user."""
        newest = self.launchers.newest
        return None if newest is None else newest.launcher

    def _launcher_of(self, uid: int | None) -> LauncherClient | None:
        """The launcher that takes new runs of a user; None: of the daemon's own."""
        return self.launchers.newest if uid is None else self._users.current(uid)

    def refuses(self, start: Start) -> bool:
        return self._users.refusal(start) is not None

    def running(self, client: LauncherClient) -> int:
        return sum(owner is client for owner in self._clients.values())

    def owns(self, run_id: str) -> bool:
        """Whether its end will be reported: by a launcher, or because it is watched or stopped as an orphan."""
        return run_id in self._clients or run_id in self._orphans or run_id in self._reassigned_alive

    def unstoppable(self, run_id: str) -> Sequence[int]:
        """Pids of its tree that the kernel does not let us signal."""
        run = self._runs.get(run_id)
        return () if run is None else run.unstoppable

    def living(self, run_id: str) -> Sequence[int]:
        """Pids of its tree that were found during a stop and still live."""
        run = self._runs.get(run_id)
        return () if run is None else run.living()

    async def begin(self) -> None:
        """Start a launcher for new runs, and disconnect from idle launchers of earlier daemons."""
        await self.launchers.begin()
        self.retire_idle()

    def retire_idle(self) -> None:
        """Disconnect from launchers that have no run of ours."""
        self._retire_idle(list(self.launchers))

    def _retire_idle(self, clients: Iterable[LauncherClient]) -> None:
        for client in clients:
            if not self.running(client) and not self._users.rest(client, self._is_idle):
                self.launchers.retire(client)

    def _is_idle(self, client: LauncherClient) -> bool:
        return not self.running(client)

    def own(self, run_id: str, client: LauncherClient, grace_ms: int) -> None:
        """Note that this launcher has the run."""
        self._clients[run_id] = client
        self._run(run_id).grace_ms = grace_ms

    def own_orphan(self, run_id: str, identity: Identity | None, spec: Spec, *, adopt: bool) -> None:
        """Take over a run whose launcher is gone; with `adopt` it is watched until it ends."""
        self._orphans[run_id] = identity
        self._run(run_id).grace_ms = spec.grace_ms
        self._orphan_logs.add(run_id, spec.max_log_bytes)
        if (uid := RunId.parse(run_id).uid) is not None:
            self._users.named(uid)  # only a launcher of that user may read its output and signal it
        if adopt:
            self._background.retry(f"watch of {run_id}", partial(self._watch_orphan, run_id, identity))
        if adopt and identity is not None:
            self._sink([Report(run_id, ev.Began(identity, identity.start_ticks * 1_000 // TICKS_PER_S))])

    async def _watch_orphan(self, run_id: str, identity: Identity | None) -> None:
        """Wait for the end of the main process, then stop the processes that it left, and report the end."""
        if identity is not None:
            await await_end(identity, self._context.instance, run_id)
        if run_id in self._orphans:
            await self._sweep_orphan(run_id, self._run(run_id).grace_ms or 0)
            await self._orphan_logs.caught_up(run_id)
            self._end_orphan(run_id, stopped=False)

    # --- the executor protocol ---

    def start(self, starts: Sequence[Start]) -> None:
        """Hand each attempt to the launcher that its row names; one that was not sent is proven never started."""
        orders: dict[LauncherClient, list[messages.LaunchOrder]] = {}
        unsent: list[Report] = []
        for start in starts:
            client = self.launchers.get(start.attempt.launcher)
            if client is None and self._users.hold(start):
                continue
            if client is None or client.lost or client.stuck:
                unsent.append(self._users.refusal(start) or never_started(start))
                continue
            try:
                order = self._context.order(start, client.account)
            except OSError as error:  # the daemon lacks descriptors, memory or a cgroup
                unsent.append(Report(start.attempt.run_id, ev.Ended(outcome=order_failed(error))))
                continue
            self.own(start.attempt.run_id, client, start.job.spec.grace_ms)
            orders.setdefault(client, []).append(order)
        for client, batch in orders.items():
            for run_id, refusal in client.launch(batch).items():
                del self._clients[run_id]
                unsent.append(Report(run_id, ev.Ended(outcome=order_too_large(refusal))))
        if unsent:
            self._sink(unsent)

    def freeze(self, run_ids: Iterable[str], *, frozen: bool) -> list[str]:
        """Freeze or thaw running attempts; gives those that have a cgroup, as only these can be frozen."""
        return self._context.cgroups.freeze(run_ids, frozen=frozen)

    def stop(self, run_id: str, grace_ms: int) -> None:
        if (withdrawn := self._users.withdraw(run_id)) is not None:
            self._sink([never_started(withdrawn)])
            return
        self.freeze([run_id], frozen=False)  # a frozen process would get its SIGTERM only together with SIGKILL
        run = self._run(run_id)
        run.grace_ms = grace_ms if run.grace_ms is None else min(grace_ms, run.grace_ms)
        client = self._clients.get(run_id)
        if client is not None:
            self._start_ladder(run_id, client, grace_ms)
            if client.stuck:
                self._sweep_past_launcher(run_id)
        elif run_id in self._orphans:
            self._background.retry(f"stop of {run_id}", partial(self._stop_orphan, run_id, grace_ms))
        else:  # its launcher lives, and has not answered us yet
            self._sweep_past_launcher(run_id)

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        self._run(run_id).reassigned = partial(self._end_reassigned, run_id, identity)
        client = self._clients.get(run_id)
        if run_id not in self._orphans and (client is None or client.stuck):
            self._reassign_now(run_id)

    def _reassign_now(self, run_id: str) -> None:
        run = self._run(run_id)
        if run.reassigned is not None:
            self._background.retry(f"taking {run_id} away", run.reassigned)
            run.reassigned = None

    async def _end_reassigned(self, run_id: str, identity: Identity | None) -> None:
        sweep = self._sweep(run_id, identity)
        grace_ms = self._run(run_id).grace_ms or 0
        self._sink([Report(run_id, await end_without_launcher(self._context, sweep, run_id, identity, grace_ms))])
        self._reassigned_alive.add(run_id)
        try:
            await sweep.await_end()
        finally:
            self._reassigned_alive.discard(run_id)

    def _start_ladder(self, run_id: str, client: LauncherClient, grace_ms: int) -> None:
        run = self._run(run_id)
        if run.ladder is not None:
            if not grace_ms:
                run.ladder.hasten()
            return
        run.ladder = Ladder(client, run_id, grace_ms)
        self._background.start(f"first signal to {run_id}", self._report_delivery(run_id, run.ladder))

    async def _report_delivery(self, run_id: str, ladder: Ladder) -> None:
        try:
            delivered = await ladder.begin()
        except ConnectionError:
            return  # the launcher is lost: recovery finds out
        run = self._runs.get(run_id)
        if run is None or run.exit is None:
            self._sink([Report(run_id, ev.Delivered(delivered))])

    def _sweep_past_launcher(self, run_id: str) -> None:
        """A stop must not wait for a launcher that is stuck: signal the processes that are proven to be of this run."""
        run = self._run(run_id)
        grace_ms = run.grace_ms or 0
        if not (run.past_launcher and grace_ms):
            work = partial(self._sweep(run_id, None).stop, grace_ms)
            run.past_launcher.append(self._background.retry(f"stop of {run_id} past its launcher", work))

    def credit_stop(self, exited: messages.Exited) -> messages.Exited:
        """The same exit, `stopped` if we signalled the run past its launcher, which cannot know of that."""
        run = self._runs.get(exited.run_id)
        return exited if run is None or not run.stopped_past_launcher() else replace(exited, stopped=True)

    async def _stop_orphan(self, run_id: str, grace_ms: int) -> None:
        await self._orphan_logs.caught_up(run_id)  # a pipe loses what is unread when its last writer ends
        await self._sweep_orphan(run_id, grace_ms)
        await self._orphan_logs.caught_up(run_id)
        self._end_orphan(run_id, stopped=True)

    async def _sweep_orphan(self, run_id: str, grace_ms: int) -> None:
        """If its end cannot be proven it is reported as stuck, and recovery checks it again every few seconds."""
        identity = self._orphans.get(run_id)
        stuck = await stop_orphan(self._context, self._sweep(run_id, identity), run_id, identity, grace_ms)
        if stuck is not None and run_id in self._orphans:
            del self._orphans[run_id]
            self._sink([Report(run_id, stuck)])

    def _sweep(self, run_id: str, identity: Identity | None) -> Sweep:
        return self._run(run_id).sweep_of(self._context.instance, identity, self._users.deliverer(run_id))

    def _end_orphan(self, run_id: str, *, stopped: bool) -> None:
        if run_id in self._orphans:
            del self._orphans[run_id]
            outcome = Outcome(kind=OutcomeKind.UNSEEN, stopped=stopped, ended_at=wall_ms())
            self._sink([self._ended(run_id, outcome)])

    def _ended(self, run_id: str, outcome: Outcome) -> Report:
        pids = self.unstoppable(run_id)
        if pids:
            error = f"could not signal pid {', '.join(map(str, pids))}, which became another user; it ended by itself"
            outcome = replace(outcome, error=error)
        return Report(run_id, ev.Ended(outcome=outcome))

    def signal(self, run_id: str, signum: int) -> None:
        client = self._clients.get(run_id)
        if client is not None:
            client.signal(run_id, signum, "main")

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        by_client: dict[LauncherClient, list[str]] = {}
        for run_id in run_ids:
            run = self._runs.pop(run_id, None)
            if run is not None:
                run.close()
            self._orphans.pop(run_id, None)
            self._orphan_logs.discard(run_id)
            client = self._clients.pop(run_id, None)
            if client is not None:
                by_client.setdefault(client, []).append(run_id)
        for client, acknowledged in by_client.items():
            client.acknowledge(acknowledged)
        self._retire_idle(client for client in by_client if client is not self.launchers.newest)
        cgroups = self._context.cgroups
        for run_id in cgroups.remove(run_ids):
            self._background.retry(f"removal of the cgroup of {run_id}", partial(cgroups.remove_in_time, run_id))

    def acknowledge_unknown(self, run_ids: Sequence[str]) -> None:
        """Let all launchers forget these outcomes, which are of runs that this daemon never had."""
        for client in self.launchers:
            client.acknowledge(run_ids)
        self.retire_idle()

    # --- messages of launchers ---

    def receive(self, launcher: str, frame: list[messages.LauncherReport]) -> None:
        reports: list[Report] = []
        for message in frame if self.launchers.get(launcher) else ():
            match message:
                case messages.Started():
                    identity = self.launchers[launcher].identity(message)
                    reports.append(Report(message.run_id, began_of(message, identity)))
                case messages.Exited():
                    self._exited(message, reports)
                case messages.Gone():
                    reports += self._tree_gone(message.run_id)
                case messages.LaunchRefused(run_id=str(run_id)) if (event := refusal_of(message)) is not None:
                    reports.append(Report(run_id, event))
                case messages.Signalled():
                    if (run := self._runs.get(message.run_id)) is not None:
                        run.note_unstoppable(message.refused)
                case _:
                    self._receive_about_launcher(launcher, message)
        if reports:
            self._sink(reports)

    def _receive_about_launcher(self, launcher: str, message: messages.LauncherReport) -> None:
        match message:
            case messages.Leaked(count=count, stopped=stopped) if count or stopped:
                log(LogEvent.WORKER_LEAKED, launcher=launcher, processes=count, stopped=stopped)
            case messages.LauncherLost():
                self._lose(launcher)
            case messages.LauncherStuck():
                self._replace_stuck(launcher)
            case messages.LauncherBack():
                log(LogEvent.LAUNCHER_BACK, launcher=launcher)
                self._retire_idle([self.launchers[launcher]])
                self._ready()

    def _replace_stuck(self, launcher: str) -> None:
        """Start new runs at another launcher, and signal those of its runs that are being stopped; the others go on."""
        log(LogEvent.LAUNCHER_STUCK, launcher=launcher)
        self.launchers.replace_stuck(launcher)
        for run_id, run in list(self._runs.items()):
            if run.ladder is not None and self._clients.get(run_id) is self.launchers[launcher]:
                self._sweep_past_launcher(run_id)
                self._reassign_now(run_id)

    def _exited(self, exited: messages.Exited, reports: list[Report]) -> None:
        run = self._run(exited.run_id)
        run.exit = exited = self.credit_stop(exited)
        if not exited.left or run.gone:
            run.end_ladder()
            reports.append(self._ended(exited.run_id, outcome_of(exited)))
        elif run.ladder is None and (client := self._clients.get(exited.run_id)) is not None:
            self._start_ladder(exited.run_id, client, run.grace_ms or 0)

    def _tree_gone(self, run_id: str) -> list[Report]:
        """The process tree is empty. After a reconnection this may be reported before the exit."""
        run = self._run(run_id)
        run.gone = True
        return [] if run.exit is None else [self._ended(run_id, outcome_of(run.exit))]

    def _lose(self, launcher: str) -> None:
        log(LogEvent.LAUNCHER_LOST, launcher=launcher)
        client = self.launchers.remove_lost(launcher)
        for run_id in [run_id for run_id, owner in self._clients.items() if owner is client]:
            del self._clients[run_id]
            self._run(run_id).end_ladder()  # recovery finds out who has the run, and stops it again
        self._lost.append(launcher)
        self._ready()

    def take_lost(self) -> list[str]:
        """The launchers that were lost since the last call: the recovery finds out what became of their runs."""
        lost, self._lost = self._lost, []
        return lost

    async def close(self) -> None:
        """Disconnect from the launchers, which keep every outcome for the next daemon."""
        self.launchers.close()
        await self._background.close()
        for run in self._runs.values():
            run.close()
