"""The plan of a resume: for each step of a workflow whether it runs, and why.

The states of the steps, the choices of strategies and the changed fingerprints are given. Invariants: a completed step
never runs again, unless it is to be verified and its fingerprint has changed; a running step goes on; a strategy is
only asked about a step that started and did not complete.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum

from msgspec import Struct, field

from stoker.core.job.dependencies import OVER_ALL, NeedStanding, all_met, skipped_for_need, watches_failure
from stoker.core.job.model import FINAL, NeedOn, Reason, State
from stoker.core.requests import Budget, Duration, Name, StepName, WorkflowParams
from stoker.core.workflow.phases import in_order, phase, phase_in
from stoker.core.workflow.state import Step, Strategy, is_done
from stoker.core.workflow.step_names import outer_of, outers_of


class Act(StrEnum):
    """The action for a step. `again`: it waits for its needs again; `wait`: it goes on as it is."""

    KEEP = "keep"
    RESTART = "restart"
    FROM_CHECKPOINT = "from_checkpoint"
    AGAIN = "again"
    SKIP = "skip"
    FAIL = "fail"
    WAIT = "wait"
    LEAVE = "leave"


RESET = frozenset({Act.RESTART, Act.FROM_CHECKPOINT, Act.AGAIN})
RUNS = RESET | {Act.WAIT}
SKIPPED = NeedStanding(State.SKIPPED, Reason.USER)
_OPEN = frozenset({State.WAITING, State.QUEUED, State.RUNNING})
_BY_STRATEGY = {
    Strategy.RESTART: Act.RESTART,
    Strategy.FROM_CHECKPOINT: Act.FROM_CHECKPOINT,
    Strategy.SKIP: Act.SKIP,
    Strategy.FAIL: Act.FAIL,
}


class ResumeStanding(Struct, frozen=True):
    """The state of a step. `live`: an attempt of it is open."""

    state: State
    reason: Reason | None = None
    attempts: int = 0
    live: bool = False


class ResumeDecision(Struct, frozen=True):
    """`handler`: a step that it watches runs again, or it is behind such a handler."""

    step: str
    act: Act
    why: str
    handler: bool = False

    @property
    def runs(self) -> bool:
        return self.act in RUNS


class ResumeOptions(WorkflowParams, frozen=True, kw_only=True):
    """The options of a resume. `start`: this step and its dependents; `strategy` replaces the steps' own strategies.

    `explain`: change nothing. `verify` set to false keeps completed steps without checking their fingerprints.
    """

    strategy: Name | None = None
    start: StepName | None = field(default=None, name="from")
    explain: bool = False
    verify: bool = True
    timeout_ms: Duration | None = None
    max_attempts: Budget | None = None

    @property
    def plain(self) -> bool:
        return self.strategy is None and self.start is None


class ResumeInputs(Struct, frozen=True, kw_only=True):
    """The inputs of a plan. `scope`: the steps it may change, None for all; `chosen`: strategy and choice, by step.

    `verified`: completed steps with a fingerprint; `changed`: those whose fingerprint differs, and how.
    `pressing`: include steps that did not complete although the workflow goes on.
    """

    scope: Collection[str] | None = None
    chosen: Mapping[str, tuple[str, Strategy]] = {}
    changed: Mapping[str, str] = {}
    verified: Collection[str] = ()
    pressing: bool = True


def stopped_short(standing: ResumeStanding) -> bool:
    """Whether the step was started and did not complete, so that its strategy decides."""
    ended = standing.state in FINAL or standing.state is State.HELD
    by_need = skipped_for_need(standing.state, standing.reason)
    done = is_done(standing.state, standing.reason)
    return ended and standing.attempts > 0 and not (standing.live or by_need or done)


def plan(
    steps: Iterable[Step], standings: Mapping[str, ResumeStanding], asked: ResumeInputs
) -> Iterator[ResumeDecision]:
    """One decision for each step, in an order in which the steps can run. There may be thousands."""
    by_name = {step.name: step for step in steps}
    needs = {name: [edge.step for edge in step.needs] for name, step in by_name.items()}
    tables = {name: step.handler.value for name, step in by_name.items() if step.handler is not None}
    decided: dict[str, ResumeDecision] = {}
    again: dict[tuple[str, int], str] = {}  # the first step of each phase that runs again, in each workflow
    for name in in_order(needs, tables):
        step = by_name[name]
        act, why = _act_for(step, standings, asked, decided)
        earlier = ((outer_of(name), each) for each in range(phase(step.handler)))
        before = next((again[each] for each in earlier if each in again), None)
        if before is not None and _runs_with_others(standings[name]):
            act, why = Act.RESTART, f"it depends on the end of {before}, which runs again"
        if act in RESET:
            for outer in outers_of(name):
                again.setdefault((outer, phase_in(outer, name, step.handler)), name)
        decided[name] = ResumeDecision(name, act, why, act in RESET and _watched(step, decided) is not None)
        yield decided[name]


def _runs_with_others(standing: ResumeStanding) -> bool:
    """Whether a handler that stands so belongs to an earlier run of the steps; a person's skip stays."""
    by_person = standing.state is State.SKIPPED and not skipped_for_need(standing.state, standing.reason)
    return not (standing.live or by_person)


