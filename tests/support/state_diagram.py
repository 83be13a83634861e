"""The diagram of job states, drawn from the results of `lifecycle.step`.

Owns the sample of jobs, attempts and events that between them reach every edge. `python -m tests.support.state_diagram`
writes the diagram into ARCHITECTURE.md; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from msgspec.structs import replace

from stoker.core.errors import StokerError
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import TABLE, step
from stoker.core.job.model import FINAL, Attempt, Job, NeedOn, OnOrphan, Outcome, Reason, State, StopReason
from stoker.core.job.run_if import Decision, RunIf
from stoker.core.job.taken_over import TakenOver
from tests.support.jobs import NEVER_STARTED, NOW, UNSEEN, attempt, exited, job, spec

ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
BLOCK = re.compile(r"(<!-- states -->\n).*?(<!-- /states -->)", re.DOTALL)
OUTCOMES: tuple[Outcome, ...] = (exited(0), exited(1), UNSEEN, NEVER_STARTED)
SPECS = tuple(spec(on_orphan=on_orphan, max_attempts=most) for on_orphan, most in product(OnOrphan, (1, 5)))
VERBS = {"Cancel", "Retry", "Skip", "Hold", "Release", "Restart"}


def events_of(kind: type[ev.Event], of: Job) -> Iterator[ev.Event]:
    """The values of one kind of event that lead to different states."""
    either = (0, 1)
    sample: dict[type[ev.Event], Iterable[ev.Event]] = {
        ev.Ended: [ev.Ended(outcome=outcome) for outcome in OUTCOMES],
        ev.Decided: [ev.Decided(decision=decision) for decision in Decision],
        ev.ConditionMet: [ev.ConditionMet(number=0)],
        ev.NeedFailed: [ev.NeedFailed(needed=3, on=NeedOn.OK)],
        ev.Dispatched: [ev.Dispatched(attempt=attempt(of, ordinal=of.attempts + 1))],
        ev.StopWanted: [ev.StopWanted(reason=StopReason.TIMEOUT)],
        ev.Refused: [ev.Refused(why="log_exists")],
        ev.Rewired: [ev.Rewired(needs=(), when=None, needs_open=count) for count in either],
        ev.Reset: [ev.Reset(needs_open=count) for count in either],
        ev.Retry: [ev.Retry(needs_open=count) for count in either],
        ev.Restart: [ev.Restart(yes=True, needs_open=count) for count in either],
        ev.Superseded: [ev.Superseded(by=8)],
        ev.Reused: [ev.Reused(earlier=TakenOver(1, "a", 2))],
        ev.Edit: [ev.Edit(changes={"priority": 5}, moved_ms=0)],
    }
    yield from sample[kind] if kind in sample else [kind()]


def standings(state: State) -> Iterator[tuple[Job, Attempt | None]]:
    """Jobs in a state, with and without an open attempt, open needs, and a stop reason."""
    for asked, needs_open in product(SPECS, (0, 1)):
        if state in (State.RUNNING, State.HELD):
            of = job(state, asked=asked, attempts=1, reason=Reason.STUCK if state is State.HELD else None)
            for stop_reason in (None, *StopReason):
                yield of, attempt(of, stop_reason=stop_reason)
        if state is not State.RUNNING:
            reason = {"reason": Reason.ORPHANED} if state is State.HELD else {}  # no person holds it: a retry applies
            yield job(state, asked=asked, needs_open=needs_open, wake_at=NOW.steady, **reason), None
            waits = replace(asked, wait_for="event:go")
            yield job(state, asked=waits, conditions_open=1, wake_at=NOW.steady, **reason), None
            yield job(state, asked=replace(asked, run_if=RunIf(text="true")), undecided=True, **reason), None


def edges() -> dict[tuple[State, State], set[str]]:
    """Every change of state that the table allows, and the events that cause it."""
    kinds: dict[tuple[State, State], set[str]] = {}
    for state, kind in TABLE:
        for of, live in standings(state):
            for event in events_of(kind, of):
                try:
                    after = step(of, live, event, NOW).job.state
                except (StokerError, AssertionError):
                    continue
                if after is not state:
                    kinds.setdefault((state, after), set()).add(kind.__name__)
    return kinds


def diagram() -> str:
    """Mermaid text: changes that happen by themselves, then verbs; final states share their lines."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> waiting", "    [*] --> queued"]
    final: dict[tuple[str, str], list[str]] = {}
    for (before, after), causes in sorted(edges().items()):
        label = ", ".join(sorted(causes, key=lambda cause: (cause in VERBS, cause)))
        if before in FINAL:
            final.setdefault((after.value, label), []).append(before.value)
        else:
            lines.append(f"    {before.value} --> {after.value}: {label}")
    lines += ["```", ""]
    lines += [
        f"* From {', '.join(sorted(names))} to {after}: {label}." for (after, label), names in sorted(final.items())
    ]
    return "\n".join(lines) + "\n"


def inserted(text: str) -> str:
    return BLOCK.sub(lambda match: f"{match[1]}{diagram()}{match[2]}", text)


if __name__ == "__main__":
    ARCHITECTURE.write_text(inserted(ARCHITECTURE.read_text()))
