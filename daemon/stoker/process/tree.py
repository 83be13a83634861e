"""Stopping whole trees: the ladder through a launcher, and the sweep where no launcher is left.

Owns the order SIGTERM, grace, SIGKILL, proof. Refuses to signal what is not proven: a process is pinned by a
pidfd before it is looked at, and is ours by its nonce, by its identity, or as a child of one that is. Invariant:
a sweep returns only when a fresh look at /proc finds nothing of the runs and all that it ever found has ended, or says
what is left.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Self

from msgspec import Struct

from stoker.core.job.model import Identity
from stoker.process import identity as identities
from stoker.process.client import LauncherClient
from stoker.process.identity import IdentityVerdict, Marks

# A fork bomb may outrun one walk, and a process in an uninterruptible sleep dies late: SIGKILL is said again.
KILL_AGAIN_S = 1.0
ROUNDS = 20
ROUND_S = 0.5
LOOK_S = 5.0  # where nothing is left that may be signalled: for who joins it meanwhile


class Ladder:
    """SIGTERM, grace, SIGKILL for the tree of one run, through its launcher; the launcher reports the end."""

    def __init__(self, client: LauncherClient, run_id: str, grace_ms: int) -> None:
        self._client = client
        self._run_id = run_id
        self._grace_ms = grace_ms
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    async def begin(self) -> bool:
        """Whether the first signal came before the exit. Raises ConnectionError when the launcher is lost."""
        self._timer = asyncio.get_running_loop().call_later(self._grace_ms / 1_000, self._kill)
        return await self._client.signal(self._run_id, signal.SIGTERM if self._grace_ms else signal.SIGKILL)

    def hasten(self) -> None:
        """No more grace."""
        if self._timer is not None:
            self._timer.cancel()
        self._kill()

    def _kill(self) -> None:
        if self._ended or self._client.lost:
            return
        self._client.signal(self._run_id, signal.SIGKILL)
        self._timer = asyncio.get_running_loop().call_later(KILL_AGAIN_S, self._kill)

    def end(self) -> None:
        """The tree is gone: no further step."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()


class SweepResult(Struct, frozen=True):
    """`killed` processes got a signal; `left` could not be brought to an end."""

    killed: int
    left: tuple[int, ...] = ()


class Sweep:
    """Stops every process of some runs. `mains` are main processes whose identity is known, marks or not.

    Each process that was found stays pinned until it has ended, as it may be found only once: a child with an emptied
    environment is known by its parent, and its parent may die first. `refused` is told the pids that the kernel does
    not let us signal, each time that there are others. Close it, or use it in a `with`.
    """

    def __init__(
        self,
        instance: str,
        run_ids: Collection[str],
        mains: Mapping[str, Identity] | None = None,
        refused: Callable[[Sequence[int]], None] = lambda _pids: None,
    ) -> None:
        self._find = partial(find_members, instance, set(run_ids), mains or {})
        self._tell_refused = refused
        self._members: dict[int, TreeMember] = {}
        self._reached: set[tuple[int, int]] = set()
        self._refused: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members.values():
            os.close(member.pidfd)
        self._members.clear()

    async def stop(self, grace_ms: int) -> SweepResult:
        """SIGTERM, grace, SIGKILL. Returns when a fresh look finds nothing and everything found before has ended."""
        signum, wait_s = (signal.SIGTERM, grace_ms / 1_000) if grace_ms else (signal.SIGKILL, ROUND_S)
        for _ in range(ROUNDS):
            self._members = await asyncio.to_thread(self._find, dict(self._members))
            if not self._members:
                break
            self._let_go()  # one that ended since may have left a child that this look has missed
            self._signal(signum)
            await _until_ended(list(self._members.values()), LOOK_S if self._all_refused() else wait_s)
            self._let_go()
            signum, wait_s = signal.SIGKILL, ROUND_S
        else:
            self._members = await asyncio.to_thread(self._find, dict(self._members))
        return SweepResult(len(self._reached), tuple(self._members))

    async def await_end(self) -> None:
        """Return when everything that was found has ended."""
        while self._members:
            await _until_ended(list(self._members.values()), None)
            self._let_go()

    def _signal(self, signum: signal.Signals) -> None:
        refused = sorted(_signal(list(self._members.values()), signum, self._reached))
        if refused and refused != self._refused:
            self._tell_refused(refused)
        self._refused = refused

    def _all_refused(self) -> bool:
        return len(self._refused) == len(self._members)

    def _let_go(self) -> None:
        """Of those that have ended."""
        for pid, member in list(self._members.items()):
            if identities.has_ended(member.pidfd):
                os.close(self._members.pop(pid).pidfd)


async def sweep(
    instance: str, run_ids: Collection[str], *, grace_ms: int, mains: Mapping[str, Identity] | None = None
) -> SweepResult:
    """One sweep, for a bounded time."""
    with Sweep(instance, run_ids, mains) as one:
        return await one.stop(grace_ms)


