"""The inputs of `lifecycle.step` (events) and its outputs (effects): closed lists of plain values.

Verbs are the events that a person causes; they carry the actor.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from stoker.core.job.limits import Bounds
from stoker.core.job.model import STOKER, Actor, Attempt, Identity, Need, NeedOn, Outcome, Reason, StopReason, When
from stoker.core.job.run_if import Decision
from stoker.core.job.taken_over import TakenOver


class Event(Struct, frozen=True, kw_only=True):
    actor: Actor = STOKER


class Woke(Event, frozen=True):
    """Its `run_at` was reached or its backoff ended; the job is queued unless something else still blocks it."""


class NeedMet(Event, frozen=True):
    """A needed job ended as the need asks."""


class ConditionMet(Event, frozen=True):
    """Condition `number` of its `wait_for` is met."""

    number: int


class NeedFailed(Event, frozen=True):
    """A need can no longer be met. `reason` is `dependency`, or `not_needed` if the need was a failure."""

    needed: int
    on: NeedOn
    reason: Reason = Reason.DEPENDENCY


class Unneeded(Event, frozen=True):
    """A need can no longer be met, without harm: with the last the job is skipped, or once another fails."""


class Decided(Event, frozen=True):
    """The `if` of a step was decided; the note of the actor is its text, or why it has no value."""

    decision: Decision


class Dispatched(Event, frozen=True):
    """The dispatcher opened `attempt`; it is started after the commit."""

    attempt: Attempt


class StopWanted(Event, frozen=True):
    """The open attempt is to be stopped; the first reason wins."""

    reason: StopReason


class Ended(Event, frozen=True):
    """The open attempt ended and its process tree is gone. `luck`, uniform in [0, 1), is for the jitter.

    `failed_starts`: how many starts of the job failed in a row because the host lacked something.
    """

    outcome: Outcome
    luck: float = 0.5
    failed_starts: int = 0


class Refused(Event, frozen=True):
    """Nothing is started. The launcher found files of this attempt, so it had been started before; or see `reason`."""

    why: str
    reason: Reason = Reason.LOST


class Adopted(Event, frozen=True):
    """This daemon took over a worker that survived an earlier daemon."""


class Stuck(Event, frozen=True):
    """It cannot be proven whether the worker is alive."""


class AttemptMissing(Event, frozen=True):
    """The job is stored as running, and no attempt of it is open: rows were damaged, or restored in part."""


class Began(Struct, frozen=True):
    """The worker started `boot_ms` milliseconds after boot. A handler inside the daemon has no identity.

    Like `Delivered` it changes no state, so it is not an event of the table.
    """

    identity: Identity | None
    boot_ms: int
    bounds: Bounds | None = None


class Delivered(Struct, frozen=True):
    """Whether the first signal of a stop reached the process before it ended."""

    delivered: bool


class TtlPassed(Event, frozen=True):
    """Not started within `ttl_ms`."""


class DeadlinePassed(Event, frozen=True):
    """The wall clock reached `deadline`."""


class Superseded(Event, frozen=True):
    """The newer job `by` of the same key takes its place; `stop`: an open attempt is stopped."""

    by: int
    stop: bool = False


class Reset(Event, frozen=True):
    """Its workflow runs this step again from the start, because of a resume, a retry or a rollback.

    `needs_open`: how many of its needs are open again. `floor`: checkpoints up to this seq are ignored.
    """

    needs_open: int = 0
    floor: int = 0
    timeout_ms: int | None = None
    max_attempts: int | None = None


class Rewired(Event, frozen=True):
    """A person changed the needs of a step that has not started; `needs_open` counts the open ones."""

    needs: tuple[Need, ...]
    when: When | None
    needs_open: int


class Reused(Event, frozen=True):
    """A step succeeds without an attempt: it takes over this end."""

    earlier: TakenOver


class Aborted(Event, frozen=True):
    """A failure of another step, or a limit of its workflow, ends this step."""


class Cancel(Event, frozen=True):
    pass


class Retry(Event, frozen=True):
    """Run the job again with fresh budgets. `deadline` replaces a deadline that has passed.

    `needs_open` counts the needs that have not ended; needs that ended in another way are ignored.
    """

    deadline: int | None = None
    timeout_ms: int | None = None
    needs_open: int = 0


class Skip(Event, frozen=True):
    pass


class Hold(Event, frozen=True):
    """Do not start the job until a person releases it; `reason` is not `user` if the daemon holds it by itself."""

    reason: Reason = Reason.USER


class Release(Event, frozen=True):
    pass


class Restart(Event, frozen=True):
    """Stop the open attempt and start another one; an unsafe job needs `yes`.

    `needs_open`: as for a retry, if no attempt is open. `force`: kill at once, without its grace. `reassign`: do not
    wait for a launcher that does not answer if the end of the attempt can be proven without it.
    """

    yes: bool = False
    needs_open: int = 0
    force: bool = False
    reassign: bool = False


class Edit(Event, frozen=True):
    """New values for fields of the spec. `moved_ms`: how far the job moves back in its queue."""

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
    """Something that is carried out after the commit."""


class Launch(Effect, frozen=True):
    attempt: Attempt


class Stop(Effect, frozen=True):
    """Stop the attempt's whole process tree: SIGTERM, and after `grace_ms` SIGKILL."""

    run_id: str
    grace_ms: int


class Reassign(Effect, frozen=True):
    """Do not wait for a launcher that does not answer: the end of this attempt may be proven without it."""

    run_id: str


class Settled(Effect, frozen=True):
    """The attempt is closed: acknowledge its outcome, free its resources, remove an empty log."""

    run_id: str


class Decide(Effect, frozen=True):
    """The needs of this job have ended: its `if` is decided."""

    job_id: int


class ReleaseDependents(Effect, frozen=True):
    """Queue or skip the dependents of this job, which has ended; those up to the id `after` are done."""

    job_id: int
    after: int = 0
