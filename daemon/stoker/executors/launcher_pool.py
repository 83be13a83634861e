"""The launchers of one instance as this daemon knows them: the newest takes new runs, older ones run empty.

Owns which launcher is newest and who is connected. Refuses to know a run: whoever asks says which are whose.
Invariants: a launcher that is lost or stuck while it is the newest is followed by a new one, asked for until it can
be had; an older one is left to itself once it holds nothing, and then it ends; one whose lock is held lives, whatever a
connection to it says (a full backlog, no answer, a refusal, no descriptor left for us).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import AlreadyRunning, StokerError
from stoker.executors.environment import WorkerContext
from stoker.process.client import LauncherClient, Sink
from stoker.process.launchers import LauncherDead, find_launchers, start_launcher
from stoker.process.messages import LauncherLost
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

SOON_S = 5.0
BEGIN_AGAIN_S = 1.0
DIAL_AGAIN_S = 1.0


class LauncherPool:
    """`hear` gets what launchers say; `ready` is called when one can take runs (again)."""

    def __init__(
        self,
        context: WorkerContext,
        hear: Sink,
        ready: Callable[[], None],
        background: BackgroundTasks,
        *,
        stuck_ms: int,
    ) -> None:
        self._context = context
        self._background = background
        self._hear = hear
        self._ready = ready
        self._stuck_ms = stuck_ms
        self._newest: LauncherClient | None = None
        self._clients: dict[str, LauncherClient] = {}
        self._greeting: dict[str, LauncherClient] = {}
        self._leaving: set[LauncherClient] = set()
        self._closing = False

    def __iter__(self) -> Iterator[LauncherClient]:
        return iter(self._clients.values())

    def get(self, launcher: str | None) -> LauncherClient | None:
        """The one with that id, if it is connected."""
        return self._clients.get(launcher) if launcher is not None else None

    def silent(self, launcher: str) -> bool:
        """It lives and does not answer; what it runs goes on."""
        client = self._clients.get(launcher)
        return launcher in self._greeting or (client is not None and client.stuck)

    def pid_of(self, launcher: str) -> int | None:
        """Its process, while it is connected."""
        client = self._clients.get(launcher)
        return None if client is None else client.pid

    @property
    def all(self) -> list[LauncherClient]:
        """Also those of earlier daemons that have not answered us yet."""
        return [*self._greeting.values(), *self._clients.values()]

    def __getitem__(self, launcher: str) -> LauncherClient:
        return self._clients[launcher]

    @property
    def newest(self) -> LauncherClient | None:
        """The one for new runs, while it answers."""
        newest = self._newest
        return None if newest is None or newest.lost or newest.stuck else newest

    async def answers(self) -> None:
        """Return when the newest launcher has answered. Raises ConnectionError when there is none."""
        if self._newest is None:
            raise ConnectionError("no launcher")
        await self._newest.list_runs()

    async def begin(self) -> None:
        """The first one; where none can be had soon, jobs wait for it and everything else goes on."""
        first = self._background.start("first launcher", self._began())
        await asyncio.wait([first], timeout=SOON_S)
        if not (first.done() and first.result()):
            self._background.start("new launcher", self._begin_again(first))

    async def reconnect(self, launcher: str) -> LauncherClient:
        """Take over a launcher that lives, however long it is silent. Raises LauncherDead once it is proven dead."""
        try:
            while (client := await self._greeted(launcher)) is None:  # noqa: ASYNC110 - nothing tells when it takes us
                await asyncio.sleep(DIAL_AGAIN_S)
        finally:
            self._greeting.pop(launcher, None)
        self._admit(client)
        return client

    async def _greeted(self, launcher: str) -> LauncherClient | None:
        """One try. None where it lives and does not take us now: whatever went wrong, its lock decides."""
        client = LauncherClient(self._context.state_dir, launcher, self._hear, stuck_ms=self._stuck_ms)
        self._greeting[launcher] = client
        try:
            await client.connect()
            await client.hello(self._context.epoch, self._context.instance)
        except (OSError, AlreadyRunning) as error:
            client.close()
            if launcher not in find_launchers(self._context.state_dir).alive:
                raise LauncherDead(launcher) from error
            return None
        except BaseException:
            client.close()  # else it would keep its outcomes for a daemon that does not listen
            raise
        return client

    def lose(self, launcher: str) -> LauncherClient:
        """It is gone, or its connection is."""
        client = self._clients.pop(launcher)
        self._renew(client)
        return client

    def pass_over(self, launcher: str) -> None:
        """It is stuck: it keeps its runs, another one takes what is new."""
        self._renew(self._clients[launcher])

    def retire(self, client: LauncherClient) -> None:
        """None of our runs is its any more. It is left once it has said that it holds no other either."""
        if client not in (self._newest, *self._leaving) and not self._closing:
            self._leaving.add(client)
            self._background.start(f"farewell to launcher {client.launcher}", self._leave(client))

    def close(self) -> None:
        """Leave the launchers to themselves: they keep every outcome."""
        self._closing = True
        while self._clients:
            self._clients.popitem()[1].close()

    async def _leave(self, client: LauncherClient) -> None:
        try:
            held = await client.list_runs()
        except ConnectionError:
            return  # lost: it is heard of in its own way
        finally:
            self._leaving.discard(client)
        if not held and self._clients.get(client.launcher) is client:
            del self._clients[client.launcher]
            client.close()
            log(LogEvent.LAUNCHER_LEFT, launcher=client.launcher)

    async def _begin_again(self, first: asyncio.Task[bool] | None = None) -> None:
        """A launcher cannot be had while memory or disk are short: only time can tell when it can."""
        if first is not None and await first:
            return
        while not await self._began():  # noqa: ASYNC110 - nothing tells when there is memory again
            await asyncio.sleep(BEGIN_AGAIN_S)

    async def _began(self) -> bool:
        context = self._context
        try:
            client = await start_launcher(
                context.state_dir, context.epoch, context.instance, self._hear, stuck_ms=self._stuck_ms
            )
        except (StokerError, OSError) as error:
            log(LogEvent.LAUNCHER_LOST, error=error)
            return False
        log(LogEvent.LAUNCHER_STARTED, launcher=client.launcher, pid=client.facts.pid)
        self._newest = client
        self._admit(client)
        self._ready()
        return True

    def _admit(self, client: LauncherClient) -> None:
        """From here on it is listened to; what became of it since it answered is heard now."""
        self._clients[client.launcher] = client
        if client.lost:
            self._hear(client.launcher, [LauncherLost(client.launcher)])

    def _renew(self, client: LauncherClient) -> None:
        if client is self._newest and not self._closing:
            self._newest = None
            self._background.start("new launcher", self._begin_again())
