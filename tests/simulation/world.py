"""The simulated world: one host, one disk, launchers, one daemon at a time, clients, and faults.

Owns these parts and the answers to the seams. `happenings.py` says what can happen; the consequences are the product's,
and the laws check them. Invariant: the same choices make the same world.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.core.job.model import Attempt
from stoker.process.client import LauncherClient
from stoker.process.launchers import Launchers
from stoker.store.batch import Batch
from tests.simulation.clients import Clients
from tests.simulation.denials import Denials
from tests.simulation.disk import Disk
from tests.simulation.flow_laws import FlowLaws
from tests.simulation.flows import FlowClients
from tests.simulation.hooks import HookLaws
from tests.simulation.host import Host
from tests.simulation.launchers import OutcomeLog, SimulatedLauncher
from tests.simulation.life import Life
from tests.simulation.places import Places
from tests.simulation.requests import Requests
from tests.simulation.schedules import ScheduleClients, ScheduleLaws
from tests.simulation.users import UserLaws
from tests.simulation.wire import Wire

CAPACITY = {"gpu": 2, "lock": 1}
ENOUGH = 1 << 40
PAUSED_QUEUES = "SELECT 1 FROM queues WHERE paused"
SLOTS = (1, 2, 4, 4)
CREEP = 0.1  # share of the reads of a clock that come late, as the host ran another process before
STOLEN_MS = (1, 20, 300)


class LawBroken(AssertionError):
    """A law was broken."""


class World:
    """Host, disk, launchers, daemon and clients. `do` lets one thing happen, by name."""

    def __init__(self, chance: random.Random, *, pidfs: bool = True, lies: bool = False) -> None:
        self.chance = chance
        self.host = Host(self.broken, pidfs=pidfs)
        self.disk = Disk(self.host, CAPACITY, lies=lies)
        self.laws = self.disk.laws
        self.host.may_stop = self.laws.may_stop
        self.laws.goes_on = self._goes_on
        self.host.creep = lambda: chance.choice(STOLEN_MS) if chance.random() < CREEP else 0
        self.launchers: dict[str, SimulatedLauncher] = {}
        self.life: Life | None = None
        self.denials = Denials(self.host, self._deny)
        self.disk.deny_read = self.denials.check
        self.disk.stored = self._stored
        self.requests = Requests(self.laws)
        self.flow_laws = FlowLaws(self.disk.database, self.laws, CAPACITY)
        self.user_laws = UserLaws(self.disk.database, self.laws)
        self.clients = Clients(self.laws, self.user_laws, self.requests, chance)
        self.flows = FlowClients(self.flow_laws, self.requests, chance)
        self.schedule_laws = ScheduleLaws(self.disk.database, self.laws)
        self.hook_laws = HookLaws(self.laws)
        self.schedules = ScheduleClients(self.requests, chance)
        self.slots = chance.choice(SLOTS)
        self.free_bytes = ENOUGH
        self.calm = False  # whether faults have ended
        self.done: Counter[str] = Counter()
        self.places = Places(self.host, chance, self.denials.check, self._count)
        self._fds = 0

    def _count(self, what: str) -> None:
        self.done[what] += 1

    def broken(self, text: str) -> None:
        self.laws.broken(text)

    # --- one step

    def do(self, name: str, action: Callable[[World], None]) -> None:
        """Let one thing happen. Raises LawBroken, or any error that escaped from the product."""
        action(self)
        self.done[name] += 1
        self.done["pid used again"] = self.host.reuses
        for one in self.launchers.values():
            if one.wires and not one.alive:
                one.hang_up()
            self.done["died in spawn"] += one.died_in_spawn
            one.died_in_spawn = False
        if self.life is not None:
            self.done["task tried again"] += bool(self.life.background.retrying)
            why = self.life.over()
            if why is not None:
                self.done[why] += 1
                self.end_life()
            elif self._idle(self.life):
                steady = self.life.engine.clock.steady_from_boot(self.host.boot_ms)
                self.laws.idle(steady)
                self.laws.holds(self.life.engine.memory.holding)
                if self.places.silent:
                    self.laws.seen(self.places.seen)
                self.laws.owned(self.life.owned, self.life.engine.memory.jobs_by_run)
                self.flow_laws.idle(self.life, steady)
                self.requests.unanswered(self.life.engine.memory.runs.__contains__)
                if not self.life.busy:
                    self.laws.kept(self.denials.open)
        if self.laws.first is not None:
            raise LawBroken(self.laws.first)

    def _goes_on(self, attempt: Attempt) -> bool:
        """Whether its launcher lives, and the daemon that started it too."""
        launcher = self.launchers.get(attempt.launcher)
        here = self.life is not None and self.life.epoch == attempt.epoch
        return here and launcher is not None and launcher.alive

    def moving(self, life: Life) -> bool:
        """Whether something else can happen than that time passes, a client sends a request, or a worker acts."""
        asked = life.loop.restless or life.loop.threads or self.disk.asked or any(wire.news for wire in life.wires)
        return bool(asked) or any(one.restless for one in self.living())

    def _idle(self, life: Life) -> bool:
        """Whether the daemon has nothing to do until the next event or timer, and waits for nothing."""
        waits = life.engine.loop.waiting or life.engine.inbox  # messages wait a moment for company
        return life.ready and not waits and not self.moving(life)

    def end_life(self) -> None:
        if self.life is not None:
            self.life.end()
            self.life = None
            self.requests.forget()
            self.host.forget_pins()
            self.denials.forget()
            self.places.forget()
            self.host.followers.clear()
        self.disk.lose_power(self.chance)

    def end(self) -> None:
        self.end_life()
        self.disk.close()

    def _stored(self, batch: Batch) -> None:
        """Between a commit and the next decision, memory and rows agree."""
        self.schedule_laws.committed(batch)
        self.hook_laws.committed(batch)
        self.user_laws.committed(batch)
        if self.life is not None:
            self.flow_laws.stored(self.life.engine.memory)

    def whole(self) -> None:
        """The checks that are too slow for every step."""
        self.laws.whole()
        self.flow_laws.whole()
        self.requests.check_refusals()

    def paused(self) -> bool:
        """Whether only a person lets something go on."""
        return bool(self.flow_laws.paused() or self.disk.database.execute(PAUSED_QUEUES).fetchone())

    # --- what the seams ask

    def _deny(self) -> None:
        self.done["denied by the host"] += 1
        if self.life is not None:
            self.life.denied = self.life.denied or not self.life.ready

    def find_launchers(self) -> Launchers:
        """In place of `process.launchers.find_launchers`: by the simulated locks."""
        alive = [name for name, one in self.launchers.items() if one.held]
        return Launchers(alive, [name for name in self.launchers if name not in alive])

    async def start_launcher(
        self, state_dir: Path, epoch: int, instance: str, sink: Any, *, stuck_ms: int
    ) -> LauncherClient:
        self.denials.check()
        if not self.calm and self.chance.random() < 0.05:
            raise BlockingIOError("no process to be had")
        name = f"{epoch}-{self.chance.getrandbits(32):08x}"
        log = OutcomeLog(self.disk.outcomes, name)
        self.launchers[name] = SimulatedLauncher(self.host, self.laws, self.chance, name, instance, log)
        client = LauncherClient(state_dir, name, sink, stuck_ms=stuck_ms)
        await client.connect()
        await client.hello(epoch, instance)
        return client

    async def connect(self, client: LauncherClient) -> None:
        """In place of `LauncherClient.connect`."""
        self.denials.check()
        launcher = self.launchers.get(client.launcher)
        if launcher is None or not launcher.held:
            raise ConnectionRefusedError(client.launcher)
        if launcher.full:
            self.done["EAGAIN on connect"] += 1
            raise BlockingIOError(errno.EAGAIN, "its backlog is full")
        life = self.life
        assert life is not None, "only a daemon connects"
        self._fds += 1
        wire = Wire(self._fds, client._connection, life.loop)
        client._connection.connection_made(wire)
        life.wires.append(wire)
        launcher.connect(wire)

    def hear_complaint(self, text: str) -> None:
        """A launcher has written to its stderr, which is a broken law here."""
        if "refused for its epoch" not in text:
            self.broken(f"a launcher complains: {text}")

    # --- helpers of the actions

    def living(self) -> list[SimulatedLauncher]:
        return [one for one in self.launchers.values() if one.alive]

    def pick(self, among: list[Any]) -> Any:
        return among[self.chance.randrange(len(among))]
