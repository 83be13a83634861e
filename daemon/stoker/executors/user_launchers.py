"""Launchers of other users, for jobs that run as who submitted them: one for each user, started when it is needed.

Owns the starts that wait for the launcher of their user, and why there is none. An attempt is opened at once, under the
id that its launcher is going to have: a user whose launcher takes long keeps no slot from anybody but its own jobs.
Invariants: a start that waits here is sent once, or reported as never started; a launcher without runs leaves in time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from signal import Signals

from msgspec import Struct, field

from stoker.background.tasks import BackgroundTasks
from stoker.core.clock import wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import Outcome, OutcomeKind
from stoker.core.job.run_id import RunId
from stoker.executors.base import Report, Start
from stoker.executors.environment import WorkerContext
from stoker.executors.launcher_pool import LauncherPool
from stoker.process import open_files
from stoker.process.client import LauncherClient, Sink
from stoker.process.launchers import start_user_launcher
from stoker.process.spawner import SpawnRefused, Wish
from stoker.process.stopping import Deliver, TreeMember
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

IDLE_S = 300.0
AGAIN_S = 1.0
DELIVERY_S = 10.0
REMEMBERED = 1_000  # refusals, for starts that still read their inputs


class UserLauncher(Struct):
    """The launcher of one user: on its way, or there (`client`); and the starts that wait for it."""

    launcher: str
    client: LauncherClient | None = None
    waiting: dict[str, Start] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        return self.client is None or not (self.client.lost or self.client.stuck)


class UserLaunchers:
    """`begin` starts attempts whose launcher is there; `report` gets the ends of those that have none."""

    def __init__(
        self,
        context: WorkerContext,
        pool: LauncherPool,
        receive: Sink,
        background: BackgroundTasks,
        begin: Callable[[Sequence[Start]], None],
        report: Callable[[Sequence[Report]], None],
        *,
        stuck_ms: int,
    ) -> None:
        self._context = context
        self._pool = pool
        self._receive = receive
        self._background = background
        self._begin = begin
        self._report = report
        self._stuck_ms = stuck_ms
        self._of: dict[int, UserLauncher] = {}
        self._refused: dict[str, Outcome] = {}  # the end of attempts at launchers that could not be started

    def named(self, uid: int) -> str:
        """The id of the launcher for new runs of a user. It is started if there is none."""
        entry = self._of.get(uid)
        if entry is None or not entry.usable:
            context = self._context
            wish = Wish(uid, context.epoch, secrets.token_hex(4), context.instance, open_files.given())
            entry = self._of[uid] = UserLauncher(wish.launcher)
            self._background.start(f"launcher {wish.launcher}", self._start(entry, wish))
        return entry.launcher

    def current(self, uid: int | None) -> LauncherClient | None:
        """The launcher of a user that takes new runs, if it is there."""
        entry = None if uid is None else self._of.get(uid)
        return None if entry is None or not entry.usable else entry.client

    def hold(self, start: Start) -> bool:
        """Keep a start until its launcher is there. False if that launcher is not on its way."""
        entry = next((one for one in self._of.values() if one.launcher == start.attempt.launcher), None)
        if entry is None or entry.client is not None:
            return False
        entry.waiting[start.attempt.run_id] = start
        return True

    def refusal(self, start: Start) -> Report | None:
        """The end of a start whose launcher could not be started."""
        outcome = self._refused.get(start.attempt.launcher)
        return None if outcome is None else Report(start.attempt.run_id, ev.Ended(outcome=outcome))

    def withdraw(self, run_id: str) -> Start | None:
        """Take back a start that waits here, so that it never happens."""
        held = (entry.waiting.pop(run_id, None) for entry in self._of.values())
        return next((start for start in held if start is not None), None)

    def rest(self, client: LauncherClient, is_idle: Callable[[LauncherClient], bool]) -> bool:
        """Let the current launcher of a user leave once it has been without runs for a while. False for any other."""
        if client.uid is None or self.current(client.uid) is not client:
            return False
        asyncio.get_running_loop().call_later(IDLE_S, self._leave_if, client, is_idle)
        return True

    def _leave_if(self, client: LauncherClient, is_idle: Callable[[LauncherClient], bool]) -> None:
        if client.uid is not None and self.current(client.uid) is client and is_idle(client):
            del self._of[client.uid]
            self._pool.retire(client)

    def deliverer(self, run_id: str) -> Deliver | None:
        """How signals reach a run without its launcher: only by a launcher of its user. None for our own user."""
        uid = RunId.parse(run_id).uid
        return None if uid is None else partial(self._deliver, uid, run_id)

    async def _deliver(
        self, uid: int, run_id: str, members: Sequence[TreeMember], signum: Signals
    ) -> Sequence[int] | None:
        """The next round tries again if there is no launcher now."""
        self.named(uid)
        client = self.current(uid)
        if client is None:
            await asyncio.sleep(AGAIN_S)
            return None
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(DELIVERY_S):
                return await client.signal_orphans(run_id, [(one.pid, one.start_ticks) for one in members], signum)
        return None

    async def _start(self, entry: UserLauncher, wish: Wish) -> None:
        context = self._context
        try:
            client = await start_user_launcher(
                context.roots, context.spawner, wish, self._receive, stuck_ms=self._stuck_ms
            )
        except (SpawnRefused, OSError) as error:
            log(LogEvent.LAUNCHER_LOST, launcher=wish.launcher, error=error)
            self._give_up(entry, wish, error)
            return
        log(LogEvent.LAUNCHER_STARTED, launcher=client.launcher, pid=client.facts.pid)
        entry.client = client
        self._pool.admit(client)
        waiting, entry.waiting = list(entry.waiting.values()), {}
        self._begin(waiting)

    def _give_up(self, entry: UserLauncher, wish: Wish, error: SpawnRefused | OSError) -> None:
        """Report the starts that waited; one that still reads its inputs is reported when it comes."""
        transient = not isinstance(error, SpawnRefused) or error.transient
        kind = OutcomeKind.NEVER_STARTED if transient else OutcomeKind.SPAWN_ERROR
        words = f"it cannot run as uid {wish.uid}: {error}"
        if self._of.get(wish.uid) is entry:
            del self._of[wish.uid]
        self._refused[entry.launcher] = Outcome(kind=kind, transient=transient, error=words, ended_at=wall_ms())
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]
        self._report([report for start in entry.waiting.values() if (report := self.refusal(start)) is not None])
