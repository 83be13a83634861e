"""The steps of a workflow as people look at them: by groups, with counts, and how far the whole has come. Pure.

A group is the steps of one fan-out, or those at one place of a nested workflow (core/workflow/step_names.py). Owns the
words for its state, the order of urgency among steps, and the estimate of the time that is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from stoker.cli.kit import outcome, render
from stoker.cli.kit.graph_shape import URGENT
from stoker.cli.kit.naming import MOST_NAMES, few, needs_by_group
from stoker.cli.kit.progress import bar
from stoker.core.reason_words import last_line
from stoker.core.units import counted, span
from stoker.core.workflow.step_names import fan_out_of, group_of

if TYPE_CHECKING:
    from stoker.core.views import EarlierRuns, StepView, WorkflowDetails

BAD = ("held", "failed", "expired", "cancelled")
SMALL = 20  # a workflow of at most so many steps is shown step by step
MOST_ROWS = 100
MOST_NAMED = 3
REMARK_WIDTH = 80
NEEDS_WIDTH = 40  # without the number of the others


class StepGroup(NamedTuple):
    """One step, or all steps of a group."""

    name: str
    steps: Sequence[StepView]

    @property
    def counted_steps(self) -> Sequence[StepView]:
        """Without a step that only stands for the group, which a list known at run time has."""
        stand_ins = {fan_out_of(step["name"]) for step in self.steps}
        return [step for step in self.steps if step["name"] not in stand_ins]

    @property
    def state(self) -> str:
        return most_urgent(step["state"] for step in self.steps)


def alone(step: StepView) -> StepGroup:
    return StepGroup(step["name"], [step])


def most_urgent(states: Iterable[str]) -> str:
    return min(states, key=URGENT.index)


def grouped(steps: Iterable[StepView]) -> list[StepGroup]:
    """In the order of their first steps."""
    members: dict[str, list[StepView]] = {}
    for step in steps:
        members.setdefault(group_of(step["name"]), []).append(step)
    return [StepGroup(name if len(group) > 1 else group[0]["name"], group) for name, group in members.items()]


def as_shown(steps: Sequence[StepView], *, every: bool) -> list[StepGroup]:
    """Groups; each step by itself where `every` one is wanted, or where there are few."""
    if every or len(steps) <= SMALL:
        return [alone(step) for step in steps]
    return grouped(steps)


def most_urgent_rows(rows: Sequence[StepGroup], most: int = MOST_ROWS) -> list[StepGroup]:
    """The rows that need a look before others, at most so many, in their own order."""
    if len(rows) <= most:
        return list(rows)
    kept = sorted(range(len(rows)), key=lambda at: URGENT.index(rows[at].state))[:most]
    return [rows[at] for at in sorted(kept)]


def standing(steps: Sequence[StepView]) -> str:
    """`12/40 done, 4 running, 1 failed`; those that wait or are queued are the rest."""
    done = sum(outcome.ended_well(step) or step["state"] == "superseded" for step in steps)
    left_out = ("succeeded", "superseded", "waiting", "queued")
    states = Counter(step["state"] for step in steps if step["state"] not in left_out and not outcome.ended_well(step))
    others = [f"{states[state]} {state}" for state in sorted(states, key=_told_first)]
    return ", ".join([f"{done}/{len(steps)} done", *others])


def _told_first(state: str) -> int:
    return -1 if state == "running" else URGENT.index(state)


def cells(row: StepGroup) -> tuple[object, ...]:
    """Step, job, state, why, tries, needs and remark, as a table shows them."""
    if len(row.steps) == 1:
        (step,) = row.steps
        why = outcome.result(step) or outcome.awaited(step) or "-"
        return row.name, step["job"], step["state"], why, step["attempts"], needs(row), remark(row)
    return (
        f"{row.name} x{len(row.counted_steps)}",
        "-",
        row.state,
        standing(row.counted_steps),
        "-",
        needs(row),
        remark(row),
    )


def needs(row: StepGroup) -> str:
    """The needs of its steps, each once: as many as fit in the column, and the number of the others."""
    names = needs_by_group(row.steps)
    ends = accumulate(len(name) + 1 for name in names)
    shown = sum(end <= NEEDS_WIDTH + 1 for end in ends)
    return few([render.cut(name, NEEDS_WIDTH) for name in names], max(1, min(shown, MOST_NAMES)))


def remark(row: StepGroup) -> str:
    """Its `if` and how it differs from others; of one step its error, of a group the steps that went wrong."""
    first = row.steps[0]
    kind = first["handler"] or (None if first["critical"] else "may fail")
    condition = first["run_if"] and render.cut(f"if {first['run_if']}", REMARK_WIDTH)
    if len(row.steps) == 1:
        said = render.cut(last_line(row.steps[0].get("error") or ""), REMARK_WIDTH)
        reused = row.steps[0]["reused"] and f"reused from {row.steps[0]['reused']}"
    else:
        said = few([step["name"] for step in row.steps if step["state"] in BAD], MOST_NAMED)
        count = sum(step["reused"] is not None for step in row.steps)
        reused = f"{count} reused" if count else None
    return "; ".join(filter(None, (kind, condition, reused, said)))


def blocked_step(workflow: WorkflowDetails) -> StepView | None:
    """The step for which a running workflow waits while none of its steps runs: one that could start next."""
    states = {step["name"]: step["state"] for step in workflow["steps"]}
    if workflow["state"] != "running" or "running" in states.values():
        return None
    for state in ("queued", "held", "waiting"):
        for step in workflow["steps"]:
            open_needs = [need for need in step["needs"] if states.get(need["step"]) not in outcome.FINAL]
            if step["state"] == state and not (state == "waiting" and open_needs):
                return step
    return None


# --- how far the whole has come ------------------------------------------------------------------------------------


def ended_steps(counts: Mapping[str, int]) -> int:
    return sum(counts.get(state, 0) for state in outcome.FINAL)


def progress_text(workflow: WorkflowDetails, now_ms: int, *, drawn: bool) -> str | None:
    """`[####····]  45 % 450 of 1000 steps ended, about 3m12s left: …`; None once it has ended."""
    if workflow["finished_at"] is not None:
        return None
    ended, total = ended_steps(workflow["counts"]), sum(workflow["counts"].values())
    drawing = f"{bar(ended / total)} " if drawn else ""
    text = f"{drawing}{ended / total:.0%} {ended} of {counted(total, 'step')} ended"
    estimate = estimate_text(workflow.get("earlier_runs"), now_ms - workflow["created_at"])
    return f"{text}; {estimate}" if estimate else text


def estimate_text(earlier: EarlierRuns | None, age_ms: int) -> str | None:
    """`about 3m12s left: the last 5 runs of this name took 10m0s (median)`; None without an earlier run."""
    if earlier is None:
        return None
    runs = "the last run" if earlier["count"] == 1 else f"the last {earlier['count']} runs"
    median = "" if earlier["count"] == 1 else " (median)"
    took = f"{runs} of this name took {span(earlier['median_ms'])}{median}"
    left_ms = earlier["median_ms"] - age_ms
    return f"about {span(left_ms)} left: {took}" if left_ms > 0 else f"longer than usual: {took}"
