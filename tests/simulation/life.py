"""One life of the daemon on the simulated host: the real engine, from the opening of the database to its end.

Owns what `daemon.py` and `store/open.py` do around the engine, in the same order and no more: a new epoch, the
snapshot, the loop, recovery, readiness, and the end after a commit in doubt.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.config.access_section import AccessSettings
from stoker.config.settings import BackupSettings, DaemonSettings, IdleSettings
from stoker.core.errors import StorageFailed
from stoker.core.hooks import QUEUE
from stoker.core.tokens import Tokens
from stoker.executors.attempt_cgroups import AttemptCgroups
from stoker.executors.environment import WorkerContext
from stoker.process.work_files import RunOutput, WorkFiles
from stoker.sdnotify import Notifier
from stoker.service.engine import Engine
from stoker.service.service import Service
from stoker.store import instance, snapshot
from stoker.store.open import Opened
from stoker.store.reader import Reader
from stoker.store.reserve import Reserve
from stoker.store.secret_box import SecretBox
from stoker.store.writer import Writer
from stoker.telemetry.otel import Telemetry
from stoker.upkeep.host_state import FOLLOWING
from stoker.upkeep.watchdog import Watchdog
from tests.simulation.disk import Disk
from tests.simulation.eventloop import SimulatedLoop
from tests.simulation.hooks import HOOKS, SMALL
from tests.simulation.host import Host
from tests.simulation.users import QUOTAS
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

ROOT = Path("/nonexistent/simulated")
LOCK = "1@0.0"
PID_NAMESPACE = 1
LISTS = [RunOutput(json.dumps({"files": text})) for text in ("a", "a\nb", "", "c\nb\na", "[wrong")]
NO_BACKUP = BackupSettings(every="never")  # there is no file that SQLite could copy


class Unbounded:
    """Stands for a high-water mark that is never reached."""

    def cover(self, used: object) -> None:
        pass


class NothingHandedOn(WorkFiles):
    """Simulated workers write no files, and there is no directory that they could be in."""

    def __init__(self, root: Path, deny: Callable[[], None]) -> None:
        super().__init__(root)
        self._deny = deny

    def prepare(self, open_runs: Container[str]) -> None:
        pass

    def names(self, lookups: int) -> None:
        pass

    def take_output(self, run_id: str) -> RunOutput:
        """A list for groups whose list comes later: the next attempt of a job hands on another one."""
        self._deny()
        job, attempt, _ = run_id.split(".")
        return LISTS[(int(job) + int(attempt)) % len(LISTS)]

    def put_events(self, run_id: str, data: bytes) -> None:  # noqa: ARG002 - as its like
        self._deny()

    def put_inputs(self, run_id: str, data: bytes) -> None:  # noqa: ARG002 - as its like
        self._deny()

    def remove(self, run_ids: Iterable[str]) -> None:
        pass


class Life:
    """One life of the daemon, from its start to its end."""

    def __init__(self, host: Host, disk: Disk, deny: Callable[[], None], slots: int) -> None:
        self.loop = SimulatedLoop(host)
        self.wires: list[Wire] = []
        self.draining = False
        self.denied = (
            False  # whether the host denied something during the start, so that the recovery may be incomplete
        )
        disk.asked.clear()
        state = snapshot.read(disk.database)
        with self.loop.running():
            who = instance.begin(disk.database, LOCK, host.boot_id, PID_NAMESPACE)
            writer = Writer(disk, state.head, Reserve(ROOT / "reserve", 0), Unbounded())  # type: ignore[arg-type]
            writer.keep_reserve = lambda: setattr(writer, "full", False)  # type: ignore[method-assign]
            opened = Opened(writer, Reader(disk), Reader(disk), who, 1, state, SecretBox(bytes(32)))  # type: ignore[arg-type]
            context = WorkerContext(
                state_dir=ROOT,
                socket="s",
                instance=who.id,
                epoch=who.epoch,
                base={"PATH": "/bin"},
                umask=0o022,
                telemetry=Telemetry(),
                cgroups=AttemptCgroups(),
                tokens=Tokens(who.token_key),
                work_files=NothingHandedOn(ROOT, deny),
            )
            directory: Any = SimpleNamespace(
                root=ROOT,
                database=ROOT / "stoker.db",
                backups=ROOT / "backups",
                in_place=True,
                aside=ROOT / "state.json",
                write_aside=lambda _aside: None,
            )
            self.epoch, self.instance = who.epoch, who.id
            self.background = BackgroundTasks()
            config = Config(
                access=AccessSettings(users="everyone"),  # the jobs are of a uid that is not ours
                daemon=DaemonSettings(max_running=slots, drain_timeout_ms=2_000),
                backup=NO_BACKUP,
                idle=IdleSettings(for_ms=1_000),
                queues={QUEUE.name: SMALL},
                quotas_users=QUOTAS,
                hooks=HOOKS,
            )
            self.engine = Engine(
                config, directory, opened, context, self.background, Watchdog(Notifier(), self.background)
            )
            self.service = Service(self.engine, dict, *[SimpleNamespace()] * 3)  # type: ignore[arg-type]
            self.turns = self.loop.create_task(self.engine.loop.run())
            self.begin = self.loop.create_task(self.engine.begin())

    @property
    def ready(self) -> bool:
        """Whether clients are served."""
        return self.begin.done() and not self.turns.done()

    @property
    def owned(self) -> list[str]:
        """The runs whose end the executor waits for."""
        local = self.engine.local
        return [*local._clients, *local._orphans]

    @property
    def tasks(self) -> list[str]:
        """The names of its tasks, except those that last as long as the daemon."""
        lasting = {"checks of stuck attempts", FOLLOWING, self.turns.get_name()}
        return [name for task in asyncio.all_tasks(self.loop) if (name := task.get_name()) not in lasting]

    @property
    def busy(self) -> bool:
        """Whether it has a task or a run, which may have descriptors of processes open."""
        return bool(self.tasks or self.engine.local._runs)

    def drain(self) -> None:
        """SIGTERM."""
        self.draining = True
        with self.loop.running():
            self.engine.drain.begin()

    def over(self) -> str | None:
        """Why this life has ended; None if it has not. An unexpected error is raised."""
        if self.loop.errors:
            raise AssertionError(f"escaped: {self.loop.errors[0]!r}") from (
                self.loop.errors[0] if isinstance(self.loop.errors[0], BaseException) else None
            )
        if self.turns.done():
            error = self.turns.exception()
            if not isinstance(error, StorageFailed):
                raise AssertionError(f"the loop ended: {error!r}") from error
            return "storage failed"
        if self.background.failed.done():
            raise AssertionError("a background task failed") from self.background.failed.exception()
        if self.begin.done() and (error := self.begin.exception()) is not None:
            raise AssertionError(f"recovery failed: {error!r}") from error
        if self.engine.safe_mode.state is not None and self.denied:
            return "safe mode"  # a person starts it again
        if self.engine.safe_mode.state is not None:
            raise AssertionError(f"safe mode: {self.engine.safe_mode.state.why}")
        return "drained" if self.draining and self.engine.drain.done.is_set() else None

    def end(self) -> None:
        """The daemon is killed: what it has written to its sockets still arrives."""
        for wire in self.wires:
            wire.cut()
        self.engine.preflight.close()
        self.loop.abandon()
