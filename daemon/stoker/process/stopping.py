"""Stopping whole process trees: by the ladder through a launcher, or by a sweep without one.

Owns the order SIGTERM, grace, SIGKILL, proof. Only proven processes are signalled: each is pinned by a pidfd before it
is examined, and is ours by its run id or mark, by its identity, or as a child of one of ours. Invariant: a sweep
returns when a fresh search of /proc finds nothing of the runs and all that it ever found has ended; otherwise it gives
what is left.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self

from msgspec import Struct

from stoker.core.job.model import Identity
from stoker.process import identity as identities
from stoker.process.client import LauncherClient
from stoker.process.identity import IdentityVerdict, Marks

# A fork bomb may outrun one search, and a process in an uninterruptible sleep dies late: SIGKILL is sent again.
KILL_AGAIN_S = 1.0
ROUNDS = 20
ROUND_S = 0.5
ALL_REFUSED_S = 5.0  # between searches, where no process may be signalled and only new ones could


class Ladder:
    """SIGTERM, grace, SIGKILL for the tree of one run, through its launcher; the launcher reports the end."""

    def __init__(self, client: LauncherClient, run_id: str, grace_ms: int) -> None:
        self._client = client
        self._run_id = run_id
        self._grace_ms = grace_ms
        self._timer: asyncio.TimerHandle | None = None
        self._killing: asyncio.Future[bool] | None = None
        self._ended = False

    async def begin(self) -> bool:
        """Send the first signal; True if it came before the exit. Raises ConnectionError when the launcher is lost."""
        self._timer = asyncio.get_running_loop().call_later(self._grace_ms / 1_000, self._kill)
        return await self._client.signal(self._run_id, signal.SIGTERM if self._grace_ms else signal.SIGKILL)

    def hasten(self) -> None:
        """Skip the rest of the grace."""
        if self._timer is not None:
            self._timer.cancel()
        self._kill()

    def _kill(self) -> None:
        if self._ended or self._client.lost:
            return
        if self._killing is None or self._killing.done():  # else they pile up at a launcher that does not answer
            self._killing = self._client.signal(self._run_id, signal.SIGKILL)
        self._timer = asyncio.get_running_loop().call_later(KILL_AGAIN_S, self._kill)

    def end(self) -> None:
        """The tree is gone: no further step."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()


class SweepResult(Struct, frozen=True):
    """`killed` processes got a signal; those in `left` have not ended."""

    killed: int
    left: tuple[int, ...] = ()


class TreeMember(Struct, frozen=True):
    """A process that was found, pinned by a pidfd."""

    pid: int
    pidfd: int
    start_ticks: int


# Sends a signal to these processes. Gives the pids that it may not signal; None if it reached none.
Deliver = Callable[[Sequence[TreeMember], signal.Signals], Awaitable[Sequence[int] | None]]


