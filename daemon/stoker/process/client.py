"""The daemon's client of one launcher: requests, reports, and notice that it is stuck or lost.

Owns the requests that wait for an answer. It decides nothing: reports go to `sink(launcher, reports)`, one synchronous
call for each frame, in the order in which the launcher sent them.

Invariants: a launcher is stuck only while it owes an answer, and lost only once; that it is stuck says nothing about
its workers. An answer to `list_runs` is a barrier: it covers every request that was sent before it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from stoker.core.errors import AlreadyRunning
from stoker.core.job.model import Identity
from stoker.process.connection import (
    MAX_ANSWER_BYTES,
    MAX_FOREIGN_ANSWER_BYTES,
    AskTooLarge,
    LauncherConnection,
    dial,
    peer_pid,
)
from stoker.process.messages import (
    Acknowledge,
    Answer,
    Exited,
    Gone,
    Hello,
    HelloAsk,
    LauncherBack,
    LauncherLost,
    LauncherReport,
    LauncherStuck,
    LaunchOrder,
    LaunchRefused,
    Leaked,
    ListAsk,
    Listed,
    ListedRun,
    OrphanLog,
    ReadLogs,
    SignalAsk,
    Signalled,
    SignalOrphans,
    Started,
)
from stoker.process.run_roots import belongs_to, uid_of
from stoker.process.spawner import UserAccount

Sink = Callable[[str, list[LauncherReport]], None]

# Silence is counted in ticks of our own loop, not by the clock: if the daemon itself was suspended for a minute, that
# is not the launcher's silence.
SILENT_TICKS = 4


class LauncherClient:
    """One connection to one launcher, on the running loop. Call `connect`, then `hello`, before all others."""

    def __init__(self, state_dir: Path, launcher: str, sink: Sink, *, stuck_ms: int = 5_000) -> None:
        self.launcher = launcher
        self.leaked = 0
        self.pid: int | None = None
        self.stuck = False
        self.lost = False
        self.left_empty = False  # it held no run when we left it, so it has nothing more to report or to write down
        self._state_dir = state_dir
        self._sink = sink
        self._tick_s = stuck_ms / 1_000 / SILENT_TICKS
        self.uid = uid_of(launcher)
        self.account: UserAccount | None = None  # of the user as whom it runs, if this daemon started it
        limit = MAX_ANSWER_BYTES if self.uid is None else MAX_FOREIGN_ANSWER_BYTES
        self._connection = LauncherConnection(self._receive, self._lose, limit)
        self._tags = itertools.count(1)
        self._facts: Hello | None = None
        self._greeting: asyncio.Future[Hello] | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._launching: set[str] = set()
        self._of_orphans: set[int] = set()  # tags
        self._watch: asyncio.TimerHandle | None = None
        self._silent_ticks = 0

    async def connect(self) -> None:
        """Raises OSError if no launcher listens."""
        sock = dial(self._state_dir, self.launcher)
        self.pid = peer_pid(sock)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._connection, sock=sock)

    async def hello(self, epoch: int, instance: str) -> Hello:
        """Take the launcher over; it has then read everything that an earlier daemon sent.

        Raises AlreadyRunning if it obeys a newer epoch, ConnectionError if it ends first. Has no time limit, as a stuck
        launcher answers late. The sink gets nothing before the answer.
        """
        self._greeting = asyncio.get_running_loop().create_future()
        self._ask(HelloAsk(epoch=epoch, instance=instance))
        return await self._greeting

    @property
    def facts(self) -> Hello:
        """Its answer to our hello."""
        if self._facts is None:
            raise RuntimeError("say hello first")
        return self._facts

    def launch(self, orders: Sequence[LaunchOrder]) -> dict[str, AskTooLarge]:
        """Each is answered by Started and later Exited, by Exited alone (spawn_error), or by LaunchRefused.

        Orders in the result were too large and not sent.
        """
        too_large = {}
        for order in orders:
            try:
                self._ask(order)
            except AskTooLarge as error:
                too_large[order.run_id] = error
            else:
                self._launching.add(order.run_id)
        return too_large

    def signal(self, run_id: str, signal: int, scope: Literal["tree", "main"] = "tree") -> asyncio.Future[bool]:
        """Whether it was delivered before the exit. ConnectionError if the launcher is lost before it answers."""
        tag, answer = self._expect()
        self._ask(SignalAsk(tag=tag, run_id=run_id, signal=signal, scope=scope))
        return answer

    def signal_orphans(
        self, run_id: str, processes: Iterable[tuple[int, int]], signal: int
    ) -> asyncio.Future[Sequence[int]]:
        """Signal processes of a run whose launcher died. Gives the pids that it may not signal. As `signal`."""
        tag, answer = self._expect()
        self._of_orphans.add(tag)
        self._ask(SignalOrphans(tag=tag, run_id=run_id, processes=tuple(processes), signal=signal))
        return answer

    def list_runs(self, run_ids: Iterable[str] = ()) -> asyncio.Future[list[ListedRun]]:
        """A snapshot of all runs it holds, and of `run_ids`; those that it calls unknown it will never start.

        Reports that are newer than the snapshot may reach the sink before you see it.
        """
        tag, answer = self._expect()
        self._ask(ListAsk(tag=tag, run_ids=tuple(run_ids)))
        return answer

    def acknowledge(self, run_ids: Iterable[str]) -> None:
        """The outcomes of these runs are committed: the launcher may forget them. Not answered."""
        if acknowledged := tuple(run_ids):
            self._connection.send(Acknowledge(run_ids=acknowledged))

    def read_logs(self, logs: Iterable[OrphanLog]) -> None:
        """Have it read the output of runs whose launcher died. Not answered."""
        self._connection.send(ReadLogs(runs=tuple(logs)))

    def identity(self, started: Started) -> Identity:
        """The proof that a process is this one, for when the launcher is gone."""
        return Identity(
            pid=started.pid,
            start_ticks=started.start_ticks,
            boot_id=self.facts.boot_id,
            pid_namespace=self.facts.pid_namespace,
            pidfs_inode=started.pidfs_inode,
            cgroup=started.cgroup,
        )

    def close(self) -> None:
        """Leave the launcher to itself once all is sent; no LauncherLost follows. May be repeated."""
        self._end()
        self._connection.close()

    # --- answers

    def _receive(self, answers: list[Answer]) -> None:
        if self.lost:
            return
        reports: list[LauncherReport] = []
        self._answered(reports)
        for answer in answers if self.uid is None else self._of_our_user(answers):
            if isinstance(answer, Started | Exited | Gone):
                self._launching.discard(answer.run_id)
                reports.append(answer)
            else:
                self._resolve(answer, reports)
        if reports:
            self._sink(self.launcher, reports)

    def _of_our_user(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Without what it says about runs of other users, as it may be a program of its user that pretends."""
        for answer in answers:
            if isinstance(answer, Listed):
                yield replace(answer, runs=[run for run in answer.runs if self._may_speak_of(run)])
            elif isinstance(answer, Hello | Leaked) or answer.run_id is None or belongs_to(answer.run_id, self.uid):
                yield answer

    def _may_speak_of(self, run: ListedRun) -> bool:
        named = [run.run_id, *(part.run_id for part in (run.started, run.exit) if part is not None)]
        return all(belongs_to(run_id, self.uid) for run_id in named)

    def _resolve(
        self, answer: Hello | Leaked | Listed | Signalled | LaunchRefused, reports: list[LauncherReport]
    ) -> None:
        match answer:
            case Hello():
                self._facts = answer
                self.leaked = answer.leaked
                self._settle(self._greeting, answer)
            case Leaked():
                self.leaked = answer.count
                reports.append(answer)
            case Listed():
                self.leaked = answer.leaked
                self._settle(self._asked.pop(answer.tag, None), answer.runs)
            case Signalled(tag=tag) if tag in self._of_orphans:
                self._of_orphans.discard(tag)
                self._settle(self._asked.pop(tag, None), answer.refused)
            case Signalled():
                reports.append(answer)
                self._settle(self._asked.pop(answer.tag, None), answer.delivered)
            case LaunchRefused(run_id=str(run_id)):
                self._launching.discard(run_id)
                reports.append(answer)
            case LaunchRefused():
                self._reject(AlreadyRunning(f"launcher {self.launcher} obeys another daemon ({answer.why})"))

    def _settle(self, waiting: asyncio.Future[Any] | None, value: object) -> None:
        if waiting is not None and not waiting.done():
            waiting.set_result(value)

    def _reject(self, error: Exception) -> None:
        waiting = [*self._asked.values(), *([self._greeting] if self._greeting else [])]
        self._asked.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # mark it as retrieved: not everyone awaits the answer to a signal

    def _lose(self) -> None:
        if not self.lost:
            self._end()
            self._report(LauncherLost(self.launcher))

    def _report(self, report: LauncherLost | LauncherStuck) -> None:
        """Only once the launcher answered our hello: before that, `hello` fails or waits."""
        if self._facts is not None:
            self._sink(self.launcher, [report])

    def _end(self) -> None:
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        self._reject(_gone(self.launcher))

    # --- requests that wait

    def _expect(self) -> tuple[int, asyncio.Future[Any]]:
        tag = next(self._tags)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[tag] = answer
        if self.lost:
            self._reject(_gone(self.launcher))
        return tag, answer

    def _ask(self, ask: HelloAsk | LaunchOrder | SignalAsk | ListAsk | SignalOrphans) -> None:
        self._connection.send(ask)
        if self._watch is None:
            self._silent_ticks = 0
            self._watch = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _owes_answer(self) -> bool:
        greeting_owed = self._greeting is not None and not self._greeting.done()
        return greeting_owed or bool(self._asked) or bool(self._launching)

    def _answered(self, reports: list[LauncherReport]) -> None:
        self._silent_ticks = 0
        if self.stuck:
            self.stuck = False
            if self._facts is not None:
                reports.append(LauncherBack(self.launcher))

    def _tick(self) -> None:
        """Count the silence of the launcher. It runs only while an answer is owed, so an idle daemon never wakes."""
        self._watch = None
        if self.lost or not self._owes_answer():
            return
        self._silent_ticks += 1
        self._watch = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        if self._silent_ticks >= SILENT_TICKS and not self.stuck:
            self.stuck = True
            self._report(LauncherStuck(self.launcher))


def _gone(launcher: str) -> ConnectionResetError:
    return ConnectionResetError(f"launcher {launcher} is gone")