async def stop_unborn(found: Mapping[str, Sequence[int]], instance: str) -> None:
    """SIGKILL to what shows nothing but the marks of a dead launcher: its children between fork and exec, by launcher.

    Looked at again once pinned: by now a number may be that of a worker which a living launcher has started.
    """
    members: dict[int, TreeMember] = {}
    for launcher, pids in found.items():
        for pid in pids:
            _take(members, pid, partial(_is_unborn, pid, Marks(instance=instance, launcher=launcher)))
    try:
        _signal(list(members.values()), signal.SIGKILL, set())
        await _until_ended(list(members.values()), ROUND_S)
    finally:
        for member in members.values():
            os.close(member.pidfd)


async def await_end(identity: Identity, instance: str, run_id: str) -> None:
    """Return when that process has ended, or is proven not to be there."""
    said, pidfd = identities.prove(identity, instance, run_id)
    if said is not IdentityVerdict.OURS or pidfd is None:
        return
    try:
        await _readable(pidfd)
    finally:
        os.close(pidfd)


# --- finding ----------------------------------------------------------------------------------------------


class TreeMember(Struct, frozen=True):
    """A living process, pinned."""

    pid: int
    pidfd: int
    start_ticks: int


def find_members(
    instance: str, run_ids: set[str], mains: Mapping[str, Identity], known: dict[int, TreeMember] | None = None
) -> dict[int, TreeMember]:
    """The living processes of these runs, pinned, by pid; `known` ones of them are there again, with what is below."""
    found = {} if known is None else known
    scan = identities.scan(instance)
    for run_id in run_ids:
        for pid in scan.of_run(run_id):
            _take(found, pid, partial(identities.carries, pid, instance, run_id))
    for run_id, identity in mains.items():
        said, pidfd = identities.prove(identity, instance, run_id)
        if said is IdentityVerdict.OURS and pidfd is not None:
            if identity.pid in found:
                os.close(pidfd)
            else:
                found[identity.pid] = TreeMember(identity.pid, pidfd, identity.start_ticks)
    _take_descendants(found)
    return found


def _affordable_pins() -> int:
    """A quarter of the files this process may open. Of a tree that is larger the rest is met in the next rounds.

    Those go without their SIGTERM: what has thousands of processes is more likely a bomb than a worker that tidies up.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // 4)


def _take(found: dict[int, TreeMember], pid: int, is_ours: Callable[[], bool]) -> None:
    """Pin first, then look again at what made it ours: a pid that was reused in between fails."""
    member = None if pid in found or len(found) >= _affordable_pins() else _pin(pid)
    if member is None:
        return
    try:
        ours = is_ours()
    except PermissionError:
        ours = False
    if ours and not identities.has_ended(member.pidfd):
        found[pid] = member
    else:
        os.close(member.pidfd)


def _take_descendants(found: dict[int, TreeMember]) -> None:
    """Children of ours are ours, also with an emptied environment."""
    children = defaultdict(list)
    for pid in identities.pids():
        stat = identities.read_stat(pid)
        if stat is not None:
            children[stat.parent].append(pid)
    todo = list(found)
    while todo:
        parent = todo.pop()
        for pid in children[parent]:
            if pid not in found:
                _take(found, pid, partial(_is_child, pid, found[parent]))
                if pid in found:
                    todo.append(pid)


def _is_unborn(pid: int, shown: Marks) -> bool:
    return identities.read_marks(pid) == shown


def _is_child(pid: int, parent: TreeMember) -> bool:
    """`pid` is pinned and names `parent`, which still is the process it was."""
    stat = identities.read_stat(pid)
    return stat is not None and stat.parent == parent.pid and not identities.has_ended(parent.pidfd)


def _pin(pid: int) -> TreeMember | None:
    pidfd = identities.open_pidfd(pid)
    if pidfd is None:
        return None
    stat = identities.read_stat(pid)
    if stat is None or stat.ended:
        os.close(pidfd)
        return None
    return TreeMember(pid, pidfd, stat.start_ticks)


# --- signalling -------------------------------------------------------------------------------------------


def _signal(members: Sequence[TreeMember], signum: signal.Signals, reached: set[tuple[int, int]]) -> list[int]:
    """Gives the pids that the kernel does not let us signal: of programs that became another user."""
    refused = []
    for member in members:
        try:
            signal.pidfd_send_signal(member.pidfd, signum)
            if signum is not signal.SIGKILL:
                signal.pidfd_send_signal(member.pidfd, signal.SIGCONT)
            reached.add((member.pid, member.start_ticks))
        except ProcessLookupError:
            continue
        except PermissionError:
            refused.append(member.pid)
    return refused


async def _until_ended(members: Sequence[TreeMember], timeout_s: float | None) -> None:
    waits = [asyncio.ensure_future(_readable(member.pidfd)) for member in members]
    if not waits:
        return
    try:
        await asyncio.wait(waits, timeout=timeout_s)
    finally:
        late = [wait for wait in waits if wait.cancel()]
        await asyncio.gather(*late, return_exceptions=True)


async def _readable(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
