"""Launchers on a simulated host: the real contract and the real loop of a launcher, with simulated children.

Owns the stand-in for the kernel below `stoker.launcher`: parents and children, the start of a worker, the file of
outcomes. `Launcher`, `Runs`, `Loop` and `Peer` are the product's own. Invariant: an order is carried out, and an
acknowledgement obeyed, only if the database allows it; the laws check this each time.
"""

from __future__ import annotations

import errno
import random
import select
from collections import deque
from typing import Any

import msgspec

from stoker.launcher.command import SpawnFailedError
from stoker.launcher.launcher import Launcher
from stoker.launcher.listener import DaemonPeer
from stoker.launcher.loop import FIRST_HELLO_S, LauncherLoop
from stoker.process.identity import mark_of
from stoker.process.messages import Exited
from tests.simulation.host import Host, Process
from tests.simulation.laws import Laws
from tests.simulation.wire import Socket, Wire


class DiedInSpawnError(BaseException):
    """The launcher was killed between fork and exec: its child goes on without it."""


class SimulatedSpawner:
    """Starts simulated workers; `dies`: the launcher is killed during the next start."""

    def __init__(self, host: Host, laws: Laws, chance: random.Random) -> None:
        self._host = host
        self._laws = laws
        self._chance = chance
        self.dies = False
        self.launcher = ""
        self.marks = b""

    def spawn(self, order: dict[str, Any], _log: int) -> int:
        if self._chance.random() < 0.03:
            raise SpawnFailedError(self._chance.choice([errno.EAGAIN, errno.ENOENT]), "the simulated kernel said so")
        host = self._host
        worker = host.spawn(host.waiting, again=self._chance.random() < 0.5)
        worker.main = worker.unborn = True
        worker.run_id = order["run_id"]
        worker.mark = mark_of(order["run_id"])
        worker.stubborn = self._chance.random() < 0.2
        worker.environ = self.marks
        # Its descriptors are the launcher's, lock, listener and connections, until the exec closes them.
        worker.launcher = self.launcher if self._chance.random() < 0.7 else ""
        if self.dies:
            raise DiedInSpawnError
        be_born(host, self._laws, worker, order["env"])
        return worker.pid


def be_born(host: Host, laws: Laws, worker: Process, environ: dict[str, str] | None = None) -> None:
    """The exec: from now on the worker works."""
    assert worker.run_id is not None
    instance = environ["STOKER_INSTANCE"].encode() if environ else worker.environ.split(b"\0")[0].partition(b"=")[2]
    worker.environ = b"STOKER_INSTANCE=%b\0STOKER_RUN_ID=%b\0" % (instance, worker.run_id.encode())
    worker.unborn = False
    laws.started(worker.run_id, host.working())


class SimulatedLogFile:
    """A log that always has some output."""

    size = 1

    @classmethod
    def new(cls, _path: str, _max_bytes: int) -> SimulatedLogFile:
        return cls()


class SimulatedOutput:
    """The pipe of a worker that writes one byte."""

    name = "pipe:[0]"

    def __init__(self, log: SimulatedLogFile) -> None:
        self.log = log

    def close(self) -> None:
        """Nothing to close."""


class SimulatedOutputs:
    """No pipes: tests/launcher tests these with real processes."""

    idle = True

    def refusal(self) -> None:
        """Logs never fail here."""

    def open(self, _run_id: str, log: SimulatedLogFile) -> tuple[SimulatedOutput, int]:
        return SimulatedOutput(log), -1

    def watch(self, output: SimulatedOutput) -> None:
        """Workers write nothing here."""

    catch_up = finish = watch

    def read(self) -> None:
        """There is nothing to read."""

    def take_over(self, _wanted: dict[str, Any]) -> None:
        """There is no output to take over."""


class Watched(Launcher):
    """The real launcher; the laws check each message before it is obeyed."""

    def __init__(self, launcher: str, instance: str, outcome_log: Any, laws: Laws) -> None:
        super().__init__(launcher, instance, outcome_log)
        self._laws = laws

    def obey(self, message: dict[str, Any], *, late: bool = False) -> None:
        if message["op"] == "ack":
            self._laws.acknowledged(message["run_ids"])
        elif message["op"] == "launch":
            self._laws.ordered(message["run_id"])
        super().obey(message, late=late)


