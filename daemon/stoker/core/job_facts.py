"""The facts around a job, from which `explain` says why it is in its state.

Owns their form and that of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from stoker.core.clock import Now
from stoker.core.cluster import EngineJob
from stoker.core.job.model import Attempt, Queue
from stoker.core.shortage import NO_SHORTAGE, Shortage
from stoker.core.standstill import Standstill
from stoker.core.workflow.state import Intent


class RateWait(Struct, frozen=True):
    """A rate that lets no job start now, and the time until it does."""

    rate: str
    next_token_ms: int


class ClusterFacts(Struct, frozen=True):
    """The word of a cluster's engine about the open run of a job. `away`: why it does not answer.

    `full`: why it takes no more jobs of the queue.
    """

    listed: EngineJob | None = None
    away: str | None = None
    full: str | None = None


class JobFacts(Struct, frozen=True, kw_only=True):
    """The facts around a job. `attempt` is its open attempt, `ended` the newest one that has ended.

    `closed`: why the daemon starts no jobs; `reserved`: the amounts set aside for each blocked job;
    `silent`: its launcher does not answer; `asleep`: its main process is in an uninterruptible sleep;
    `unstoppable`: pids of its tree that the daemon may not signal; `frozen`: frozen because its queue is throttled;
    `unheard_ms`: the silence of a worker that was warned about; `stale_ms`: the time since its last checkpoint, if
    that is too long; `intent`: the order given to its workflow, if it is a step; `goes_after`: the workflows for which
    that waits; `unmet`: needs that did not end as needed; `decision`: what was noted as its `if` was decided;
    `user_running` and `user_most`: how many jobs its user runs, and the quota;
    `narrowed`: the limit of its queue under pressure; `rates`: those without a token, by the words for their queue or
    key; `seen`: how its open conditions about files and the host stand, in words; `standstill`: that of its queue or
    of the daemon; `hidden`: jobs of other users, which are counted but not named; `cluster`: None for a job of this
    host.
    """

    now: Now
    queue: Queue
    queue_running: int = 0
    narrowed: int | None = None
    user_running: int = 0
    user_most: int | None = None
    running: int = 0
    slots: int = 1
    ahead: int = 0
    throttled_by: Sequence[str] = ()
    capacity: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    holders: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reserved: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    rates: Mapping[str, RateWait] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    open_needs: Sequence[int] = ()
    unmet: Sequence[int] = ()
    decision: str | None = None
    attempt: Attempt | None = None
    ended: Attempt | None = None
    closed: str | None = None
    shortage: Shortage = NO_SHORTAGE
    silent: bool = False
    asleep: bool = False
    unstoppable: Sequence[int] = ()
    intent: Intent = Intent.RUN
    goes_after: Sequence[int] = ()
    unheard_ms: int | None = None
    frozen: bool = False
    stale_ms: int | None = None
    standstill: Standstill | None = None
    hidden: frozenset[int] = frozenset()
    cluster: ClusterFacts | None = None


class Blocker(Struct, frozen=True):
    """The reason why a job waits: a stable code, a sentence, the next command, and the facts."""

    code: str
    message: str
    hint: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
