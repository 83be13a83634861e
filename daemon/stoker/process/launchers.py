"""Finding the launchers of an instance, and starting one.

Owns the files `launchers/<id>.{lock,sock,err}` on the daemon's side. A launcher holds its lock for life, so a lock that
can be taken proves that it is dead; nothing else proves it. Invariants: an id is `<epoch>-<8 hex>` and never used
twice; a new launcher gets no descriptor of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stoker.core.errors import CannotCreate
from stoker.files import NotRegular, open_regular, paths_in, read_regular
from stoker.foreign import PLACE, reached
from stoker.process import open_files
from stoker.process.client import LauncherClient, Sink
from stoker.process.run_roots import RunRoots, uid_of
from stoker.process.spawner import SpawnRefused, Wish, ask

PROGRAM = Path(__file__).resolve().parent.parent / "launcher" / "__main__.py"
# The variables that a launcher needs; those of workers come with each order. An interpreter with shared libraries in a
# place of its own does not start without LD_LIBRARY_PATH.
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
ERROR_TAIL_BYTES = 2_048
READY = b"+"
START_S = 30.0  # for an interpreter on a busy host; it may hang in a dead file system
REAP_AGAIN_S = 1.0
LOCK = 3
MAX_OF_USER = 64  # launchers of one user that are looked at: the user can make as many locks as the disk takes


class LauncherDead(Exception):
    """A launcher is proven dead, because its lock could be taken."""

    def __init__(self, launcher: str) -> None:
        super().__init__(f"launcher {launcher} is dead")


class Launchers(NamedTuple):
    alive: list[str]
    dead: list[str]


def find_launchers(roots: RunRoots) -> Launchers:
    """Every launcher that has a lock file; `alive` are those that hold it. Oldest epoch first.

    Raises OSError, NotRegular if a worker of our own user has put something else in place of a lock.
    """
    launchers = Launchers([], [])
    for path in sorted((path for root in roots for path in _locks(root)), key=_epoch):
        with contextlib.suppress(FileNotFoundError):  # it left meanwhile
            held = _held_by_user(path) if PLACE.owner_of(str(path)) is not None else _held(path)
            (launchers.alive if held else launchers.dead).append(path.stem)
    return launchers


def _locks(root: Path) -> list[Path]:
    """The lock files in a directory. In that of another user only those with names of that user's launchers count."""
    uid = PLACE.owner_of(f"{root}/")
    if uid is None:
        return paths_in(root / "launchers", ".lock")
    with contextlib.suppress(OSError), reached(f"{root}/launchers/") as directory:
        names = (name.removesuffix(".lock") for name in os.listdir(directory) if name.endswith(".lock"))  # noqa: PTH208
        return [root / "launchers" / f"{name}.lock" for name in islice(_of(uid, names), MAX_OF_USER)]
    return []


def _of(uid: int, launchers: Iterable[str]) -> Iterator[str]:
    return (name for name in launchers if uid_of(name) == uid)


def _held_by_user(path: Path) -> bool:
    """Whether a launcher of another user lives. Without a proper lock it counts as dead: /proc tells of its runs."""
    with contextlib.suppress(NotRegular, PermissionError):
        return _held(path)
    return False


def remove_remains(roots: RunRoots, launcher: str) -> None:
    """Remove the files of a dead launcher, except a stderr file with something in it."""
    if uid_of(launcher) is not None:
        _remove_of_user(roots, launcher)
        return
    stem = roots.state_dir / "launchers" / launcher
    errors = stem.with_suffix(".err")
    for path in (stem.with_suffix(".sock"), *((errors,) if _empty(errors) else ()), stem.with_suffix(".lock")):
        path.unlink(missing_ok=True)


def _remove_of_user(roots: RunRoots, launcher: str) -> None:
    for suffix in (".sock", ".err", ".lock"):
        path = f"{roots.of_launcher(launcher)}/launchers/{launcher}{suffix}"
        with contextlib.suppress(OSError), reached(path) as name:
            os.unlink(name)  # noqa: PTH108 - a name of a descriptor


async def start_user_launcher(
    roots: RunRoots, spawner: str, wish: Wish, sink: Sink, *, stuck_ms: int = 5_000
) -> LauncherClient:
    """Have the spawner start a launcher as another user, connect and say hello.

    Raises SpawnRefused, and OSError if it cannot be reached. One that hangs leaves by itself, as it gets no hello.
    """
    ready, ready_end = os.pipe2(os.O_CLOEXEC)
    try:
        account = await asyncio.to_thread(ask, spawner, wish, ready_end, str(roots.users))
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(ready_end)
    client = LauncherClient(roots.of_user(wish.uid), wish.launcher, sink, stuck_ms=stuck_ms)
    client.account = account
    try:
        async with asyncio.timeout(START_S):
            await _until_ready(ready, roots.of_user(wish.uid), wish.launcher)
            await client.connect()
            await client.hello(wish.epoch, wish.instance)
    except BaseException as error:
        client.close()
        if isinstance(error, TimeoutError | CannotCreate):
            words = str(error) or f"the launcher {wish.launcher} was not ready within {START_S:g} s"
            raise SpawnRefused(words, transient=True) from error
        raise
    return client


