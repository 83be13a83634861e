"""The inbox of the loop: messages, and requests, which are messages with an awaited answer.

Owns the order of the messages. Each one names the rows that it needs (`declare_reads`) and is then applied to a turn
(`apply_to`). Invariants: a message that fails has changed nothing of its turn; a request is answered after the commit
of its turn, or with the error that refused it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from stoker.core.job import events as ev
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted

T = TypeVar("T")


class Message:
    """One entry of the inbox, applied in one turn together with all others that arrived meanwhile.

    `weight`: how much it may read, compared with a message about one job. `patience_s`: how long it may wait for other
    messages, to share a turn and a commit with them.
    """

    weight = 1
    patience_s = 0.0

    def declare_reads(self, wanted: Wanted) -> None:
        """Add what must be read first; by default nothing, as running jobs and queues are in memory."""

    def apply_to(self, turn: Turn) -> Iterator[None] | None:
        """Turn the message into steps. Raises StokerError before it has changed anything.

        A long one yields between its pieces, so that the event loop can serve other callbacks.
        """
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """The message was refused. No client awaits it, so this is a bug of ours."""
        raise error


class RequestMessage(Message, Generic[T]):
    """A message with an awaited answer. If its client hangs up, the future is cancelled."""

    def __init__(self, future: asyncio.Future[T] | None = None) -> None:
        self.future = future or asyncio.get_running_loop().create_future()

    def answer_after(self, turn: Turn, result: T) -> None:
        turn.effects.append(AnswerRequest(self, result))

    def answer(self, result: T) -> None:
        """Answer now: what the result says is on disk."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class AnswerRequest(ev.Effect, Generic[T], frozen=True):
    """The result of a request, for its client."""

    request: RequestMessage[T]
    result: T


class PostMessage(ev.Effect, frozen=True):
    """There is more to do than fits in one turn: a later turn goes on with this message."""

    message: Message


class Barrier(RequestMessage[None]):
    """Changes nothing; it is answered when its turn is committed, and all turns before."""

    def apply_to(self, turn: Turn) -> None:
        self.answer_after(turn, None)


class Inbox:
    """The messages, and the sleep of the loop until there are some. Only one task waits: no event is made for it."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._due = False  # there is a reason for a turn
        self._take_at_s = math.inf  # when the first message loses its patience, by the clock of the event loop
        self._asked = False  # a request is among the messages, or one that an earlier turn left
        self._asleep: asyncio.Future[None] | None = None
        self._answered_s = 0.0  # when the last turn with a request was answered, by the clock of the event loop
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: Python 3.11 makes a system call of it

    def __len__(self) -> int:
        return len(self._messages)

    def post(self, message: Message) -> None:
        """Add a message; safe from any callback of the event loop's thread."""
        self._messages.append(message)
        self._asked = self._asked or isinstance(message, RequestMessage)
        if not self._asked:
            self._take_at_s = min(self._take_at_s, self._running_loop().time() + message.patience_s)
        self.wake()

    def wake(self) -> None:
        """Let the loop take a turn, even without a message: more jobs may be able to start."""
        self._due = True
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    def after_commit(self, turn: Turn) -> None:
        """Post the messages that the turn leaves to later ones."""
        for effect in turn.effects:
            if isinstance(effect, PostMessage):
                self.post(effect.message)

    async def ask(self, request: RequestMessage[T]) -> T:
        self.post(request)
        return await request.future

    async def ask_first(self, request: RequestMessage[T]) -> T:
        """As `ask`, in the next turn, in front of all that waits."""
        self._messages.appendleft(request)
        self._asked = True
        self.wake()
        return await request.future

    async def barrier(self) -> None:
        """Wait until everything that was posted before is committed."""
        await self.ask(Barrier())

    async def next_turn(self) -> None:
        """Wait until the next turn is committed, however much waits for later ones."""
        await self.ask_first(Barrier())

    async def news(self) -> None:
        """Wait until there is a reason for a turn."""
        if not self._due:
            await self._sleep(self._running_loop())
        self._due = False

    def note_answers(self) -> None:
        """Requests are answered now: their clients may send the next ones at once."""
        self._answered_s = self._running_loop().time()

    async def company(self, after_answers_s: float) -> None:
        """Wait as long as the messages have patience, or until so long after the last answers; a request ends it."""
        loop = self._running_loop()
        while self._messages and not self._asked:
            left_s = max(self._take_at_s, self._answered_s + after_answers_s) - loop.time()
            if left_s <= 0:
                return
            timer = loop.call_later(left_s, self.wake)
            await self._sleep(loop)
            timer.cancel()
            self._due = False

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asleep = loop.create_future()
        try:
            await self._asleep
        finally:
            self._asleep = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = self._loop or asyncio.get_running_loop()
        return self._loop

    def put_back(self, taken: Sequence[Message]) -> None:
        """Messages that were taken and wait again, in front of all others and in their order."""
        self._messages.extendleft(reversed(taken))
        self._asked = True

    def take(self, limit: int) -> list[Message]:
        """The next messages, at least one, of this weight together."""
        taken: list[Message] = []
        while self._messages and limit > 0:
            limit -= self._messages[0].weight
            taken.append(self._messages.popleft())
        self._take_at_s, self._asked = math.inf, bool(self._messages)
        return taken
