"""The rates and the buckets in memory, and when the next token comes for jobs that wait for one.

Owns the copy of the buckets that are not full; a full one is not kept, so a million keys that were used long ago cost
nothing. It only says what is due: `Deadlines` wakes the loop. Invariants: a bucket changes in the turn of a start, and
its row in the commit of that turn; each name that waits is in the heap once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from stoker.core.errors import TooManyRates
from stoker.core.job.model import Job, Queue, Spec
from stoker.core.rate import (
    EVERY_KEY,
    KEY_PREFIX,
    NANOSECONDS,
    QUEUE_PREFIX,
    Rate,
    bounded,
    next_token_ms,
    take,
    tokens,
)

EVERY_BUCKET = f"{KEY_PREFIX}{EVERY_KEY}"  # no key has this name
MOST_KEYS = 1_000  # with a rate of their own; `*` is for all others
FORGOTTEN_AT_ONCE = 64  # full buckets in a turn that starts jobs: more than it fills


def buckets_of(spec: Spec) -> list[str]:
    """The buckets whose tokens a job needs: of its queue and of its key, whether they have a rate or not."""
    return [f"{QUEUE_PREFIX}{spec.queue}", *([] if spec.rate_key is None else [f"{KEY_PREFIX}{spec.rate_key}"])]


class LiveRates:
    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = queues
        self.of_keys: dict[str, Rate] = {}
        self.full_at: dict[str, int] = {}  # by bucket, in nanoseconds
        self._filling: list[tuple[int, str]] = []  # a heap with one entry a bucket, for about that time
        self._waiting: dict[str, int] = {}  # by bucket that some job waits for: when its next token comes
        self._next: list[tuple[int, str]] = []  # the same as a heap
        self._changed: set[str] = set()  # buckets whose rate was changed since `arrived` was asked

    def load(self, buckets: Mapping[str, int]) -> None:
        """The buckets of the database."""
        self.full_at = dict(buckets)
        self._filling = [(at, name) for name, at in buckets.items()]
        heapq.heapify(self._filling)

    def check_room(self, key: str) -> None:
        """Raises TooManyRates if a new key would exceed the limit: status and lists show every one."""
        if key not in self.of_keys and len(self.of_keys) >= MOST_KEYS:
            problem = f"key: {key!r} would be one more than {MOST_KEYS} keys with a rate of their own"
            raise TooManyRates(problem, hint="stoker rate set '*' 10/s, for all other keys", path="key")

    def rate(self, name: str) -> Rate | None:
        """The rate of a bucket; None if it was removed."""
        if name.startswith(QUEUE_PREFIX):
            return self._queues[name.removeprefix(QUEUE_PREFIX)].rate
        return self.of_keys.get(name.removeprefix(KEY_PREFIX), self.of_keys.get(EVERY_KEY))

    def tokens(self, name: str, now_ms: int) -> int | None:
        """How many jobs may start now; None if there is no limit."""
        rate = self.rate(name)
        return None if rate is None else tokens(rate, self._bucket(name, rate, now_ms), now_ms)

    def next_token_ms(self, name: str, now_ms: int) -> int:
        rate = self.rate(name)
        return 0 if rate is None else next_token_ms(rate, self._bucket(name, rate, now_ms), now_ms)

    def _bucket(self, name: str, rate: Rate, now_ms: int) -> int:
        """When it is full. If a change of its rate left it too far ahead, it is empty from the first look on."""
        full_at = self.full_at.get(name, 0)
        if bounded(rate, full_at, now_ms) < full_at:
            full_at = self.full_at[name] = bounded(rate, full_at, now_ms)
        return full_at

    def take(self, job: Job, now_ms: int) -> dict[str, int]:
        """Take the tokens of a job that starts; returns the changed buckets."""
        names = buckets_of(job.spec)
        return {name: self._take(name, rate, now_ms) for name in names if (rate := self.rate(name)) is not None}

    def _take(self, name: str, rate: Rate, now_ms: int) -> int:
        full_at = take(rate, self._bucket(name, rate, now_ms), now_ms)
        if name not in self.full_at:
            heapq.heappush(self._filling, (full_at, name))
        self.full_at[name] = full_at
        return full_at

    def forget_full(self, now_ms: int) -> list[str]:
        """Forget some buckets that have become full, and return them."""
        full = []
        for _ in range(FORGOTTEN_AT_ONCE):
            if not self._filling or self._filling[0][0] > now_ms * NANOSECONDS:
                break
            _, name = heapq.heappop(self._filling)
            if self.full_at[name] > now_ms * NANOSECONDS:
                heapq.heappush(self._filling, (self.full_at[name], name))
            else:
                del self.full_at[name]
                full.append(name)
        return full

    def await_token(self, name: str, now_ms: int) -> None:
        """Note that a job waits for a token of this bucket."""
        if name not in self._waiting:
            at = self._waiting[name] = now_ms + max(1, self.next_token_ms(name, now_ms))
            heapq.heappush(self._next, (at, name))

    @property
    def next_at(self) -> int | None:
        """The steady time of the next token for which a job waits (ms)."""
        return self._next[0][0] if self._next else None

    def mark_changed(self, name: str) -> None:
        """The rate of a bucket was changed, or of all buckets (`EVERY_BUCKET`): `arrived` looks at it once a turn."""
        self._changed.add(name)

    def arrived(self, now_ms: int) -> list[str]:
        """The buckets that have a token, or no rate any more, for the jobs that wait for one."""
        due = self._changed_and_awaited()
        while self._next and self._next[0][0] <= now_ms:
            _, name = heapq.heappop(self._next)
            del self._waiting[name]
            due.append(name)
        return self._with_token(due, now_ms)

    def _changed_and_awaited(self) -> list[str]:
        """The awaited buckets whose rate was changed; they are awaited no more."""
        changed, self._changed = self._changed, set()
        names = list(self._waiting) if EVERY_BUCKET in changed else [name for name in changed if name in self._waiting]
        for name in names:
            del self._waiting[name]
        if names:
            self._next = [(at, name) for name, at in self._waiting.items()]
            heapq.heapify(self._next)
        return names

    def _with_token(self, names: Iterable[str], now_ms: int) -> list[str]:
        there = []
        for name in names:
            if self.tokens(name, now_ms) == 0:
                self.await_token(name, now_ms)
            else:
                there.append(name)
        return there

    def __len__(self) -> int:
        return len(self.full_at)