async def start_launcher(
    state_dir: Path, epoch: int, instance: str, sink: Sink, *, stuck_ms: int = 5_000
) -> LauncherClient:
    """Start a launcher of this epoch, connect and say hello.

    Raises CannotCreate, with its stderr, if it dies first. One that hangs is killed.
    """
    launcher = f"{epoch}-{secrets.token_hex(4)}"
    for name in ("launchers", "outcomes"):
        (state_dir / name).mkdir(mode=0o700, exist_ok=True)
    ready, pidfd = _begin(state_dir, launcher, instance)
    client = LauncherClient(state_dir, launcher, sink, stuck_ms=stuck_ms)
    try:
        async with asyncio.timeout(START_S):
            await _until_ready(ready, state_dir, launcher)
            await client.connect()
            await client.hello(epoch, instance)
    except BaseException as error:
        client.close()
        _give_up(state_dir, launcher, pidfd)
        if isinstance(error, TimeoutError):
            raise CannotCreate(f"the launcher {launcher} was not ready within {START_S:g} s") from error
        raise
    finally:
        os.close(pidfd)
    return client


def _begin(state_dir: Path, launcher: str, instance: str) -> tuple[int, int]:
    """Start the process; returns a pipe that says when it is ready, and a pidfd. A failure leaves no file open."""
    path = state_dir / "launchers" / f"{launcher}.lock"
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        ready, ready_end = os.pipe2(os.O_CLOEXEC)
        ours.callback(os.close, ready)
        its.callback(os.close, ready_end)
        try:
            lock = _lock(path)
            its.callback(os.close, lock)
            pidfd = _reap_when_dead(_spawn(state_dir, launcher, instance, ready_end, lock))
        except OSError:
            _remove_all(state_dir, launcher)
            raise
        ours.pop_all()
    return ready, pidfd


def _give_up(state_dir: Path, launcher: str, pidfd: int) -> None:
    """Kill it and remove its files: one try a second must not leave three files each."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _remove_all(state_dir, launcher)


def _remove_all(state_dir: Path, launcher: str) -> None:
    for suffix in (".sock", ".err", ".lock"):
        (state_dir / "launchers" / launcher).with_suffix(suffix).unlink(missing_ok=True)


def _epoch(path: Path) -> tuple[int, str]:
    epoch, _, rest = path.stem.partition("-")
    return (int(epoch) if epoch.isdecimal() else 0, rest)


def _held(path: Path) -> bool:
    with open(open_regular(path), "rb") as lock:  # noqa: PTH123 - a descriptor
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _empty(path: Path) -> bool:
    return path.exists() and path.stat().st_size == 0


def _lock(path: Path) -> int:
    """Locked before the launcher exists; it inherits the lock, which belongs to the open file (flock(2))."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        os.close(fd)
        raise
    return fd


def _spawn(state_dir: Path, launcher: str, instance: str, ready_end: int, lock: int) -> int:
    errors = os.fspath(state_dir / "launchers" / f"{launcher}.err")
    arguments = ["--state-dir", os.fspath(state_dir.resolve()), "--id", launcher, "--instance", instance]
    arguments += ["--open-files", str(open_files.given())]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-X", "utf8", os.fspath(PROGRAM), *arguments],
        dict(_environment(launcher, instance)),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, ready_end, 1),
            (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, lock, LOCK),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def _environment(launcher: str, instance: str) -> Iterator[tuple[str, str]]:
    yield from ((name, os.environ[name]) for name in ENVIRONMENT if name in os.environ)
    yield "STOKER_INSTANCE", instance
    yield "STOKER_LAUNCHER", launcher


def _reap_when_dead(pid: int) -> int:
    """Reap the launcher if it dies before the daemon. Gives a pidfd for the caller."""
    loop = asyncio.get_running_loop()
    pidfds: list[int] = []

    def has_ended() -> None:
        loop.remove_reader(pidfds[0])
        os.close(pidfds[0])
        reap()

    def reap() -> None:
        """The kernel reports the end to a debugger of the launcher first, and that may be stopped."""
        if os.waitpid(pid, os.WNOHANG)[0] != pid:
            loop.call_later(REAP_AGAIN_S, reap)

    try:
        pidfds += [os.pidfd_open(pid)]
        pidfds += [os.pidfd_open(pid)]
        loop.add_reader(pidfds[0], has_ended)
    except OSError:  # no descriptor is left; the pid of an unreaped child is not used again
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for pidfd in pidfds:
            os.close(pidfd)
        raise
    return pidfds[1]


async def _until_ready(ready: int, state_dir: Path, launcher: str) -> None:
    if await _read_ready(ready) != READY:
        raise CannotCreate(f"the launcher {launcher} did not start: {_read_stderr(state_dir, launcher)}")


async def _read_ready(ready: int) -> bytes:
    """READY once it listens; empty if it dies before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(ready, readable.set)
        await readable.wait()
        return os.read(ready, 1)
    finally:
        loop.remove_reader(ready)
        os.close(ready)


def _read_stderr(state_dir: Path, launcher: str) -> str:
    try:
        written = read_regular(state_dir / "launchers" / f"{launcher}.err")
    except OSError as error:
        return str(error)
    return written[-ERROR_TAIL_BYTES:].decode(errors="replace").strip() or "its stderr is empty"
