"""stokerd: builds the daemon, starts it in order, stops it in reverse.

Owns the command line, the signals and the exit status; the parts have the logic. A start locks the directory and the
socket, opens the state, recovers, and only then listens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import uvloop

from stoker import __version__, encoding, sdnotify
from stoker.background.tasks import BackgroundTasks
from stoker.config import Config, Reloaded, compare, find, load
from stoker.core.errors import EX_IOERR, EX_SOFTWARE, EX_USAGE, ConfigInvalid, StokerError, StorageFailed
from stoker.core.tokens import Tokens
from stoker.core.units import counted
from stoker.executors.attempt_cgroups import AttemptCgroups
from stoker.executors.environment import WorkerContext, allowed
from stoker.executors.handlers import load_handlers
from stoker.foreign import PLACE, fault_of
from stoker.host.threads import start_threads
from stoker.paths import first_within_reach, socket_paths, state_dir, with_state_dir
from stoker.process import open_files
from stoker.process.identity import boot_id, pid_namespace
from stoker.process.run_roots import RunRoots
from stoker.process.work_files import WorkFiles
from stoker.rpc.entrance import Entrance
from stoker.service.engine import Engine
from stoker.service.service import Service
from stoker.store import reader
from stoker.store.directory import StateDirectory, storage_error
from stoker.store.open import Opened, open_state
from stoker.telemetry import logs, setup_telemetry
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.health import PATIENCE_S, Health
from stoker.upkeep.watchdog import Watchdog

if TYPE_CHECKING:
    from stoker.core.daemon_views import ProcessStatus

# Jobs and steps have no cycles (`gc=False`) and what is there from the start is frozen, so the oldest generation stays
# small, and few collections are enough: they cost a tenth of the CPU of a job. Without any, cycles would stay for ever.
GC_THRESHOLDS = (10_000, 5, 4)

DEFAULT_THREADS = 4  # for calls that may wait for a disk


class Daemon:
    """One life of the daemon, from lock to exit."""

    def __init__(
        self, config: Config, file: Path | None, root: Path, address: Path, environ: dict[str, str], umask: int
    ) -> None:
        self._config = config
        self._config_file = file
        self._directory = StateDirectory(root, environ.get("CREDENTIALS_DIRECTORY"))
        self._entrance = Entrance(address, config.access, sdnotify.listeners(environ, os.getpid()))
        self._environ = environ
        self._umask = umask
        self._notifier = sdnotify.Notifier.of(environ)
        self._background = BackgroundTasks()
        self._watchdog = Watchdog(self._notifier, self._background)
        self._began = time.monotonic()
        self._engine: Engine | None = None
        self._opened: Opened | None = None
        self._turns: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()

    async def run(self) -> int:
        """Run until drained. Raises StokerError when it cannot start or storage fails."""
        try:
            asyncio.get_running_loop().set_default_executor(start_threads(DEFAULT_THREADS, "files"))
            await self._start()
            return await self._until_done()
        except StokerError as error:
            if error.hint is not None:
                error.hint = with_state_dir(error.hint, str(self._directory.root), self._environ, os.geteuid())
            raise
        finally:
            await self._stop()

    # --- starting ---

    async def _start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_callback_error)
        self._watchdog.starting("opening the state")
        self._engine = engine = await self._open()
        self._turns = asyncio.ensure_future(engine.loop.run())  # measures itself, by turn
        asyncio.get_running_loop().set_task_factory(engine.stalls.measured_task)
        self._watchdog.starting(f"recovering {counted(len(engine.memory.runs), 'attempt')}")
        await self._recover(engine)
        health = Health(
            {
                "database": lambda: engine.reader.run(reader.ping),
                "loop": engine.loop.answers,
                "launcher": engine.launcher_answers,
                "state": engine.housekeeping.state_is_in_place,
            },
        )
        self._listen(engine, health)
        self._listen_to_signals(engine)
        self._report_ready(engine, health)

    async def _open(self) -> Engine:
        """Lock the directory and the socket, open the state, and build the engine on it."""
        cgroups = AttemptCgroups.below(self._config.cgroup.root)
        self._entrance.check()
        self._directory.prepare()
        self._entrance.lock()
        reserve, journaled = self._config.disk.reserve_bytes, self._config.journal.enabled
        self._opened = await open_state(self._directory, boot_id(), pid_namespace(), reserve, journaled=journaled)
        self._directory.remember()
        return self._build(self._opened, cgroups)

    def _build(self, opened: Opened, cgroups: AttemptCgroups) -> Engine:
        telemetry = setup_telemetry(self._config, version=__version__, instance=opened.instance.id)
        context = WorkerContext(
            state_dir=self._directory.root,
            socket=str(self._entrance.path),
            instance=opened.instance.id,
            tokens=Tokens(opened.instance.token_key),
            work_files=WorkFiles(self._directory.root, opened.instance.id, self._environ, self._roots()),
            spawner=self._config.run_as.spawner,
            epoch=opened.instance.epoch,
            base=allowed(self._environ, self._config.daemon.env_allow, self._config.daemon.path),
            umask=self._umask,
            telemetry=telemetry,
            cgroups=cgroups,
        )
        return Engine(self._config, self._directory, opened, context, self._background, self._watchdog)

    def _roots(self) -> RunRoots:
        """The directories of runs. Those of users count also after a change back to `service`, for runs of before."""
        submitter = self._config.run_as.user == "submitter"
        users = Path(self._config.run_as.directory)
        if not submitter and not users.is_dir():
            return RunRoots(self._directory.root)
        if submitter and (fault := fault_of(users)) is not None:
            raise ConfigInvalid(f"[run_as] directory {users}: {fault}", hint="docs/run-as.md says who makes it")
        PLACE.begin(str(users))
        return RunRoots(self._directory.root, users, submitter=submitter)

    async def _recover(self, engine: Engine) -> None:
        """Recover and begin to dispatch. Raises StorageFailed."""
        assert self._turns is not None
        begin = asyncio.ensure_future(engine.begin())
        needed: set[asyncio.Future[None]] = {begin, self._turns, self._background.failed}
        await asyncio.wait(needed, return_when=asyncio.FIRST_COMPLETED)
        if not begin.done():
            begin.cancel()
            self._raise_failure()
        begin.result()

    def _listen(self, engine: Engine, health: Health) -> None:
        """Serve clients."""
        source = (self._config_file, self._environ)  # a long file is read in a thread
        service = Service(
            engine, self._facts, health, self._reload, lambda: asyncio.to_thread(compare, engine.config, *source)
        )
        self._entrance.open(service, self._config.rpc, self._background, watched=engine.stalls.watched)
        self._directory.name_socket(self._entrance.path)

    def _listen_to_signals(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, engine.drain.begin)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        """SIGHUP: the terminal of the daemon was closed, or a person wants a reload. Reload in both cases."""
        self._background.start("reload", self._reload_or_log())

    async def _reload_or_log(self) -> None:
        assert self._engine is not None
        try:
            self._engine.refusals.check()
            await self._reload()
        except StokerError as error:
            log(LogEvent.CONFIG_REFUSED, error=error, hint=error.hint, errors=error.details.get("errors"))
        except OSError as error:  # of the search for the file: the old settings stay in force
            log(LogEvent.CONFIG_REFUSED, error=error)

    async def _reload(self) -> Reloaded:
        """Read the settings again, one reload at a time. Raises ConfigInvalid, and the old ones stay in force."""
        assert self._engine is not None
        source = (self._config_file, self._environ)
        async with self._reloading:
            reloaded = await self._engine.apply(await asyncio.to_thread(load, *source, again=True))
            await self._entrance.use(reloaded.config.access)
        log(LogEvent.CONFIG_RELOADED, config=find(*source), changed=reloaded.changed, needs_restart=reloaded.restart)
        return reloaded

    def _report_ready(self, engine: Engine, health: Health) -> None:
        self._began = time.monotonic()
        self._watchdog.ready(health, engine.describe)
        # Objects made at the start live as long as the daemon: keep the collector from examining them again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log(LogEvent.DAEMON_READY, socket=self._entrance.path, state_dir=self._directory.root, pid=os.getpid())

    # --- running ---

    async def _until_done(self) -> int:
        engine, turns = self._engine, self._turns
        assert engine is not None
        assert turns is not None
        drained = asyncio.ensure_future(engine.drain.done.wait())
        ends: set[asyncio.Future[Any]] = {drained, turns, self._background.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if drained.done():
            return 0
        drained.cancel()
        self._raise_failure()
        return EX_IOERR

    def _raise_failure(self) -> None:
        """Raise the error with which the loop of job state or a background task has ended, if there is one."""
        for part in (self._turns, self._background.failed):
            if part is not None and part.done():
                try:
                    part.result()
                except OSError as error:
                    raise storage_error(self._directory.root, error) from error

    def _on_callback_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the daemon if a callback raises: its timer or answer is lost. Lost connections are only logged."""
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception) and not isinstance(error, OSError):
            self._background.fail("a callback", error)
        else:
            loop.default_exception_handler(context)

    def _facts(self) -> ProcessStatus:
        """The part of `system.status` that the engine does not know."""
        assert self._engine is not None
        assert self._opened is not None
        engine, opened = self._engine, self._opened
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_ms": round((time.monotonic() - self._began) * 1_000),
            "instance": opened.instance.id,
            "epoch": opened.instance.epoch,
            "schema": opened.schema,
            "state_dir": str(self._directory.root),
            "socket": str(self._entrance.path),
            "connections": self._entrance.connections,
            "recovery": engine.recovery.describe(),
            "log_lines_lost": logs.lost_lines(),
            "retrying": dict(self._background.retrying),
            "disk": {"free_bytes": engine.housekeeping.measure_disk(), "full": engine.housekeeping.full},
        }

    # --- stopping ---

    async def _stop(self) -> None:
        """Stop the parts in reverse order. Each step also works if the start never reached its part."""
        self._watchdog.stopping()
        self._watchdog.close()
        log(LogEvent.DAEMON_STOPPING)
        await self._entrance.close()
        if self._engine is not None:
            await self._engine.end()
            self._engine.loop.stop()
        if self._turns is not None:
            await asyncio.wait({self._turns}, timeout=PATIENCE_S)
            self._turns.cancel()
        if self._engine is not None:
            self._engine.telemetry.close()
        if self._opened is not None:
            await self._close_state(self._opened)
        self._entrance.release()
        self._notifier.close()
        log(LogEvent.DAEMON_STOPPED)

    async def _close_state(self, opened: Opened) -> None:
        turns, failed = self._turns, self._background.failed.done()
        try:
            if self._engine is None or turns is None or failed or turns.cancelled() or turns.exception() is not None:
                return
            self._engine.housekeeping.note()
            await self._engine.journaling.close()
        finally:
            await opened.queries.close()
            await opened.reader.close()
            await opened.writer.close()
            self._directory.unlock()


