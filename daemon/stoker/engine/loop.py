"""The loop that owns job state: it takes the waiting messages, decides them in one turn, commits, acts and answers.

Owns the order "commit, then act, then announce". Messages that arrive during a commit share the next one: that is the
group commit. Invariants: there is only one turn at a time; a turn has one `now`, for its reads and its decisions; no
effect runs and no answer goes out before the rows are durable; a commit that is in doubt ends the daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from stoker.core.clock import Clock, Now
from stoker.core.errors import StokerError
from stoker.engine.inbox import Inbox, Message, RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store.loading import Loaded, Wanted, load
from stoker.store.writer import Writer
from stoker.telemetry.stalls import Stalls

TURN_LIMIT = 512  # weight of its messages
BREATH = 128  # messages, pieces of long ones, and changes of jobs
# A client that got an answer often sends its next request at once. For so long after answers, reports wait for it: both
# then share a turn and a commit, and a submit after the other costs a third fewer context switches.
COMPANY_S = 0.001
STEPS_IN_PIECE = 64  # of a workflow that is only looked at


class TurnDispatcher(Protocol):
    def declare_reads(self, wanted: Wanted) -> None: ...
    def dispatch(self, turn: Turn) -> bool: ...


class TurnHooks(Protocol):
    def trigger(self, turn: Turn) -> Iterator[int]: ...


class AfterCommit(Protocol):
    def after_commit(self, turn: Turn) -> None: ...


class Loop:
    def __init__(
        self,
        inbox: Inbox,
        writer: Writer,
        memory: LiveState,
        clock: Clock,
        dispatcher: TurnDispatcher,
        hooks: TurnHooks,
        stalls: Stalls,
        after_commit: Sequence[AfterCommit],
    ) -> None:
        self._inbox = inbox
        self._writer = writer
        self._memory = memory
        self._clock = clock
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._stalls = stalls
        self._after_commit = after_commit
        self._stopping = False
        self._computing_since = 0.0  # see Stalls.now
        self.turns = 0

    def stop(self) -> None:
        """End once the inbox is empty."""
        self._stopping = True
        self._inbox.wake()

    @property
    def waiting(self) -> bool:
        """Whether a commit waits for room on the disk; no turn is taken before there is some."""
        return self._writer.waiting

    async def answers(self) -> None:
        """Return once the loop takes turns, or waits for room on the disk: in both cases it does not hang."""
        if not self.waiting:
            await self._inbox.next_turn()

    async def run(self) -> None:
        """Take turns. Raises StorageFailed when a commit is in doubt."""
        while True:
            await self._inbox.news()
            if not self._stopping:
                await self._inbox.company(COMPANY_S)
            more = await self._turn(self._inbox.take(TURN_LIMIT))
            if more or self._inbox:
                self._inbox.wake()
            elif self._stopping:
                return

    async def _turn(self, messages: Sequence[Message]) -> bool:
        """Take one turn. Returns whether more jobs can be started at once."""
        now = self._clock.now()
        messages, rows = await self._load_what_fits(messages, now)
        turn = Turn(self._memory, now, rows)
        more = await self._decide(turn, messages)
        await self._commit(turn, messages)
        self._act(turn, messages)
        await self._writer.checkpoint_if_due()  # the answers of this turn go out meanwhile
        return more

    async def _decide(self, turn: Turn, messages: Sequence[Message]) -> bool:
        """Collect in the turn what follows from the messages. Returns whether a further turn could start more jobs."""
        self._computing_since = self._stalls.now()
        for (queue, key), jobs in turn.loaded.lanes.items():
            self._memory.ready[queue].refill(key, jobs)
        loaded = (self._memory.workflows.load(each, turn.loaded.heads) for each in turn.loaded.workflows)
        await self._in_pieces(turn, messages, _by_steps(loaded))
        await self._in_pieces(turn, messages, _applied(turn, messages))
        more = self._dispatcher.dispatch(turn)
        await self._breathe_if_long(turn, messages)
        await self._in_pieces(turn, messages, _by_steps(turn.judge_workflows()))
        submitted = len(turn.batch.new_jobs)
        await self._in_pieces(turn, messages, self._hooks.trigger(turn))
        await self._breathe_if_long(turn, messages)
        return more or len(turn.batch.new_jobs) > submitted  # the jobs of hooks may start in the next turn

    async def _commit(self, turn: Turn, messages: Sequence[Message]) -> None:
        batch = turn.finish()
        self._measure("decide", turn, messages)
        if batch:
            began = time.perf_counter()
            ends = await self._writer.commit(batch, turn.needed_ends())
            turn.ends.update((end.job, end) for end in ends)
            self._stalls.telemetry.committed(len(messages), (time.perf_counter() - began) * 1_000)
            self._memory.committed_seq = self._memory.last_seq
            self.turns += 1

    def _act(self, turn: Turn, messages: Sequence[Message]) -> None:
        """Carry out the turn, which is on disk, and announce it."""
        self._computing_since = self._stalls.now()
        # Workflows that were loaded for a refused command leave the memory, too.
        self._memory.workflows.forget(turn.touched_workflows | {stored.workflow.id for stored in turn.loaded.workflows})
        for part in self._after_commit:
            part.after_commit(turn)
        if any(isinstance(message, RequestMessage) for message in messages):
            self._inbox.note_answers()
        self._measure("act", turn, messages)

    async def _in_pieces(self, turn: Turn, messages: Sequence[Message], work: Iterator[int]) -> None:
        """Do the work, which yields the size of each piece; after every BREATH the event loop serves other callbacks.

        That is as safe as the wait for the commit: only turns change the memory, and there is only one at a time.
        """
        done, breath = 0, len(turn.transitions)
        for size in work:
            done += size
            if done + len(turn.transitions) - breath >= BREATH:
                breath = done + len(turn.transitions)
                await self._breathe(turn, messages)

    async def _breathe_if_long(self, turn: Turn, messages: Sequence[Message]) -> None:
        if len(turn.transitions) >= BREATH:
            await self._breathe(turn, messages)

    async def _breathe(self, turn: Turn, messages: Sequence[Message]) -> None:
        self._measure("decide", turn, messages)
        await asyncio.sleep(0)
        self._computing_since = self._stalls.now()

    def _measure(self, part: str, turn: Turn, messages: Sequence[Message]) -> None:
        self._stalls.measure_turn(self._computing_since, part, messages, len(turn.transitions))

    async def _load_what_fits(self, messages: Sequence[Message], now: Now) -> tuple[Sequence[Message], Loaded]:
        """The first of the messages that one turn can take, with what they read; the others wait for the next turn.

        Only the rows tell which jobs are steps of workflows that have ended, and so are not in memory.
        """
        while (loaded := await self._load(messages, now)).crowded:
            half = len(messages) // 2
            self._inbox.put_back(messages[half:])
            messages = messages[:half]
        return messages, loaded

    async def _load(self, messages: Sequence[Message], now: Now) -> Loaded:
        memory, divisible = self._memory, len(messages) > 1
        wanted = Wanted(now, open_runs=memory.runs, live_workflows=memory.workflows.runs, divisible=divisible)
        began = self._stalls.now()
        for message in messages:
            message.declare_reads(wanted)
        self._dispatcher.declare_reads(wanted)
        self._stalls.measure_turn(began, "read", messages, 0)
        return await self._writer.read(load, wanted) if wanted else Loaded()


def _applied(turn: Turn, messages: Sequence[Message]) -> Iterator[int]:
    """Apply one message after the other, a long one in pieces."""
    for message in messages:
        try:
            for _ in message.apply_to(turn) or ():
                yield 1
        except StokerError as error:
            message.fail(error.as_value())
        yield 1


def _by_steps(workflows: Iterator[int]) -> Iterator[int]:
    """Look at one workflow after the other, of so many steps."""
    return (1 + steps // STEPS_IN_PIECE for steps in workflows)
