"""Runs on a cluster: the wishes of a queue, the words of the engine, and their meaning for a run.

Owns the decision table between three witnesses: the claim (who may start the run), the record of its end, and the
engine's word. Invariants: the record decides, whatever the engine says; a run is only over by a record, by our own
claim, or because the engine says that the job is over; an end that nothing shows is never a failure.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from stoker.core.job.model import Outcome, OutcomeKind
from stoker.core.job.recovery import NEVER_STARTED

# A file system that is shared shows the files of other hosts late: NFS keeps names for up to a minute (acdirmax in
# nfs(5)).
RECORD_LATE_MS = 60_000
# The engine may list a job a moment after it has accepted it.
LISTED_LATE_MS = 10_000


# Options of sbatch that a queue may give as they are: none names a file, a program, a dependency or a mail address.
EXTRA_OPTIONS = frozenset(
    f"--{name}"
    for name in (
        *("core-spec", "cores-per-socket", "cpus-per-gpu", "exclude", "exclusive", "gpu-bind", "gpu-freq", "gres"),
        *("hint", "licenses", "mem-bind", "mem-per-cpu", "mem-per-gpu", "nice", "nodelist", "ntasks-per-core"),
        *("priority", "reservation", "sockets-per-node", "switches", "threads-per-core", "tmp", "wckey"),
    )
)


class ClusterOptions(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The wishes of each job of a queue. `memory_mb`: of the node. None: as the cluster has it."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    gpus: int | None = None
    time_ms: int | None = None
    extra: tuple[str, ...] = ()


class Phase(StrEnum):
    """The phase of a job of the engine."""

    WAITS = "waits"
    RUNS = "runs"
    OVER = "over"


class EngineJob(Struct, frozen=True):
    """A job as the engine lists it. `state` and `reason` are the engine's words."""

    id: int
    run_id: str
    phase: Phase
    state: str
    reason: str = ""


class ClaimedBy(StrEnum):
    NODE = "node"
    DAEMON = "daemon"


class Witnesses(Struct, frozen=True, kw_only=True):
    """The knowledge about a run. `listed`: None if the engine does not list the job.

    `answers`: whether the engine has answered. `since_ms`: for how long the engine has said the same of it.
    """

    claim: ClaimedBy | None
    has_record: bool
    listed: EngineJob | None
    answers: bool
    since_ms: int = 0


class NextStep(StrEnum):
    """An action of the daemon about a run."""

    WAIT = "wait"
    SETTLE = "settle"  # by the record
    REVOKE = "revoke"  # claim it, so that it never starts; it has not, if our claim is the first
    CONCLUDE = "conclude"  # the engine's word is all that there will be
    HOLD = "hold"  # nothing shows its end


def next_step(seen: Witnesses, window_ms: int) -> NextStep:
    """The action about a run. `window_ms`: how long to wait before it is held because nothing shows its end."""
    if seen.has_record:
        return NextStep.SETTLE
    if not seen.answers or (seen.listed is not None and seen.listed.phase is not Phase.OVER):
        return NextStep.WAIT
    if seen.claim is not ClaimedBy.NODE:
        return NextStep.REVOKE if seen.listed is not None or seen.since_ms >= LISTED_LATE_MS else NextStep.WAIT
    if seen.listed is not None:
        return NextStep.CONCLUDE if seen.since_ms >= RECORD_LATE_MS else NextStep.WAIT
    return NextStep.HOLD if seen.since_ms >= window_ms else NextStep.WAIT


# The words of Slurm for the end of a job that left no record (squeue(1), JOB STATE CODES), and what they tell.
_ENDS = {
    "OUT_OF_MEMORY": OutcomeKind.OOM,
    "CANCELLED": OutcomeKind.SIGNAL,
    "TIMEOUT": OutcomeKind.SIGNAL,
    "DEADLINE": OutcomeKind.SIGNAL,
}
SIGKILL = 9


def end_by_word(job: EngineJob, now_ms: int, *, stopped: bool) -> Outcome:
    """The outcome of a run that was claimed, left no record, and is over by the engine's word.

    A node that failed, was rebooted or was taken away (preemption) leaves an unseen end.
    """
    kind = _ENDS.get(job.state, OutcomeKind.UNSEEN)
    why = f"Slurm: {job.state}" + (f" ({job.reason})" if job.reason not in ("", "None") else "")
    return Outcome(
        kind=kind,
        signal=SIGKILL if kind is OutcomeKind.SIGNAL else None,
        stopped=stopped,
        error=f"{why}; its node left no record of the end",
        ended_at=now_ms,
    )


def end_before_start(job: EngineJob | None, now_ms: int, *, stopped: bool) -> Outcome:
    """The outcome of a run that our claim has kept from starting.

    If a person cancelled it in the engine it has failed: to hand it over again would undo what they did.
    """
    if job is not None and job.state == "CANCELLED" and not stopped:
        error = f"job {job.id} of Slurm was cancelled before it started"
        return Outcome(kind=OutcomeKind.SPAWN_ERROR, error=error, ended_at=now_ms)
    return Outcome(kind=NEVER_STARTED.kind, ended_at=now_ms)
