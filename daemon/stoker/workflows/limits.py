"""Ends workflows, also nested ones, at their limits: the timeout, on steady time, the deadline, on the wall clock.

Owns the timer of the next limit of all. `tick` sees that a clock was set or the host slept. Invariant: the limits are
stored, so a start finds those that passed while no daemon ran; they count until the last ordinary step has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from stoker.background.due_timer import DueTimer
from stoker.core.clock import Clock
from stoker.core.job import events as ev
from stoker.core.job.model import STOKER, StopReason
from stoker.core.workflow.inner_limits import TimeLimit
from stoker.core.workflow.plan import WHOLE
from stoker.core.workflow.state import Intent
from stoker.engine.inbox import Inbox, Message, RequestMessage
from stoker.engine.memory import LiveState
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import Turn


class LimitsReached(Message):
    """Limits of workflows may have passed: they fail, and their open steps end. Of a nested one only its own do."""

    def __init__(self, workflow_ids: Iterable[int]) -> None:
        self._workflow_ids = list(workflow_ids)

    def apply_to(self, turn: Turn) -> None:
        for workflow_id in self._workflow_ids:
            run = turn.memory.workflows.runs.get(workflow_id)
            passed = {} if run is None else run.overdue(turn.now)
            if run is not None and WHOLE in passed:
                turn.intend(run, Intent.ABORT, "limit_reached", STOKER, target=passed[WHOLE])
            elif run is not None and passed:
                _end_inner(turn, run, passed)


def _end_inner(turn: Turn, run: LiveWorkflow, passed: Mapping[str, TimeLimit]) -> None:
    """Nested workflows reached a limit. Their steps end in a later turn, and then the step that ends them fails."""
    run.counting |= {outer: replace(run.counting[outer], passed=limit) for outer, limit in passed.items()}
    turn.set_limits(run, ((outer, run.counting[outer]) for outer in passed))
    turn.memory.workflows.cut(run, [*run.cut, *passed])
    turn.batch.workflows[run.workflow.id] = run.workflow
    turn.touched_workflows.add(run.workflow.id)
    for outer, limit in passed.items():
        about = {"limit": limit, "step": outer.removesuffix("/")}
        turn.record("workflow", str(run.workflow.id), "limit_reached", about)


class StepOverdue(RequestMessage[None]):
    """A nested workflow ended at a limit, and so does the attempt `run_id` of the step that it stands for."""

    def __init__(self, run_id: str, limit: TimeLimit) -> None:
        super().__init__()
        self._run_id = run_id
        self._reason = StopReason(limit.value)

    def apply_to(self, turn: Turn) -> None:
        run = turn.memory.by_run(self._run_id)
        if run is not None:
            turn.step(run.job.id, ev.StopWanted(reason=self._reason))
        self.answer_after(turn, None)


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
        for _, limit in () if run is None else run.time_limits:
            if limit.expires_at is not None:
                yield limit.expires_at
            if limit.deadline is not None:
                yield limit.deadline - self._clock.now().skew

    def _rearm(self) -> None:
        self._timer.set(min((at for workflow_id in self._limited for at in self._due_at(workflow_id)), default=None))

    def _fire(self, _late_ms: int) -> None:
        now = self._clock.now()
        passed = [one for one in self._limited if (run := self._memory.workflows.runs.get(one)) and run.overdue(now)]
        if passed:
            self._inbox.post(LimitsReached(sorted(passed)))
        else:
            self._rearm()
