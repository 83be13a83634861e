"""What can happen to a job, and what the daemon does about it: the inputs and outputs of `lifecycle.step`.

Owns the closed lists of events and effects. Refuses behaviour: these are values that tests compare.
Verbs are the events that a person causes; they carry the actor.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from stoker.core.job.limits import Bounds
from stoker.core.job.model import STOKER, Actor, Attempt, Identity, Need, NeedOn, Outcome, Reason, StopReason


class Event(Struct, frozen=True, kw_only=True):
    actor: Actor = STOKER


class Woke(Event, frozen=True):
    """A `run_at` came or a backoff ended; the job goes on if nothing else holds it."""


class NeedMet(Event, frozen=True):
    """One of the needed jobs ended as wanted."""


class NeedFailed(Event, frozen=True):
    """A need can no longer be met. `reason`: `dependency`, or `not_needed` where a failure was waited for."""

    needed: int
    on: NeedOn
    reason: Reason = Reason.DEPENDENCY


class Dispatched(Event, frozen=True):
    """There is room: `attempt` is to be started once this is on disk."""

    attempt: Attempt


class StopWanted(Event, frozen=True):
    """The open attempt must end; the first reason wins."""

    reason: StopReason


class Ended(Event, frozen=True):
    """The open attempt is over and its tree gone. `luck` is uniform in [0, 1), for the jitter."""

    outcome: Outcome
    luck: float = 0.5


class Refused(Event, frozen=True):
    """The launcher found traces of this very attempt on disk: the disk knows more than the database."""

    why: str


class Adopted(Event, frozen=True):
    """A worker that survived an earlier daemon is this daemon's now."""


class Stuck(Event, frozen=True):
    """Nobody can prove whether the worker lives."""


class AttemptMissing(Event, frozen=True):
    """The job is stored as running, and no attempt of it is open: rows were damaged, or restored in part."""


class Began(Struct, frozen=True):
    """The worker runs, since `boot_ms` milliseconds after boot. A handler of the daemon itself has no identity.

    It changes no state, so it is no event of the table; neither is `Delivered`.
    """

    identity: Identity | None
    boot_ms: int
    bounds: Bounds | None = None


class Delivered(Struct, frozen=True):
    """Whether the first signal of a stop came before the end of the process."""

    delivered: bool


class TtlPassed(Event, frozen=True):
    """Not started within `ttl_ms`."""


class DeadlinePassed(Event, frozen=True):
    """The wall clock reached `deadline`."""


class Reset(Event, frozen=True):
    """Its workflow goes back: the step is to be taken again, as if it never had been.

    `needs_open`: how many of its needs are open again. `floor`: its checkpoints up to this seq do not count.
    """

    needs_open: int = 0
    floor: int = 0
    timeout_ms: int | None = None
    max_attempts: int | None = None


class Rewired(Event, frozen=True):
    """A person gave a step that has not started other needs; `needs_open`: how many of them are open."""

    needs: tuple[Need, ...]
    needs_open: int


class Cancel(Event, frozen=True):
    pass


class Retry(Event, frozen=True):
    """A person wants another run: budgets start afresh. `deadline` replaces one that has passed.

    `needs_open`: how many of its needs have not ended yet; a need that ended otherwise than wanted is passed over.
    """

    deadline: int | None = None
    timeout_ms: int | None = None
    needs_open: int = 0


class Skip(Event, frozen=True):
    pass


class Hold(Event, frozen=True):
    """Nothing starts until a person says so; `reason` is another than `user` where the daemon itself has doubts."""

    reason: Reason = Reason.USER


class Release(Event, frozen=True):
    pass


class Restart(Event, frozen=True):
    """Stop what runs and start anew; `yes` is wanted for an unsafe job.

    `needs_open`: as for a retry, where nothing runs. `force`: without its grace. `reassign`: also where its launcher
    does not answer, if its end can be proven.
    """

    yes: bool = False
    needs_open: int = 0
    force: bool = False
    reassign: bool = False


class Edit(Event, frozen=True):
    """Other values for fields of the spec. `moved_ms`: how far that moves the job in its queue, later is more."""

    changes: dict[str, Any] = field(default_factory=dict)
    moved_ms: int = 0


VERBS: dict[str, type[Event]] = {
    "cancel": Cancel,
    "retry": Retry,
    "skip": Skip,
    "hold": Hold,
    "release": Release,
    "restart": Restart,
    "edit": Edit,
}


class Effect(Struct, frozen=True):
    """Something to do once the rows of its step are committed."""


class Launch(Effect, frozen=True):
    attempt: Attempt


class Stop(Effect, frozen=True):
    """Walk the stop ladder over the attempt's whole tree."""

    run_id: str
    grace_ms: int


class Reassign(Effect, frozen=True):
    """A stop of this attempt need not wait for a launcher that does not answer: its end may be proven without it."""

    run_id: str


class Settled(Effect, frozen=True):
    """The attempt is closed: acknowledge it, free what it held, tidy its log."""

    run_id: str


class TellDependents(Effect, frozen=True):
    """Jobs that need this one may go on, or never can; those up to `after` know already."""

    job_id: int
    after: int = 0
