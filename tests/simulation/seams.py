"""The list of product functions that the simulated host replaces.

Owns the substitution: every module that holds one of these functions holds the simulated one meanwhile. Only functions
that read a clock, ask the kernel, or open a file or a socket are replaced; decisions never are.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, partialmethod
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import stoker.daemon  # noqa: F401 - so that every module that may hold a name is there
from stoker import files
from stoker.core import clock
from stoker.core.throttle import Sample
from stoker.engine import dispatcher, intake, reports
from stoker.host import inotify, logind, mounts, path_looks, power, probe, threads
from stoker.launcher import error_log, kernel
from stoker.launcher import launcher as launcher_module
from stoker.launcher import listener as launcher_listener
from stoker.launcher import loop as launcher_loop
from stoker.launcher import process_tree as launcher_tree
from stoker.ops import archive
from stoker.process import identity, launchers, outcomes, stopping, work_files
from stoker.process.client import LauncherClient
from tests.simulation.disk import SimulatedArchiveFile
from tests.simulation.host import Host, SimulatedLogind
from tests.simulation.launchers import SimulatedLogFile, SimulatedOutputs

if TYPE_CHECKING:
    from tests.simulation.world import World


class Layer:
    """A module with some of its names replaced."""

    def __init__(self, below: ModuleType, **names: Any) -> None:
        self._below = below
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


class SimulatedProbe:
    """A host whose only load is of the CPU."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def sample(self) -> Sample:
        return Sample(cpu=self._host.cpu)


class InputsOfNobody:
    """Simulated workers read no files. `deny` is asked whether one could be made."""

    def __init__(self, deny: Callable[[], None], _path: str) -> None:
        deny()

    def add(self, _ends: object) -> None:
        """Simulated workers do not read it."""

    def close(self) -> None:
        """Nothing was opened."""


def everywhere(world: World) -> dict[int, Any]:
    """The functions that are replaced in every module that has imported them."""
    host, disk, denials = world.host, world.disk, world.denials
    guarded = denials.guarded
    pairs: list[tuple[Any, Any]] = [
        (clock.wall_ms, host.wall_ms),
        (clock.boot_ms, host.read_boot_ms),
        (identity.boot_id, lambda: host.boot_id),
        (identity.pid_namespace, lambda: 1),
        (identity.open_pidfd, denials.open_pidfd),
        (identity.read_stat, guarded(host.read_stat)),
        (identity._read_environ, guarded(host.read_environ)),
        (identity.read_mark, guarded(host.read_mark)),
        (identity.has_ended, host.has_ended),
        (identity.pids, guarded(host.pids)),
        (launchers.find_launchers, guarded(lambda _state_dir: world.find_launchers())),
        (launchers.remove_remains, lambda _state_dir, name: world.launchers.pop(name, None)),
        (launchers.start_launcher, world.start_launcher),
        (outcomes.read_outcomes, guarded(disk.read_outcomes)),
        (outcomes.remove_outcomes, guarded(disk.remove_outcomes)),
        (work_files.InputsFile, partial(InputsOfNobody, denials.check)),
        (probe.Probe, partial(SimulatedProbe, host)),
        (logind.Logind, partial(SimulatedLogind, host)),
        (inotify.Inotify, world.places.open_inotify),
        (mounts.Mounts, world.places.open_mounts),
        (power.read_battery, lambda: host.battery),
        (threads.start_threads, lambda _count, _name: ThreadPoolExecutor(1)),  # none is started before it is used
        (files.free_bytes, lambda _path: world.free_bytes),
        (error_log.log_error, world.hear_complaint),
        (archive.path_of, disk.archive_path),
        (archive.ArchiveFile, SimulatedArchiveFile),
    ]
    return {id(real): simulated for real, simulated in pairs}


async def _connect(client: LauncherClient, world: World) -> None:
    await world.connect(client)


def in_place(world: World) -> list[tuple[Any, str, Any]]:
    """The functions that are replaced in one module only."""
    host = world.host
    return [
        (path_looks, "Path", world.places.path),
        (identity, "os", Layer(os, fstat=host.fstat, close=world.denials.close)),
        (stopping, "os", Layer(os, close=world.denials.close, dup=world.denials.dup)),
        (stopping, "signal", Layer(signal, pidfd_send_signal=host.pidfd_send_signal)),
        (secrets, "token_hex", lambda size: f"{world.chance.getrandbits(8 * size):0{2 * size}x}"),
        (dispatcher, "os", Layer(os, urandom=world.chance.randbytes)),
        (reports, "random", world.chance),
        (intake, "random", world.chance),
        (LauncherClient, "connect", partialmethod(_connect, world)),
        (launcher_loop, "time", SimpleNamespace(monotonic=lambda: host.boot_ms / 1_000)),
        (
            launcher_module,
            "os",
            Layer(os, wait4=host.wait4, close=lambda _fd: None, getpid=lambda: host.waiting, kill=host.kill),
        ),
        (
            launcher_tree,
            "os",
            Layer(
                os,
                open=lambda _path, _flags: -1,
                pread=host.children,
                getpid=lambda: host.waiting,
                kill=host.kill,
                killpg=host.killpg,
                waitpid=host.waitpid,
                close=host.close,
                listdir=lambda path: [path.split("/")[2]],
            ),
        ),
        (launcher_tree, "signal", Layer(signal, pidfd_send_signal=host.pidfd_send_signal)),
        (
            launcher_tree,
            "kernel",
            SimpleNamespace(
                read_proc=host.read_proc,
                read_stat=host.read_launcher_stat,
                has_ended=host.is_over,
                open_pidfd=host.pidfd_open,
                GONE_OR_HIDDEN=kernel.GONE_OR_HIDDEN,
            ),
        ),
        (launcher_tree, "read_mark", host.read_mark),
        (launcher_listener, "has_hung_up", lambda sock: sock.has_hung_up),
        (launcher_tree, "read_environments", host.read_environments),
        (launcher_module, "Outputs", SimulatedOutputs),
        (launcher_module, "LogFile", SimulatedLogFile),
        (launcher_module, "Spawner", lambda: None),
        (
            launcher_module,
            "kernel",
            SimpleNamespace(
                has_pidfs=lambda: host.pidfs,
                boot_id=lambda: host.boot_id,
                pid_namespace=lambda: 1,
                now_at_boot_ns=lambda: host.boot_ms * 1_000_000,
                now_at_boot_ms=lambda: host.boot_ms,
                now_ms=host.wall_ms,
                start_ticks=lambda pid, _before, _after: host.processes[pid].start_ticks,
                pidfs_inode=lambda pid: host.processes[pid].inode,
                take_pending=lambda _signum: False,
            ),
        ),
    ]


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Inside, the product runs on the simulated host."""
    replaced = everywhere(world)
    changes = in_place(world)
    for name, module in list(sys.modules.items()):
        if name.startswith("stoker."):
            held = [(key, replaced[id(value)]) for key, value in vars(module).items() if id(value) in replaced]
            changes += [(module, key, simulated) for key, simulated in held]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, simulated_value in changes:
            setattr(owner, name, simulated_value)
        yield
    finally:
        world.end()
        for owner, name, value in before:
            setattr(owner, name, value)
