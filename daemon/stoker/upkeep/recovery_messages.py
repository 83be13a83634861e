"""The messages of a recovery: all decisions of a plan are applied in one turn, and so in one commit.

It also owns the search for jobs that a recovery cannot see, because no attempt of them is open. Invariant: the row that
records a recovery is part of the same commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from stoker.core.job import events as ev
from stoker.core.job.model import Job, Outcome, State
from stoker.core.job.recovery import Action, RecoveryDecision, RecoveryPlan, event_of
from stoker.engine.inbox import Inbox, Message, RequestMessage
from stoker.engine.reports import AttemptsMissing
from stoker.engine.turn import Turn
from stoker.store import jobs as job_rows
from stoker.store.reader import Reader
from stoker.store.recoveries import Recovery


class Followed(Struct, frozen=True):
    """The row as it was committed, and the numbers of jobs by state after an unseen end."""

    row: Recovery | None = None
    ends: Mapping[State, int] = field(default_factory=dict)


ENDED = (Action.REQUEUE, Action.UNSEEN, Action.HOLD_STUCK)  # actions that end an attempt without a seen end


class Recovered(RequestMessage[Followed]):
    """Carry out a plan; answered after the commit."""

    def __init__(self, plan: RecoveryPlan, outcomes: Mapping[str, Outcome], row: Recovery | None) -> None:
        """`outcomes`: by run, of those that the plan settles, with the results that they left."""
        super().__init__()
        self._plan = plan
        self._outcomes = outcomes
        self._row = row

    def apply_to(self, turn: Turn) -> Iterator[None]:
        jobs = []
        for decision in self._plan.decisions:
            jobs.append(_carry_out(turn, decision, self._outcomes))
            yield
        followed = list(zip(self._plan.decisions, jobs, strict=True))
        ends = Counter(job.state for decision, job in followed if job is not None and decision.action in ENDED)
        row = self._row
        if row is not None:
            plan = [msgspec.to_builtins(decision) | {"then": job and job.state} for decision, job in followed]
            again = ends[State.QUEUED] + ends[State.WAITING]
            row = turn.batch.recovery = replace(row, plan=msgspec.json.encode(plan).decode(), requeued=again)
            if self._plan.decisions:
                payload = {**counts(self._plan), "attempts": len(self._plan.decisions)}
                turn.record("system", "recovery", "recovered", payload)
        self.answer_after(turn, Followed(row, ends))


class Remembered(Message):
    def __init__(self, row: Recovery) -> None:
        self._row = row

    def apply_to(self, turn: Turn) -> None:
        turn.batch.recovery = self._row


def _carry_out(turn: Turn, decision: RecoveryDecision, outcomes: Mapping[str, Outcome]) -> Job | None:
    """The job after its decision; None if its attempt was settled while the facts were gathered."""
    run = turn.memory.by_run(decision.run_id)
    if run is None:
        return None
    event = event_of(decision)
    if isinstance(event, ev.Ended):
        event = replace(event, outcome=outcomes.get(decision.run_id, event.outcome))
    if event is not None:
        return turn.step(decision.job_id, event)
    if decision.action is Action.STOP:
        turn.effects.append(ev.Stop(decision.run_id, run.job.spec.grace_ms))
    return run.job


def counts(plan: RecoveryPlan) -> dict[str, int]:
    """The number of decisions of each kind, by the column of the row."""
    return {
        "settled": plan.count(Action.SETTLE),
        "adopted": plan.count(Action.ADOPT),
        "stopped": plan.count(Action.STOP),
        "requeued": plan.count(Action.REQUEUE),
        "unseen": plan.count(Action.UNSEEN),
        "stuck": plan.count(Action.HOLD_STUCK),
    }


async def hold_jobs_without_attempt(reader: Reader, inbox: Inbox) -> None:
    """Hold the jobs that are stored as running without an open attempt.

    The search reads every job, so it is made after the start. No commit of a daemon leaves such a job behind, so the
    result is still true when the message is applied.
    """
    job_ids = await reader.run(job_rows.running_without_attempt)
    if job_ids:
        inbox.post(AttemptsMissing(job_ids))
