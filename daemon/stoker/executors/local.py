"""Local subprocesses: hands attempts to launchers and turns what they say into reports.

Owns which launcher runs what, and the stop ladders. Refuses to be anybody's parent and to guess: an attempt
whose launcher died is given to recovery. Invariants: an attempt ends once its whole tree is gone; what the
main process left behind gets the same ladder as a stop; an attempt goes to the launcher that its row names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial

from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import Identity, Outcome, OutcomeKind, RunId, Spec
from stoker.executors.base import Report, Sink, Start, never_started
from stoker.executors.environment import WorkerContext
from stoker.executors.launcher_pool import LauncherPool
from stoker.executors.orphan_logs import OrphanLogs
from stoker.executors.without_launcher import stop_all, take_away
from stoker.process import messages
from stoker.process.client import LauncherClient
from stoker.process.connection import AskTooLarge
from stoker.process.outcomes import began_of, outcome_of, refusal_of
from stoker.process.tree import Ladder, Sweep, SweepResult, await_end
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class LocalExecutor:
    """Runs subprocesses through launchers. `lost` gets the id of a launcher that died, for recovery."""

    def __init__(
        self,
        context: WorkerContext,
        sink: Sink,
        ready: Callable[[], None],
        lost: Callable[[str], None],
        background: BackgroundTasks,
        *,
        stuck_ms: int,
    ) -> None:
        self._context = context
        self._background = background.group()
        self._sink = sink
        self._ready = ready
        self._lost = lost
        self.launchers = LauncherPool(context, self.hear, self._launcher_ready, self._background, stuck_ms=stuck_ms)
        self._orphan_logs = OrphanLogs(context.state_dir, self.launchers)
        self._of_run: dict[str, LauncherClient] = {}
        self._exits: dict[str, messages.Exited] = {}
        self._gone: set[str] = set()
        self._graces: dict[str, int] = {}
        self._ladders: dict[str, Ladder] = {}
        self._orphans: dict[str, Identity | None] = {}
        self._strikes: dict[str, list[asyncio.Task[SweepResult]]] = {}
        self._reassigned: dict[str, Identity | None] = {}
        self._pinned: set[str] = set()  # runs that were taken away, and something of them is known to live
        self.unstoppable: dict[str, list[int]] = {}  # by run: pids that the kernel does not let us signal

    def _launcher_ready(self) -> None:
        self._orphan_logs.ask()
        self._ready()

    # --- who runs what ---

    @property
    def launcher(self) -> str | None:
        newest = self.launchers.newest
        return None if newest is None else newest.launcher

    def running(self, client: LauncherClient) -> int:
        """How many runs that launcher has."""
        return sum(owner is client for owner in self._of_run.values())

    def owns(self, run_id: str) -> bool:
        """Whether its end will be heard of, from a launcher or because it is watched or stopped as an orphan."""
        return run_id in self._of_run or run_id in self._orphans or run_id in self._pinned

    async def begin(self) -> None:
        """A launcher for all that comes; those of earlier daemons go once they have nothing left to do."""
        await self.launchers.begin()
        self.retire_idle()

    def retire_idle(self) -> None:
        """Leave launchers that have none of our runs to themselves."""
        self._retire_idle(list(self.launchers))

    def _retire_idle(self, clients: Iterable[LauncherClient]) -> None:
        for client in clients:
            if not self.running(client):
                self.launchers.retire(client)

    def own(self, run_id: str, client: LauncherClient, grace_ms: int) -> None:
        """A run of an earlier daemon goes on under its launcher."""
        self._of_run[run_id] = client
        self._graces[run_id] = grace_ms

    def own_orphan(self, run_id: str, identity: Identity | None, spec: Spec, *, adopt: bool) -> None:
        """A run of an earlier daemon has lost its launcher; an adopted one is watched until it ends."""
        self._orphans[run_id] = identity
        self._graces[run_id] = spec.grace_ms
        self._orphan_logs.add(run_id, spec.max_log_bytes)
        if adopt:
            self._background.retry(f"watch of {run_id}", partial(self._watch_orphan, run_id, identity))
        if adopt and identity is not None:
            self._sink([Report(run_id, ev.Began(identity, identity.start_ticks * 1_000 // TICKS_PER_S))])

    async def _watch_orphan(self, run_id: str, identity: Identity | None) -> None:
        """Its attempt ends with its main process; what that left behind, perhaps before we came, is stopped."""
        if identity is not None:
            await await_end(identity, self._context.instance, run_id)
        if run_id in self._orphans:
            await self._sweep_orphan(run_id, self._graces[run_id])
            await self._orphan_logs.caught_up(run_id)
            self._end_orphan(run_id, stopped=False)

    # --- the executor protocol ---

    def start(self, starts: Sequence[Start]) -> None:
        """Hand each attempt to the launcher that its row names; one never sent is proven never started."""
        orders: dict[LauncherClient, list[messages.LaunchOrder]] = {}
        unsent: list[Report] = []
        for start in starts:
            client = self.launchers.get(start.attempt.launcher)
            if client is None or client.lost or client.stuck:
                unsent.append(never_started(start))
                continue
            try:
                order = self._context.order(start)
            except OSError as error:  # the daemon itself lacks what a start takes: descriptors, memory, a cgroup
                unsent.append(Report(start.attempt.run_id, ev.Ended(outcome=_lacked(error))))
                continue
            self.own(start.attempt.run_id, client, start.job.spec.grace_ms)
            orders.setdefault(client, []).append(order)
        for client, batch in orders.items():
            for run_id, refusal in client.launch(batch).items():
                del self._of_run[run_id]
                unsent.append(Report(run_id, ev.Ended(outcome=_never_fits(refusal))))
        if unsent:
            self._sink(unsent)

    def freeze(self, run_ids: Iterable[str], *, frozen: bool) -> list[str]:
        """Freeze or thaw running attempts; gives those that feel it, as they have a cgroup."""
        return self._context.cgroups.freeze(run_ids, frozen=frozen)

    def stop(self, run_id: str, grace_ms: int) -> None:
        self.freeze([run_id], frozen=False)  # a frozen process would see its SIGTERM only with SIGKILL
        self._graces[run_id] = min(grace_ms, self._graces.get(run_id, grace_ms))
        client = self._of_run.get(run_id)
        if client is not None:
            self._climb(run_id, client, grace_ms)
            if client.stuck:
                self._strike(run_id)
        elif run_id in self._orphans:
            self._background.retry(f"stop of {run_id}", partial(self._stop_orphan, run_id, grace_ms))
        else:  # its launcher lives, and has not answered us yet
            self._strike(run_id)

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        self._reassigned[run_id] = identity
        client = self._of_run.get(run_id)
        if run_id not in self._orphans and (client is None or client.stuck):
            self._take_away(run_id)

    def _take_away(self, run_id: str) -> None:
        if run_id in self._reassigned:
            identity = self._reassigned.pop(run_id)
            self._background.retry(f"taking {run_id} away", partial(self._taken_away, run_id, identity))

    async def _taken_away(self, run_id: str, identity: Identity | None) -> None:
        with self._sweep(run_id, identity) as sweep:
            event = await take_away(self._context, sweep, run_id, identity, self._graces.get(run_id, 0))
            self._sink([Report(run_id, event)])
            self._pinned.add(run_id)
            try:
                await sweep.await_end()
            finally:
                self._pinned.discard(run_id)

    def _climb(self, run_id: str, client: LauncherClient, grace_ms: int) -> None:
        if run_id in self._ladders:
            if not grace_ms:
                self._ladders[run_id].hasten()
            return
        ladder = self._ladders[run_id] = Ladder(client, run_id, grace_ms)
        self._background.start(f"first signal to {run_id}", self._tell_delivery(run_id, ladder))

    def _strike(self, run_id: str) -> None:
        """Its launcher is stuck, and a stop holds all the same: we signal whoever is proven to be of this run."""
        grace_ms, strikes = self._graces.get(run_id, 0), self._strikes.setdefault(run_id, [])
        if not (strikes and grace_ms):
            strike = partial(self._sweep_once, run_id, grace_ms)
            strikes.append(self._background.retry(f"strike at {run_id}", strike))

    def credit(self, exited: messages.Exited) -> messages.Exited:
        """As its launcher tells it, and stopped where a signal of ours came before it: the launcher cannot know."""
        return replace(exited, stopped=True) if self._struck(exited.run_id) else exited

    def _struck(self, run_id: str) -> bool:
        """Whether a signal of ours, and not of its launcher, came before its end."""
        return any(not strike.done() or strike.result().killed > 0 for strike in self._strikes.get(run_id, ()))

    async def _tell_delivery(self, run_id: str, ladder: Ladder) -> None:
        try:
            delivered = await ladder.begin()
        except ConnectionError:
            return  # the launcher is lost: recovery speaks next
        if run_id not in self._exits:
            self._sink([Report(run_id, ev.Delivered(delivered))])

    async def _stop_orphan(self, run_id: str, grace_ms: int) -> None:
        await self._orphan_logs.caught_up(run_id)  # else what it says while it is being stopped is lost with it
        await self._sweep_orphan(run_id, grace_ms)
        await self._orphan_logs.caught_up(run_id)
        self._end_orphan(run_id, stopped=True)

    async def _sweep_orphan(self, run_id: str, grace_ms: int) -> None:
        """What cannot be proven to be over is not ours any more: recovery looks at it again and again."""
        identity = self._orphans.get(run_id)
        with self._sweep(run_id, identity) as sweep:
            stuck = await stop_all(self._context, sweep, run_id, identity, grace_ms)
        if stuck is not None and run_id in self._orphans:
            del self._orphans[run_id]
            self._sink([Report(run_id, stuck)])

    async def _sweep_once(self, run_id: str, grace_ms: int) -> SweepResult:
        with self._sweep(run_id, None) as sweep:
            return await sweep.stop(grace_ms)

    def _sweep(self, run_id: str, identity: Identity | None) -> Sweep:
        mains = {} if identity is None else {run_id: identity}
        return Sweep(self._context.instance, [run_id], mains, partial(self._tell_unstoppable, run_id))

    def _tell_unstoppable(self, run_id: str, pids: Sequence[int]) -> None:
        """A stop goes on, as the rest of the tree may end, and the attempt stays open while these live."""
        if not pids:
            self.unstoppable.pop(run_id, None)
        elif self.unstoppable.get(run_id) != pids:
            self.unstoppable[run_id] = list(pids)
            run = RunId.parse(run_id)
            log(LogEvent.WORKER_UNSTOPPABLE, job=run.job_id, attempt=run.ordinal, pids=self.unstoppable[run_id])

    def _end_orphan(self, run_id: str, *, stopped: bool) -> None:
        if run_id in self._orphans:
            del self._orphans[run_id]
            outcome = Outcome(kind=OutcomeKind.UNSEEN, stopped=stopped, ended_at=wall_ms())
            self._sink([self._over(run_id, outcome)])

    def _over(self, run_id: str, outcome: Outcome) -> Report:
        pids = self.unstoppable.get(run_id)
        if pids:
            told = f"could not signal pid {', '.join(map(str, pids))}, which became another user; it ended by itself"
            outcome = replace(outcome, error=told)
        return Report(run_id, ev.Ended(outcome=outcome))

    def signal(self, run_id: str, signum: int) -> None:
        client = self._of_run.get(run_id)
        if client is not None:
            client.signal(run_id, signum, "main")

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        by_client: dict[LauncherClient, list[str]] = {}
        for run_id in run_ids:
            client = self._of_run.pop(run_id, None)
            self._exits.pop(run_id, None)
            self._gone.discard(run_id)
            self._graces.pop(run_id, None)
            self._orphans.pop(run_id, None)
            self._orphan_logs.discard(run_id)
            self._strikes.pop(run_id, None)
            self._reassigned.pop(run_id, None)
            self.unstoppable.pop(run_id, None)
            ladder = self._ladders.pop(run_id, None)
            if ladder is not None:
                ladder.end()
            if client is not None:
                by_client.setdefault(client, []).append(run_id)
        for client, acknowledged in by_client.items():
            client.acknowledge(acknowledged)
        self._retire_idle(client for client in by_client if client is not self.launchers.newest)
        self._context.cgroups.remove(run_ids)

    def acknowledge_unknown(self, run_ids: Sequence[str]) -> None:
        """Outcomes of runs that this daemon never had: whoever keeps them may forget them."""
        for client in self.launchers:
            client.acknowledge(run_ids)
        self.retire_idle()

    def tidy(self, open_ids: Container[str]) -> None:
        """Remove what earlier daemons left of attempts that are not open."""
        self._context.cgroups.remove_leftovers(open_ids)

    # --- what launchers say ---

    def hear(self, launcher: str, said: list[messages.LauncherReport]) -> None:
        """One frame of a launcher."""
        reports: list[Report] = []
        for message in said if self.launchers.get(launcher) else ():
            match message:
                case messages.Started():
                    reports.append(self._began(launcher, message))
                case messages.Exited():
                    self._exited(message, reports)
                case messages.Gone():
                    reports += self._went(message.run_id)
                case messages.LaunchRefused():
                    reports += self._refused(message)
                case messages.Signalled():
                    self._tell_unstoppable(message.run_id, message.refused)
                case _:
                    self._hear_standing(launcher, message)
        if reports:
            self._sink(reports)

    def _hear_standing(
        self,
        launcher: str,
        standing: messages.Leaked | messages.LauncherLost | messages.LauncherStuck | messages.LauncherBack,
    ) -> None:
        match standing:
            case messages.Leaked(count=count, stopped=stopped) if count or stopped:
                log(LogEvent.WORKER_LEAKED, launcher=launcher, processes=count, stopped=stopped)
            case messages.LauncherLost():
                self._lose(launcher)
            case messages.LauncherStuck():
                self._pass_over(launcher)
            case messages.LauncherBack():
                log(LogEvent.LAUNCHER_BACK, launcher=launcher)
                self._retire_idle([self.launchers[launcher]])
                self._ready()

    def _pass_over(self, launcher: str) -> None:
        """It is stuck: new runs go elsewhere, its own go on, and those that are being stopped are stopped by us."""
        log(LogEvent.LAUNCHER_STUCK, launcher=launcher)
        self.launchers.pass_over(launcher)
        for run_id in self._ladders:
            if self._of_run.get(run_id) is self.launchers[launcher]:
                self._strike(run_id)
                self._take_away(run_id)

    def _began(self, launcher: str, started: messages.Started) -> Report:
        return Report(started.run_id, began_of(started, self.launchers[launcher].identity(started)))

    def _refused(self, refused: messages.LaunchRefused) -> list[Report]:
        event = refusal_of(refused)
        return [] if event is None or refused.run_id is None else [Report(refused.run_id, event)]

    def _exited(self, exited: messages.Exited, reports: list[Report]) -> None:
        exited = self.credit(exited)
        self._exits[exited.run_id] = exited
        ladder = self._ladders.pop(exited.run_id, None)
        if not exited.left or exited.run_id in self._gone:
            if ladder is not None:
                ladder.end()
            reports.append(self._over(exited.run_id, outcome_of(exited)))
            return
        if ladder is not None:
            self._ladders[exited.run_id] = ladder
            return
        client = self._of_run.get(exited.run_id)
        if client is not None:
            self._climb(exited.run_id, client, self._graces.get(exited.run_id, 0))

    def _went(self, run_id: str) -> list[Report]:
        """Its tree is empty; after a reconnection that may be said before we were told of the exit."""
        self._gone.add(run_id)
        return [self._over(run_id, outcome_of(self._exits[run_id]))] if run_id in self._exits else []

    def _lose(self, launcher: str) -> None:
        log(LogEvent.LAUNCHER_LOST, launcher=launcher)
        client = self.launchers.lose(launcher)
        for run_id in [run_id for run_id, owner in self._of_run.items() if owner is client]:
            del self._of_run[run_id]
            if (ladder := self._ladders.pop(run_id, None)) is not None:
                ladder.end()  # whoever is found to have the run is asked anew
        self._lost(launcher)

    async def close(self) -> None:
        """Leave the launchers to themselves: they keep every outcome."""
        self.launchers.close()
        await self._background.close()


def _lacked(error: OSError) -> Outcome:
    return Outcome(kind=OutcomeKind.NEVER_STARTED, transient=True, error=f"the daemon: {error}", ended_at=wall_ms())


def _never_fits(error: AskTooLarge) -> Outcome:
    """Its own fault, and it would be so again."""
    told = f"command, arguments and environment cannot be handed over: {error}; pass large data by a file or by stdin"
    return Outcome(kind=OutcomeKind.SPAWN_ERROR, error=told, ended_at=wall_ms())