class _Parser(argparse.ArgumentParser):
    """Exits with the status of sysexits.h, from which a service manager knows that a restart does not help."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="stokerd",
        description="Run the Stoker daemon in the foreground.",
        epilog="Settings: `stoker config show`. Exit status: 0 drained, 64-78 as in sysexits.h.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (default: see `stoker config path`)")
    parser.add_argument("--state-dir", metavar="DIR", help="directory of the database and logs")
    parser.add_argument("--socket", metavar="PATH", help="path of the socket to listen on")
    parser.add_argument("--version", action="version", version=f"stokerd {__version__}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The command `stokerd`."""
    encoding.use_utf8()
    status = live(argv)
    if sys.stdout is not None:
        with contextlib.suppress(OSError):  # the text that a handler printed, if its reader is gone
            sys.stdout.flush()
    # The state is closed and the log is written. A normal exit would wait for threads that may hang for ever.
    os._exit(status)


def live(argv: Sequence[str] | None) -> int:
    """The whole life of the daemon; returns its exit status."""
    umask = os.umask(0o077)  # every file made from here on is private from the start
    open_files.open_standard_streams()
    faulthandler.enable(2)  # the event loop aborts where epoll_ctl(2) fails: stderr must explain it
    # The SIGHUP of a closed terminal must not end the daemon, also before it can reload.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    flags = _arguments(argv)
    environ = dict(os.environ)
    logs.configure()  # until the settings are read, whose errors must be logged, too
    try:
        config = load(flags.config, environ)
        logs.configure(config.log.level, config.log.format)
        log(LogEvent.DAEMON_STARTING, version=__version__, pid=os.getpid(), config=find(flags.config, environ))
        load_handlers(config.daemon.handlers)
        open_files.take_more()
        root = Path(state_dir(flags.state_dir, environ, os.geteuid()))
        sockets = socket_paths(flags.socket, environ, os.geteuid())
        address = Path(first_within_reach(sockets, _session_exists))
        sdnotify.strip(os.environ)
        # Never closed, as the process ends: closing takes descriptors, which may be short.
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        return runner.run(_live(config, flags.config, root, address, environ, umask))
    except StokerError as error:
        return _refuse(error)
    except Exception as error:  # noqa: BLE001 - the last boundary: a bug is logged with its stack
        log(LogEvent.DAEMON_FAILED, error=error, code=StokerError.code)
        return EX_SOFTWARE
    finally:
        logs.flush()


async def _live(*given: Any) -> int:
    """Build the daemon inside its event loop."""
    return await Daemon(*given).run()


def _session_exists(socket: str) -> bool:
    """Whether the parent of the socket's directory exists: logind makes it for a user's first session."""
    return Path(socket).parent.parent.is_dir()


def _refuse(error: StokerError) -> int:
    """Report the error on stderr, as a log line and as text for people."""
    if isinstance(error, StorageFailed):
        log(LogEvent.STORAGE_FAILED, error=error)
    problems = error.details.get("errors", ())
    log(LogEvent.DAEMON_FAILED, error=error, code=error.code, hint=error.hint, errors=problems or None)
    logs.write_plain(f"stokerd: {error.message}\n")
    for problem in problems if len(problems) > 1 else ():
        logs.write_plain(f"  {problem}\n")
    if error.hint:
        logs.write_plain(f"hint: {error.hint}\n")
    return error.exit_status


if __name__ == "__main__":
    main()