class Sweep:
    """Stops every process of some runs. `mains`: the main processes whose identity is known, by run.

    A process stays pinned from its first sight until it ends, as it may be found only once: a child with an emptied
    environment is found by its parent, which may end first. So all stops of a run share one sweep, which carries them
    out one after the other. `refused` gets the pids that the kernel does not let us signal, whenever these change.
    `deliver` sends the signals in our place, where the processes are those of another user.
    Close it, or use it in a `with`.
    """

    def __init__(
        self,
        instance: str,
        run_ids: Collection[str],
        mains: Mapping[str, Identity] | None = None,
        refused: Callable[[Sequence[int]], None] = lambda _pids: None,
        deliver: Deliver | None = None,
    ) -> None:
        self._mains = dict(mains or {})
        self._find = partial(find_members, instance, set(run_ids), self._mains)
        self._on_refused = refused
        self._deliver = deliver
        self._members: dict[int, TreeMember] = {}
        self._reached: set[tuple[int, int]] = set()
        self._refused: list[int] = []
        self._busy = asyncio.Lock()
        self._hurry = asyncio.Event()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unpin everything, now or at the end of a stop that is under way."""
        self._closed = True
        if not self._busy.locked():
            self._unpin_all()

    def add_main(self, run_id: str, identity: Identity) -> None:
        """The main process of a run, once its identity is known."""
        self._mains[run_id] = identity

    @property
    def signalled(self) -> bool:
        """Whether a signal has reached any process by now."""
        return bool(self._reached)

    def living(self) -> list[int]:
        """Pids of the processes that were found and still live."""
        return [pid for pid, member in self._members.items() if not identities.has_ended(member.pidfd)]

    async def stop(self, grace_ms: int) -> SweepResult:
        """SIGTERM, grace, SIGKILL. Returns when a fresh search finds nothing, or after ROUNDS with what is left.

        Without a grace it also cuts short the grace of a stop that is under way.
        """
        if not grace_ms:
            self._hurry.set()
        async with self._busy:
            try:
                return await self._stop(grace_ms)
            finally:
                if self._closed:
                    self._unpin_all()

    async def _stop(self, grace_ms: int) -> SweepResult:
        grace_s = 0 if self._hurry.is_set() else grace_ms / 1_000
        signum, wait_s = (signal.SIGTERM, grace_s) if grace_s else (signal.SIGKILL, ROUND_S)
        for _ in range(ROUNDS):
            await self._search()
            if not self._members:
                break
            self._unpin_ended()  # one that ended since may have left a child that this search missed
            await self._signal(signum)
            hurry = self._hurry if signum is signal.SIGTERM else None
            await _until_ended(list(self._members.values()), ALL_REFUSED_S if self._all_refused() else wait_s, hurry)
            self._unpin_ended()
            signum, wait_s = signal.SIGKILL, ROUND_S
        else:
            await self._search()
        return SweepResult(len(self._reached), tuple(self._members))

    async def _search(self) -> None:
        """Keep what was found also if the search fails half-way: it may not be found a second time."""
        members = dict(self._members)
        try:
            await asyncio.to_thread(self._find, members)
        finally:
            self._members = members

    async def await_end(self) -> None:
        """Return when all processes that were found have ended."""
        while self._members:
            await _until_ended(list(self._members.values()), None)
            async with self._busy:
                self._unpin_ended()

    def _unpin_all(self) -> None:
        for member in self._members.values():
            os.close(member.pidfd)
        self._members.clear()

    async def _signal(self, signum: signal.Signals) -> None:
        members = list(self._members.values())
        if self._deliver is None:
            refused = sorted(_signal(members, signum, self._reached))
        else:
            delivered = await self._deliver(members, signum)
            refused = sorted(delivered or ())
            if delivered is not None:
                self._reached.update((one.pid, one.start_ticks) for one in members if one.pid not in refused)
        if refused and refused != self._refused:
            self._on_refused(refused)
        self._refused = refused

    def _all_refused(self) -> bool:
        return len(self._refused) == len(self._members)

    def _unpin_ended(self) -> None:
        for pid, member in list(self._members.items()):
            if identities.has_ended(member.pidfd):
                os.close(self._members.pop(pid).pidfd)


async def sweep(
    instance: str, run_ids: Collection[str], *, grace_ms: int, mains: Mapping[str, Identity] | None = None
) -> SweepResult:
    """One sweep, for a bounded time."""
    with Sweep(instance, run_ids, mains) as one:
        return await one.stop(grace_ms)


async def stop_unborn(pids_by_launcher: Mapping[str, Sequence[int]], instance: str) -> None:
    """SIGKILL to children of dead launchers that are between fork and exec: they show the launcher's variables only.

    Each is checked again once it is pinned, as its pid may be that of a new worker by now.
    """
    members: dict[int, TreeMember] = {}
    try:
        for launcher, pids in pids_by_launcher.items():
            for pid in pids:
                _take(members, pid, partial(_is_unborn, pid, Marks(instance=instance, launcher=launcher)))
        _signal(list(members.values()), signal.SIGKILL, set())
        await _until_ended(list(members.values()), ROUND_S)
    finally:
        for member in members.values():
            os.close(member.pidfd)


async def await_end(identity: Identity, instance: str, run_id: str) -> None:
    """Return when that process has ended, or was not proven to be there."""
    result, pidfd = identities.prove(identity, instance, run_id)
    if result is not IdentityVerdict.OURS or pidfd is None:
        return
    try:
        await _readable(pidfd)
    finally:
        os.close(pidfd)


# --- finding ----------------------------------------------------------------------------------------------


def find_members(
    instance: str, run_ids: set[str], mains: Mapping[str, Identity], pinned: dict[int, TreeMember] | None = None
) -> dict[int, TreeMember]:
    """The living processes of these runs, pinned, by pid: the `pinned` ones and all others, with their descendants."""
    members = {} if pinned is None else pinned
    marked = identities.scan(instance)
    for run_id in run_ids:
        for pid in marked.of_run(run_id):
            _take(members, pid, partial(identities.carries, pid, instance, run_id))
    for run_id, identity in mains.items():
        result, pidfd = identities.prove(identity, instance, run_id)
        if result is IdentityVerdict.OURS and pidfd is not None:
            if identity.pid in members:
                os.close(pidfd)
            else:
                members[identity.pid] = TreeMember(identity.pid, pidfd, identity.start_ticks)
    _take_descendants(members)
    return members


def _affordable_pins() -> int:
    """A quarter of the files that this process may open: each pinned process takes one. Later rounds find the rest.

    The rest gets no SIGTERM: thousands of processes are more likely a fork bomb than a worker that needs time to end.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft // 4)