class NoEpoll:
    """Registers nothing."""

    def modify(self, _fd: int, _events: int) -> None:
        """No descriptor is watched."""


class Turns(LauncherLoop):
    """The real loop, one turn at a time."""

    def __init__(self, launcher: Launcher, now_s: float) -> None:
        self._launcher = launcher
        self._epoll: Any = NoEpoll()
        self._peers = {}
        self._daemon = None
        self._inbox = deque()
        self._leave_at = now_s + FIRST_HELLO_S
        self._write_at = None

    def admit(self, wire: Wire) -> None:
        self._peers[wire.fd] = DaemonPeer(Socket(wire))  # type: ignore[arg-type]

    def hang_up(self, wire: Wire) -> None:
        """End a connection."""
        if (peer := self._peers.get(wire.fd)) is not None:
            peer.close()
            self._forget(peer)

    def turn(self, wires: list[Wire]) -> bool:
        """One turn: reap, read, obey, send. True if the launcher may end."""
        self._launcher.reap()
        for wire in wires:
            if wire.words and wire.fd in self._peers:
                self._serve(
                    self._peers[wire.fd], select.EPOLLIN if wire.daemon_end else select.EPOLLIN | select.EPOLLHUP
                )
        self._obey()
        self._send()
        return self._may_leave()


class SimulatedLauncher:
    """One launcher process: alive or dead, stuck or not."""

    def __init__(
        self, host: Host, laws: Laws, chance: random.Random, name: str, instance: str, log: OutcomeLog
    ) -> None:
        self.name = name
        self.stuck = False
        self.full = False  # its backlog, of connections that earlier daemons left in it
        self.died_in_spawn = False
        self.wires: list[Wire] = []
        self._host = host
        self._chance = chance
        self.process = host.spawn(1)
        self.process.environ = b"STOKER_INSTANCE=%b\0STOKER_LAUNCHER=%b\0" % (instance.encode(), name.encode())
        self.spawner = SimulatedSpawner(host, laws, chance)
        self.spawner.marks = self.process.environ
        self.spawner.launcher = name
        core = Watched(name, instance, log, laws)
        core._spawner = self.spawner  # type: ignore[assignment]
        core._has_pidfs = host.pidfs
        self.core = core
        self.loop = Turns(core, host.boot_ms / 1_000)

    @property
    def alive(self) -> bool:
        return self.process.ended is None

    @property
    def held(self) -> bool:
        """Whether its lock, listener and connections are open, perhaps only in a child before its exec."""
        children = (one for one in self._host.processes.values() if one.unborn and one.ended is None)
        return self.alive or any(one.launcher == self.name for one in children)

    def connect(self, wire: Wire) -> None:
        self.wires.append(wire)
        if self.alive:
            self.loop.admit(wire)

    @property
    def restless(self) -> bool:
        """Whether a turn would do something."""
        if not self.alive or self.stuck:
            return False
        pid = self.process.pid
        dead = any(one.parent == pid and one.ended is not None for one in self._host.processes.values())
        return dead or any(wire.words for wire in self.wires) or bool(self.core.outbox) or not self.wires

    def turn(self) -> None:
        self._host.waiting = self.process.pid
        try:
            # epoll promises neither an order nor that it names all ready descriptors at once.
            leaves = self.loop.turn(self._chance.sample(self.wires, self._chance.randint(0, len(self.wires))))
        except DiedInSpawnError:
            self.died_in_spawn = True
            self.die()
            return
        self.wires = [wire for wire in self.wires if wire.launcher_end]
        if leaves:
            self.die(0)

    def die(self, code: int | None = None) -> None:
        """The launcher dies; what it has sent can still be read."""
        self._host.die(self.process, code, None if code is not None else 9)
        self.hang_up()

    def hang_up(self) -> None:
        """Connections end with the last process that has them open."""
        for wire in self.wires if not self.held else ():
            wire.launcher_end = False


class OutcomeLog:
    """One `outcomes/<launcher>.log` on the simulated disk: appended durably, as the real one is."""

    def __init__(self, logs: dict[str, list[Exited]], name: str) -> None:
        self._logs = logs
        self._name = name

    def append(self, outcomes: list[dict[str, Any]]) -> None:
        self._logs.setdefault(self._name, []).extend(msgspec.convert(outcomes, list[Exited]))
