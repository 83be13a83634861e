"""The launchers of one instance as this daemon sees them: the newest takes new runs, older ones run empty.

Owns the connections and the choice of the newest; the caller knows the runs of each. Invariants: if the newest is lost
or stuck, another is started, with tries until one succeeds; an older one is disconnected once it holds no run, and then
it ends; a launcher whose lock is held lives, even if no connection succeeds (a full backlog, no answer, a refusal, no
descriptor left).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import AlreadyRunning, StokerError
from stoker.executors.environment import WorkerContext
from stoker.process.client import LauncherClient, Sink
from stoker.process.launchers import LauncherDead, find_launchers, start_launcher
from stoker.process.messages import LauncherLost
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

FIRST_LAUNCHER_S = 5.0
START_AGAIN_S = 1.0
CONNECT_AGAIN_S = 1.0
CATCH_UP_S = 2.0


class LauncherPool:
    """`receive` gets the messages of launchers; `ready` is called when one can take runs (again)."""

    def __init__(
        self,
        context: WorkerContext,
        receive: Sink,
        ready: Callable[[], None],
        background: BackgroundTasks,
        *,
        stuck_ms: int,
    ) -> None:
        self._context = context
        self._background = background
        self._receive = receive
        self._ready = ready
        self._stuck_ms = stuck_ms
        self._newest: LauncherClient | None = None
        self._clients: dict[str, LauncherClient] = {}
        self._connecting: dict[str, LauncherClient] = {}
        self._leaving: set[LauncherClient] = set()
        self._closing = False

    def __iter__(self) -> Iterator[LauncherClient]:
        return iter(self._clients.values())

    def get(self, launcher: str | None) -> LauncherClient | None:
        return self._clients.get(launcher) if launcher is not None else None

    def silent(self, launcher: str) -> bool:
        """Whether it lives but does not answer. Its runs go on."""
        client = self._clients.get(launcher)
        return launcher in self._connecting or (client is not None and client.stuck)

    def pid_of(self, launcher: str) -> int | None:
        client = self._clients.get(launcher)
        return None if client is None else client.pid

    @property
    def all(self) -> list[LauncherClient]:
        """The connected ones, and those of earlier daemons that have not answered us yet."""
        return [*self._connecting.values(), *self._clients.values()]

    def __getitem__(self, launcher: str) -> LauncherClient:
        return self._clients[launcher]

    @property
    def newest(self) -> LauncherClient | None:
        """The launcher for new runs, while it answers."""
        newest = self._newest
        return None if newest is None or newest.lost or newest.stuck else newest

    async def answers(self) -> None:
        """Return when the newest launcher has answered. Raises ConnectionError when there is none."""
        if self._newest is None:
            raise ConnectionError("no launcher")
        await self._newest.list_runs()

    async def caught_up(self) -> None:
        """Return when every launcher has done what it was sent before, or has not answered for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while self._connecting:  # noqa: ASYNC110 - no event says that the launcher accepts a connection
                    await asyncio.sleep(CONNECT_AGAIN_S / 10)
                answers = [client.list_runs() for client in self if not client.stuck]
                await asyncio.gather(*answers, return_exceptions=True)

    async def begin(self) -> None:
        """Start the first launcher. If that takes long or fails, jobs wait for it and everything else goes on."""
        first = self._background.start("first launcher", self._start_one())
        await asyncio.wait([first], timeout=FIRST_LAUNCHER_S)
        if not (first.done() and first.result()):
            self._background.start("new launcher", self._start_until_one_runs(first))

    async def reconnect(self, launcher: str) -> LauncherClient:
        """Take over a launcher that lives, however long it is silent. Raises LauncherDead once it is proven dead."""
        try:
            while (client := await self._connect(launcher)) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(CONNECT_AGAIN_S)
        finally:
            self._connecting.pop(launcher, None)
        self.admit(client)
        return client

    async def _connect(self, launcher: str) -> LauncherClient | None:
        """Try once. Gives None if it failed and the launcher's lock says that it lives."""
        client = LauncherClient(
            self._context.roots.of_launcher(launcher), launcher, self._receive, stuck_ms=self._stuck_ms
        )
        self._connecting[launcher] = client
        try:
            await client.connect()
            await client.hello(self._context.epoch, self._context.instance)
        except (OSError, AlreadyRunning) as error:
            client.close()
            if launcher not in find_launchers(self._context.roots).alive:
                raise LauncherDead(launcher) from error
            return None
        except BaseException:
            client.close()  # otherwise the launcher would send its outcomes to a connection that is not read
            raise
        return client

    def remove_lost(self, launcher: str) -> LauncherClient:
        """The launcher died, or its connection broke."""
        client = self._clients.pop(launcher)
        self._replace(client)
        return client

    def replace_stuck(self, launcher: str) -> None:
        """The launcher keeps its runs; another one takes new runs."""
        self._replace(self._clients[launcher])

    def retire(self, client: LauncherClient) -> None:
        """Disconnect from a launcher without a run of ours once it answers that it holds no other run either."""
        if client not in (self._newest, *self._leaving) and not self._closing:
            self._leaving.add(client)
            self._background.start(f"farewell to launcher {client.launcher}", self._leave(client))

    def close(self) -> None:
        """Disconnect from the launchers, which keep every outcome."""
        self._closing = True
        while self._clients:
            self._clients.popitem()[1].close()

    async def _leave(self, client: LauncherClient) -> None:
        try:
            held = await client.list_runs()
        except ConnectionError:
            return  # lost: the client reports that itself
        finally:
            self._leaving.discard(client)
        if not held and self._clients.get(client.launcher) is client:
            del self._clients[client.launcher]
            client.left_empty = True
            client.close()
            log(LogEvent.LAUNCHER_LEFT, launcher=client.launcher)

    async def _start_until_one_runs(self, first: asyncio.Task[bool] | None = None) -> None:
        """No launcher starts while memory or disk are short, and no event says when that is over."""
        if first is not None and await first:
            return
        while not await self._start_one():  # noqa: ASYNC110 - see above
            await asyncio.sleep(START_AGAIN_S)

    async def _start_one(self) -> bool:
        context = self._context
        try:
            client = await start_launcher(
                context.state_dir, context.epoch, context.instance, self._receive, stuck_ms=self._stuck_ms
            )
        except (StokerError, OSError) as error:
            log(LogEvent.LAUNCHER_LOST, error=error)
            return False
        log(LogEvent.LAUNCHER_STARTED, launcher=client.launcher, pid=client.facts.pid)
        self._newest = client
        self.admit(client)
        self._ready()
        return True

    def admit(self, client: LauncherClient) -> None:
        """Receive its messages from now on. It may have been lost since it answered."""
        self._clients[client.launcher] = client
        if client.lost:
            self._receive(client.launcher, [LauncherLost(client.launcher)])

    def _replace(self, client: LauncherClient) -> None:
        if client is self._newest and not self._closing:
            self._newest = None
            self._background.start("new launcher", self._start_until_one_runs())
