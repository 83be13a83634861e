"""Ends workflows at their limits: the timeout, on steady time, and the deadline, on the wall clock.

Owns the timer of the next limit of all. `tick` sees that a clock was set or the host slept. Invariant: the limits are
columns, so a start finds those that passed while no daemon ran; they count until the last ordinary step has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stoker.background.due_timer import DueTimer
from stoker.core.clock import Clock
from stoker.core.job.model import STOKER
from stoker.core.workflow.state import Intent
from stoker.engine.inbox import Inbox, Message
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn


class LimitsReached(Message):
    """Limits of workflows may have passed: they fail, and their open steps end."""

    def __init__(self, workflow_ids: Iterable[int]) -> None:
        self._workflow_ids = list(workflow_ids)

    def apply_to(self, turn: Turn) -> None:
        for workflow_id in self._workflow_ids:
            run = turn.memory.workflows.runs.get(workflow_id)
            if run is not None and (limit := run.overdue(turn.now)) is not None:
                turn.intend(run, Intent.ABORT, "limit_reached", STOKER, target=limit)


class WorkflowLimits:
    def __init__(self, memory: LiveState, inbox: Inbox, clock: Clock) -> None:
        self._memory = memory
        self._inbox = inbox
        self._clock = clock
        self._timer = DueTimer(clock, self._fire)
        self._limited: set[int] = set()
        self._begun = False

    def begin(self) -> None:
        self._begun = True
        self._note(self._memory.workflows.runs)

    def after_commit(self, turn: Turn) -> None:
        if turn.touched_workflows and self._begun:
            self._note(turn.touched_workflows)

    def tick(self) -> None:
        """Set the timer again: a clock was set, or the host slept."""
        if self._limited:
            self._rearm()
            self._timer.check()

    def close(self) -> None:
        """Stop the timer. Safe to call before `begin`."""
        self._begun = False
        self._timer.stop()

    def _note(self, workflow_ids: Iterable[int]) -> None:
        before = len(self._limited)
        for workflow_id in workflow_ids:
            limited = next(self._due_at(workflow_id), None) is not None
            (self._limited.add if limited else self._limited.discard)(workflow_id)
        if before or self._limited:
            self._rearm()

    def _due_at(self, workflow_id: int) -> Iterator[int]:
        """The limits of a workflow that still count, on steady time."""
        run = self._memory.workflows.runs.get(workflow_id)
        if run is None or not run.is_limited:
            return
        if run.workflow.expires_at is not None:
            yield run.workflow.expires_at
        if run.workflow.deadline is not None:
            yield run.workflow.deadline - self._clock.now().skew

    def _rearm(self) -> None:
        self._timer.set(min((at for workflow_id in self._limited for at in self._due_at(workflow_id)), default=None))

    def _fire(self, _late_ms: int) -> None:
        now = self._clock.now()
        passed = [one for one in self._limited if (run := self._memory.workflows.runs.get(one)) and run.overdue(now)]
        if passed:
            self._inbox.post(LimitsReached(sorted(passed)))
        else:
            self._rearm()
