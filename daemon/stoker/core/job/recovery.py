"""The plan for open attempts after a start, or after the loss of a launcher: `plan(rows, findings, epoch)`.

Owns the action for each fact, the event of each action, and the validation of a plan. Actions become ordinary events
for `lifecycle.step`. Invariants: each open attempt has exactly one action; no process belongs to two attempts; only a
proven worker is stopped or adopted; only what proves that no launcher carried out its order (its live launcher, or that
there never was one) makes an attempt one that never started; planning again with the same facts changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import TABLE, step
from stoker.core.job.model import Attempt, Identity, Job, Outcome, OutcomeKind, StopReason

MOST_NAMED = 5  # rows that one message names
UNSEEN = Outcome(kind=OutcomeKind.UNSEEN)
NEVER_STARTED = Outcome(kind=OutcomeKind.NEVER_STARTED)


class Fact(StrEnum):
    ENDED = "ended"  # its launcher, or the launcher's outcome log, has the outcome
    OWNED = "owned"  # runs under a connected launcher
    ORPHANED = "orphaned"  # runs and is proven to be ours, but its launcher is gone
    NEVER_STARTED = "never_started"  # its launcher is alive and never got the order, or there never was an order
    GONE = "gone"  # proven not to run any more; its outcome is not known
    SILENT = "silent"  # its launcher lives but does not answer
    UNPROVABLE = "unprovable"  # may run, and cannot be proven to be ours


class Finding(Struct, frozen=True, kw_only=True):
    """The fact about one attempt; `evidence` is a sentence for people."""

    run_id: str
    fact: Fact
    evidence: str
    outcome: Outcome | None = None
    identity: Identity | None = None
    launcher: str | None = None


class Action(StrEnum):
    SETTLE = "settle"
    KEEP = "keep"
    ADOPT = "adopt"
    STOP = "stop"
    REQUEUE = "requeue"
    UNSEEN = "unseen"
    HOLD_STUCK = "hold_stuck"
    WAIT = "wait"


class RecoveryDecision(Struct, frozen=True, kw_only=True):
    """The action for one attempt and why. `resumed`: its stop had been committed before."""

    run_id: str
    job_id: int
    action: Action
    why: str
    finding: Finding
    stop_reason: StopReason | None = None
    resumed: bool = False


class RecoveryPlan(Struct, frozen=True):
    decisions: tuple[RecoveryDecision, ...] = ()

    def count(self, action: Action) -> int:
        return sum(decision.action is action for decision in self.decisions)


class PlanInvalid(Exception):
    """The plan must not be carried out; the daemon goes into safe mode. `remedy`: what a person can do."""

    remedy = "end the processes that `stoker recover --dry-run` names, then start the daemon again"


class RowInvalid(PlanInvalid):
    """A row is one that no daemon writes, so no plan is possible."""

    remedy = "stop the daemon, then: stoker restore --from-backup latest"


def plan(rows: Iterable[tuple[Job, Attempt]], findings: Mapping[str, Finding], epoch: int) -> RecoveryPlan:
    """One decision for each open attempt, in the order of the rows. `epoch` is that of this daemon."""
    return RecoveryPlan(tuple(_decision_of(job, attempt, findings[attempt.run_id], epoch) for job, attempt in rows))


def _decision_of(job: Job, attempt: Attempt, finding: Finding, epoch: int) -> RecoveryDecision:
    action, stop_reason = _action(job, attempt, finding, epoch)
    return RecoveryDecision(
        run_id=attempt.run_id,
        job_id=job.id,
        action=action,
        why=finding.evidence,
        finding=finding,
        stop_reason=stop_reason,
        resumed=attempt.stop_reason is not None,
    )


_WITHOUT_PROCESS = {
    Fact.ENDED: Action.SETTLE,
    Fact.NEVER_STARTED: Action.REQUEUE,
    Fact.GONE: Action.UNSEEN,
    Fact.UNPROVABLE: Action.HOLD_STUCK,
    Fact.SILENT: Action.WAIT,
}


def _action(job: Job, attempt: Attempt, finding: Finding, epoch: int) -> tuple[Action, StopReason | None]:
    if finding.fact in _WITHOUT_PROCESS:
        return _WITHOUT_PROCESS[finding.fact], None
    if attempt.stop_reason is not None:
        return Action.STOP, attempt.stop_reason
    if finding.fact is Fact.OWNED and attempt.epoch == epoch:
        return Action.KEEP, None  # only the connection was lost: the launcher of this daemon still has the run
    if job.spec.survive:
        return Action.ADOPT, None
    return Action.STOP, StopReason.ORPHANED


def event_of(decision: RecoveryDecision) -> ev.Event | None:
    """The event of a decision; None if it changes no row: a stop that goes on, a kept attempt, a silent launcher."""
    if decision.action is Action.SETTLE:
        assert decision.finding.outcome is not None, "a valid plan settles with an outcome"
        return ev.Ended(outcome=decision.finding.outcome)
    if decision.action is Action.STOP and decision.stop_reason is not None and not decision.resumed:
        return ev.StopWanted(reason=decision.stop_reason)
    return _ALWAYS.get(decision.action)


def foresee(job: Job, attempt: Attempt, decision: RecoveryDecision, now: Now) -> Job:
    """The job as it will be after this decision; a wait, or an invalid row, leaves it as it is."""
    if not _may_have_attempt(job):
        return job
    event = event_of(decision)
    if decision.action is Action.STOP:
        if event is not None:
            stopping = step(job, attempt, event, now)
            job, attempt = stopping.job, stopping.attempt or attempt
        event = ev.Ended(outcome=replace(UNSEEN, stopped=True))
    return job if event is None else step(job, attempt, event, now).job


_ALWAYS: dict[Action, ev.Event] = {
    Action.ADOPT: ev.Adopted(),
    Action.REQUEUE: ev.Ended(outcome=NEVER_STARTED),
    Action.UNSEEN: ev.Ended(outcome=UNSEEN),
    Action.HOLD_STUCK: ev.Stuck(),
}


def validate(proposed: RecoveryPlan, rows: Iterable[tuple[Job, Attempt]]) -> None:
    """Check the rows, and a plan against them. Raises PlanInvalid."""
    rows = list(rows)
    _check_rows(rows)
    runs = sorted(attempt.run_id for _, attempt in rows)
    decided = sorted(decision.run_id for decision in proposed.decisions)
    if runs != decided:
        wrong = sorted(set(runs) ^ set(decided)) or [run for run in decided if decided.count(run) > 1]
        raise PlanInvalid(f"each open attempt needs exactly one decision; not so for {', '.join(wrong[:MOST_NAMED])}")
    processes: dict[tuple[int, int, int], str] = {}
    for decision in proposed.decisions:
        _check_evidence(decision)
        identity = decision.finding.identity
        if identity is None or decision.action not in (Action.STOP, Action.ADOPT, Action.KEEP):
            continue
        process = (identity.pid_namespace, identity.pid, identity.start_ticks)
        if process in processes:
            raise PlanInvalid(f"process {identity.pid} is claimed by {processes[process]} and by {decision.run_id}")
        processes[process] = decision.run_id


def _may_have_attempt(job: Job) -> bool:
    """An attempt can be open only in a state that has a row for its end."""
    return (job.state, ev.Ended) in TABLE


def _check_rows(rows: Iterable[tuple[Job, Attempt]]) -> None:
    broken = [
        f"job {job.id} is {job.state.value}, but its attempt {attempt.ordinal} (run {attempt.run_id}) is open"
        for job, attempt in rows
        if not _may_have_attempt(job)
    ]
    if broken:
        more = f"; and {len(broken) - MOST_NAMED} more" if len(broken) > MOST_NAMED else ""
        raise RowInvalid("; ".join(broken[:MOST_NAMED]) + more)


def _check_evidence(decision: RecoveryDecision) -> None:
    fact = decision.finding.fact
    if decision.action is Action.KEEP and fact is not Fact.OWNED:
        raise PlanInvalid(f"{decision.run_id}: keep needs a launcher that has it, but the fact is {fact.value}")
    if decision.action in (Action.STOP, Action.ADOPT) and fact not in (Fact.OWNED, Fact.ORPHANED):
        action = decision.action.value
        raise PlanInvalid(f"{decision.run_id}: {action} needs a proven worker, but the fact is {fact.value}")
    if decision.action is Action.REQUEUE and fact is not Fact.NEVER_STARTED:
        raise PlanInvalid(f"{decision.run_id}: requeue needs proof that it never started, but the fact is {fact.value}")
    if decision.action is Action.SETTLE and decision.finding.outcome is None:
        raise PlanInvalid(f"{decision.run_id}: settle needs an outcome")