def _take(members: dict[int, TreeMember], pid: int, is_ours: Callable[[], bool]) -> None:
    """Pin it, then check again that it is ours: a pid that was used again in between fails."""
    member = None if pid in members or len(members) >= _affordable_pins() else _pin(pid)
    if member is None:
        return
    try:
        ours = is_ours()
    except PermissionError:
        ours = False
    except OSError:
        os.close(member.pidfd)
        raise
    if ours and not identities.has_ended(member.pidfd):
        members[pid] = member
    else:
        os.close(member.pidfd)


def _take_descendants(members: dict[int, TreeMember]) -> None:
    """Add the descendants of all members, also those with an emptied environment."""
    children = defaultdict(list)
    for pid, stat in identities.readable_stats():
        children[stat.parent].append(pid)
    todo = list(members)
    while todo:
        parent = todo.pop()
        for pid in children[parent]:
            if pid not in members:
                _take(members, pid, partial(_is_child, pid, members[parent]))
                if pid in members:
                    todo.append(pid)


def _is_unborn(pid: int, shown: Marks) -> bool:
    return identities.read_marks(pid) == shown


def _is_child(pid: int, parent: TreeMember) -> bool:
    """Whether `pid`, which is pinned, has `parent` as its parent, and that has not ended."""
    stat = identities.read_stat(pid)
    return stat is not None and stat.parent == parent.pid and not identities.has_ended(parent.pidfd)


def _pin(pid: int) -> TreeMember | None:
    """None when it has ended or may not be read."""
    pidfd = identities.open_pidfd(pid)
    if pidfd is None:
        return None
    try:
        stat = identities.read_stat(pid)
    except PermissionError:
        stat = None
    except OSError:
        os.close(pidfd)
        raise
    if stat is None or stat.ended:
        os.close(pidfd)
        return None
    return TreeMember(pid, pidfd, stat.start_ticks)


# --- signalling -------------------------------------------------------------------------------------------


def _signal(members: Sequence[TreeMember], signum: signal.Signals, reached: set[tuple[int, int]]) -> list[int]:
    """Signal the processes. Returns the pids that we may not signal, as they became another user."""
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


async def _until_ended(
    members: Sequence[TreeMember], timeout_s: float | None, hurry: asyncio.Event | None = None
) -> None:
    """Return when all have ended, after `timeout_s`, or when `hurry` is set."""
    ends = [asyncio.ensure_future(_readable(member.pidfd)) for member in members]
    all_ended: asyncio.Future[Any] = asyncio.gather(*ends)
    waits = [all_ended] if hurry is None else [all_ended, asyncio.ensure_future(hurry.wait())]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            wait.result()  # OSError where the loop could not watch one of them
    finally:
        for wait in (*waits, *ends):  # a gather that has failed leaves the rest of its tasks running
            wait.cancel()
        await asyncio.gather(*waits, *ends, return_exceptions=True)


async def _readable(pidfd: int) -> None:
    """Return when that process has ended. A loop knows one reader of a descriptor, so each wait has its own."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    own = os.dup(pidfd)
    try:
        loop.add_reader(own, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(own)
        os.close(own)
