"""Why a workflow failed, read from how its steps ended, and what a person would type next.

Owns the causes, what makes a failure systemic, and the table of next commands. Refuses to look anything up and to
guess: each cause follows from the reason that is stored. Invariants: a step that was only skipped for another is never
a root; there is always one next command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from stoker.core.model import FINAL, Reason, State
from stoker.core.workflow import is_done

SYSTEMIC_LEAST = 2  # one failure alone says nothing of the rest
SYSTEMIC_SHARE = 0.5


class Cause(StrEnum):
    """What kinds of failure there are; the first of equally frequent ones is told."""

    MEMORY = "out_of_memory"
    ORPHANED = "orphaned"
    COMMAND = "command"
    RESOURCES = "resources"
    TIMEOUT = "timeout"
    UNRESPONSIVE = "unresponsive"
    SIGNAL = "signal"
    EXIT = "exit"
    PERSON = "person"
    DEPENDENCY = "dependency"


_BY_REASON = {
    Reason.OOM: Cause.MEMORY,
    Reason.ORPHANED: Cause.ORPHANED,
    Reason.LOST: Cause.ORPHANED,
    Reason.STUCK: Cause.ORPHANED,
    Reason.POISON: Cause.ORPHANED,
    Reason.SHUTDOWN: Cause.ORPHANED,
    Reason.SPAWN_ERROR: Cause.COMMAND,
    Reason.TTL: Cause.RESOURCES,
    Reason.TIMEOUT: Cause.TIMEOUT,
    Reason.DEADLINE: Cause.TIMEOUT,
    Reason.UNRESPONSIVE: Cause.UNRESPONSIVE,
    Reason.SIGNAL: Cause.SIGNAL,
    Reason.USER: Cause.PERSON,
    Reason.DEPENDENCY: Cause.DEPENDENCY,
}
# Not the fault of any one step: the host, the daemon or the settings are.
_OF_THE_HOST = frozenset({Cause.MEMORY, Cause.ORPHANED, Cause.RESOURCES})

_SAID = {
    Cause.MEMORY: "ran out of memory",
    Cause.ORPHANED: "ended unseen, as after a crash of the daemon or the host",
    Cause.COMMAND: "could not be started: the command is not there, or may not be run",
    Cause.RESOURCES: "waited for longer than allowed before there was room",
    Cause.TIMEOUT: "ran for longer than allowed",
    Cause.UNRESPONSIVE: "gave no sign of life",
    Cause.SIGNAL: "was ended by a signal",
    Cause.EXIT: "ended with an exit code that is none of success",
    Cause.PERSON: "was ended by a person",
    Cause.DEPENDENCY: "could not run, as what it needs did not end as needed",
}
_NEXT = {
    Cause.MEMORY: "stoker show {job}",
    Cause.ORPHANED: "stoker workflow resume {id} --explain",
    Cause.COMMAND: "stoker logs {job}",
    Cause.RESOURCES: "stoker resource ls",
    Cause.TIMEOUT: "stoker workflow retry {id} --failed --timeout {twice}s",
    Cause.UNRESPONSIVE: "stoker workflow retry {id} --failed",
    Cause.SIGNAL: "stoker logs {job}",
    Cause.EXIT: "stoker logs {job}",
    Cause.PERSON: "stoker workflow resume {id} --explain",
    Cause.DEPENDENCY: "stoker workflow graph {id}",
}


class Ending(Struct, frozen=True, kw_only=True):
    """How one step stands, as far as an analysis asks."""

    name: str
    job: int
    state: State
    reason: Reason | None = None
    critical: bool = True
    attempts: int = 0
    timeout_ms: int | None = None


class Analysis(Struct, frozen=True, kw_only=True):
    """`causes`: the steps of each; `roots`: those that failed by themselves; `blocked`: those that never could run."""

    scope: str
    critical: bool
    causes: dict[Cause, list[str]]
    roots: list[str]
    blocked: list[str]
    message: str
    next: str


def analyse(workflow_id: int, endings: Sequence[Ending]) -> Analysis | None:
    """What there is to say; None where nothing failed."""
    bad = [one for one in endings if _is_bad(one)]
    if not bad:
        return None
    causes: dict[Cause, list[str]] = {}
    for one in bad:
        causes.setdefault(_cause(one), []).append(one.name)
    roots = [one for one in bad if _cause(one) is not Cause.DEPENDENCY] or bad
    frequent = Counter(_cause(one) for one in roots)
    main = max(Cause, key=lambda cause: frequent[cause])
    first = next(one for one in roots if _cause(one) is main)
    scope = "systemic" if _is_systemic(endings, roots, frequent[main], main) else "partial"
    return Analysis(
        scope=scope,
        critical=any(one.critical for one in bad),
        causes=causes,
        roots=[one.name for one in roots],
        blocked=causes.get(Cause.DEPENDENCY, []),
        message=_message(roots, frequent[main], main, first, len(endings)),
        next=_NEXT[main].format(id=workflow_id, job=first.job, twice=_twice_s(roots)),
    )


def _is_bad(one: Ending) -> bool:
    return (one.state in FINAL or one.state is State.HELD) and not is_done(one.state, one.reason)


def _cause(one: Ending) -> Cause:
    return _BY_REASON.get(one.reason or Reason.EXIT, Cause.EXIT)


def _is_systemic(endings: Sequence[Ending], roots: Sequence[Ending], frequent: int, main: Cause) -> bool:
    """Several steps fell to the host, or to one cause at least half of all that were tried."""
    if frequent < SYSTEMIC_LEAST:
        return False
    tried = sum(1 for one in endings if one.attempts) or len(roots)
    return main in _OF_THE_HOST or frequent >= tried * SYSTEMIC_SHARE


def _message(roots: Sequence[Ending], frequent: int, main: Cause, first: Ending, steps: int) -> str:
    others = f" and {frequent - 1} more" if frequent > 1 else ""
    rest = len(roots) - frequent
    also = f"; {rest} failed otherwise" if rest else ""
    return f"{len(roots)} of {steps} steps failed: {first.name}{others} {_SAID[main]}{also}"


def _twice_s(roots: Sequence[Ending]) -> int:
    """Twice the longest limit that was too short, in seconds."""
    limits = [one.timeout_ms for one in roots if _cause(one) is Cause.TIMEOUT and one.timeout_ms]
    return max(1, -(-2 * max(limits, default=1_800_000) // 1_000))