def _act_for(
    step: Step, standings: Mapping[str, ResumeStanding], asked: ResumeInputs, decided: Mapping[str, ResumeDecision]
) -> tuple[Act, str]:
    standing = standings[step.name]
    if is_done(standing.state, standing.reason):
        return _of_done(step, standing, asked, decided)
    if standing.live:
        return Act.WAIT, "it runs, and is left to run"
    if standing.state in _OPEN:
        ended = [edge.step for edge in step.needs if standings[edge.step].state in FINAL]
        again = next((need for need in ended if decided[need].act in RESET), None)
        return (Act.AGAIN, f"{again} runs again") if again is not None else (Act.WAIT, "it has not run yet")
    why_left = _why_left(step, standings, asked, decided)
    if why_left is not None:
        return Act.LEAVE, why_left
    if not stopped_short(standing):
        return Act.AGAIN, f"it was {_state_text(standing)} and never started"
    name, choice = asked.chosen[step.name]
    own = f"strategy {name}" if name == choice else f"strategy {name}, which chose {choice.value}"
    return _BY_STRATEGY[choice], f"it ended as {_state_text(standing)}; {own}"


def _why_left(
    step: Step, standings: Mapping[str, ResumeStanding], asked: ResumeInputs, decided: Mapping[str, ResumeDecision]
) -> str | None:
    """Why a step that did not complete is left as it is; None if the plan changes it."""
    if asked.scope is not None and step.name not in asked.scope:
        return "it is not behind the step to resume from"
    if not asked.pressing:
        return f"it stays {standings[step.name].state.value}: name a strategy, or retry it"
    return _hopeless(step, standings, decided)


def _of_done(
    step: Step, standing: ResumeStanding, asked: ResumeInputs, decided: Mapping[str, ResumeDecision]
) -> tuple[Act, str]:
    if standing.reason is Reason.NOT_NEEDED:
        again = next((edge.step for edge in step.needs if decided[edge.step].runs), None)
        return (Act.AGAIN, f"{again} runs again") if again is not None else (Act.KEEP, "it was not needed")
    if standing.state is not State.SKIPPED and (watched := _watched(step, decided)) is not None:
        return Act.RESTART, f"it depends on the end of {watched}, which runs again"
    if step.name in asked.changed:
        return Act.RESTART, f"it was completed, but {asked.changed[step.name]}"
    if step.name in asked.verified:
        again = next((edge.step for edge in step.needs if decided[edge.step].runs), None)
        if again is not None:
            return Act.RESTART, f"it was completed, but builds on {again}, which runs again"
        return Act.KEEP, "it was completed, and its fingerprint has not changed"
    return Act.KEEP, "it was skipped by a person" if standing.state is State.SKIPPED else "it was completed"


def _watched(step: Step, decided: Mapping[str, ResumeDecision]) -> str | None:
    """A need that runs again, and whose failure may start the step; or a handler before it."""
    for edge in step.needs:
        need = decided[edge.step]
        if need.handler or (need.act in RESET and watches_failure(edge.on, step.when)):
            return edge.step
    return None


def _hopeless(step: Step, standings: Mapping[str, ResumeStanding], decided: Mapping[str, ResumeDecision]) -> str | None:
    """The need that this plan leaves unmet for good, in words; None if every need can be met."""
    if step.when in OVER_ALL:
        return _hopeless_together(step, standings, decided)
    for edge in step.needs:
        need, standing = decided[edge.step], standings[edge.step]
        if need.runs or edge.on is NeedOn.ANY or standing.state not in FINAL:
            continue
        good = need.act in (Act.KEEP, Act.SKIP)
        if good is (edge.on is NeedOn.FAILED):
            return f"it needs {edge.step} {edge.on.value}, which stays {'ok' if good else standing.state.value}"
    return None


def _hopeless_together(
    step: Step, standings: Mapping[str, ResumeStanding], decided: Mapping[str, ResumeDecision]
) -> str | None:
    """As `_hopeless`, for a condition over all needs. A need that the plan skips is ok then."""
    stay = []
    for edge in step.needs:
        need, standing = decided[edge.step], standings[edge.step]
        if need.runs or standing.state not in FINAL:
            return None
        stay.append(SKIPPED if need.act is Act.SKIP else NeedStanding(standing.state, standing.reason))
    return None if all_met(step.when, stay) else f"it needs {step.when} of its needs, which stay as they are"


def _state_text(standing: ResumeStanding) -> str:
    return standing.state.value if standing.reason is None else f"{standing.state.value} ({standing.reason.value})"
