"""Why a workflow failed, read from the ends of its steps, and the next command to type.

Owns the table of causes: how each is recognised, its sentence, the next command, and whether the host is the cause. A
limit that only may be the cause is reported as such. Invariants: a step that was skipped or ended because of another
one is never a root beside that one; there is always one next command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

from msgspec import Struct

from stoker.core.job.model import FINAL, Attempt, Outcome, Reason, State
from stoker.core.job.verdict import SIGXCPU, SIGXFSZ, suspected_limit
from stoker.core.units import counted, exited_with
from stoker.core.workflow.definition import OUTSIDE
from stoker.core.workflow.fan_out import COLLECT
from stoker.core.workflow.state import is_done
from stoker.core.workflow.step_names import outer_of

SYSTEMIC_LEAST = 2  # a single failure says nothing about the other steps
SYSTEMIC_SHARE = 0.5
OF_A_SHELL = 128  # a shell exits with this plus the signal that killed its command
NO_ROOM = ("No space left on device", "Disk quota exceeded")
NO_MEMORY = ("Cannot allocate memory",)
NO_PROCESS = ("Resource temporarily unavailable",)


class Cause(StrEnum):
    """Among equally frequent causes the first one is reported."""

    MEMORY = "out_of_memory"
    DISK = "disk"
    ORPHANED = "orphaned"
    PROCESSES = "process_limit"
    COMMAND = "command"
    CPU = "cpu_limit"
    FILE_SIZE = "file_size_limit"
    RESOURCES = "resources"
    ROOM = "room"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    UNRESPONSIVE = "unresponsive"
    CONDITION = "condition"
    OUTPUT = "output"
    SIGNAL = "signal"
    EXIT = "exit"
    PERSON = "person"
    OUTSIDE = "outside"
    ABORTED = "aborted"
    DEPENDENCY = "dependency"


class Ending(Struct, frozen=True, kw_only=True):
    """The state of one step. `resources`: their names; `ended`: its newest attempt that has ended.

    `control`: the handler of Stoker's own that runs it, if it is one of those that did not succeed.
    """

    name: str
    job: int
    state: State
    reason: Reason | None = None
    critical: bool = True
    attempts: int = 0
    timeout_ms: int | None = None
    success_exit_codes: tuple[int, ...] = (0,)
    resources: tuple[str, ...] = ()
    control: str | None = None
    ended: Attempt | None = None

    @property
    def outcome(self) -> Outcome | None:
        return None if self.ended is None else self.ended.outcome


class Row(Struct, frozen=True):
    """One cause: the ends that have it, a sentence, the next command. `of_host`: the host is at fault."""

    cause: Cause
    is_so: Callable[[Ending], bool]
    sentence: str
    next: str
    of_host: bool = False


def _by(*reasons: Reason) -> Callable[[Ending], bool]:
    return lambda one: one.reason in reasons


def _unborn(*words: str) -> Callable[[Ending], bool]:
    """It could not be started, and the system's error message has one of these texts."""
    return lambda one: one.reason is Reason.SPAWN_ERROR and any(word in _error(one) for word in words)


def _error(one: Ending) -> str:
    return "" if one.outcome is None else one.outcome.error or ""


def _at_limit(signum: int, limit: str) -> Callable[[Ending], bool]:
    """The step, or the command of its shell, was killed by the signal that the kernel sends at that limit."""

    def is_so(one: Ending) -> bool:
        if one.ended is None or one.outcome is None or one.reason not in (Reason.SIGNAL, Reason.EXIT):
            return False
        bounds = one.ended.bounds
        limited = bounds is not None and getattr(bounds.rlimit, limit) is not None
        return one.outcome.signal == signum or (limited and one.outcome.exit_code == OF_A_SHELL + signum)

    return is_so


def _never_began(one: Ending) -> bool:
    return one.reason is Reason.TTL or (one.reason is Reason.DEADLINE and one.state is State.EXPIRED)


def _nested_at_limit(one: Ending) -> bool:
    return one.control == COLLECT and one.reason in (Reason.TIMEOUT, Reason.DEADLINE)


_AGAIN = "stoker workflow retry {id} --failed"
_EXPLAIN = "stoker workflow resume {id} --explain"
_GRAPH = "stoker workflow graph {id}"
_SHOW, _LOGS, _WHY = "stoker show {job}", "stoker logs {job}", "stoker why {job}"
_FOLLOWS = (Cause.ABORTED, Cause.DEPENDENCY)  # from the end of another step
_UNSEEN = (Reason.ORPHANED, Reason.LOST, Reason.STUCK, Reason.POISON, Reason.SHUTDOWN)
# The first row that applies; the last one applies always.
TABLE = (
    Row(Cause.MEMORY, _by(Reason.OOM), "ran out of memory", _SHOW, of_host=True),
    Row(Cause.MEMORY, _unborn(*NO_MEMORY), "could not be started: memory ran out", "stoker status", of_host=True),
    Row(Cause.DISK, _unborn(*NO_ROOM), "could not be started: the disk is full", "stoker status", of_host=True),
    Row(Cause.PROCESSES, _unborn(*NO_PROCESS), "could not be started: too many processes", _SHOW, of_host=True),
    Row(Cause.COMMAND, _by(Reason.SPAWN_ERROR), "could not be started: the command is missing or not executable",
        _LOGS),
    Row(Cause.ORPHANED, _by(*_UNSEEN), "ended unseen, as after a crash of the daemon or the host", _EXPLAIN,
        of_host=True),
    Row(Cause.CPU, _at_limit(SIGXCPU, "cpu_seconds"), "was ended at its limit of CPU time", _SHOW),
    Row(Cause.FILE_SIZE, _at_limit(SIGXFSZ, "file_size_bytes"),
        "was ended at its limit of file size", _SHOW),
    Row(Cause.RESOURCES, lambda one: one.reason is Reason.TTL and bool(one.resources),
        "waited for longer than allowed before there was room", "stoker resource ls", of_host=True),
    Row(Cause.ROOM, _never_began, "waited for longer than allowed before it could start", "stoker queue", of_host=True),
    Row(Cause.TIMEOUT, _nested_at_limit, "reached a limit of time of its flow", _AGAIN),
    Row(Cause.TIMEOUT, _by(Reason.TIMEOUT), "ran for longer than allowed", _AGAIN + " --timeout {twice}s"),
    Row(Cause.DEADLINE, _by(Reason.DEADLINE), "was still running at its deadline", "stoker retry {job} --deadline +1h"),
    Row(Cause.UNRESPONSIVE, _by(Reason.UNRESPONSIVE), "gave no sign of life", _AGAIN),
    Row(Cause.CONDITION, _by(Reason.CONDITION), "has an `if` without a value", "stoker why {job}"),
    Row(Cause.OUTPUT, _by(Reason.OUTPUT), "wrote outputs that cannot be read", _SHOW),
    Row(Cause.SIGNAL, _by(Reason.SIGNAL), "was ended by a signal", _LOGS),
    Row(Cause.PERSON, _by(Reason.USER), "was ended by a person", _EXPLAIN),
    Row(Cause.DEPENDENCY, _by(Reason.DEPENDENCY), "could not run, as what it needs did not end as needed",
        _GRAPH),
    Row(Cause.ABORTED, _by(Reason.ABORTED), "was ended by the failure of another step or a limit of the workflow",
        "stoker workflow show {id}"),
    Row(Cause.OUTSIDE, lambda one: one.control == OUTSIDE, "waited for work outside of the workflow, which failed",
        _WHY),
    Row(Cause.EXIT, lambda _: True, "failed", _LOGS),
)  # fmt: skip

# The end of a nested workflow, beside a step of it that did not succeed.
NESTED = Row(Cause.DEPENDENCY, lambda _: False, "ends a workflow of which a step did not succeed", _GRAPH)


class Analysis(Struct, frozen=True, kw_only=True):
    """`causes`: the steps of each; `roots`: steps that failed by themselves; `blocked`: steps that could not run."""

    scope: str
    critical: bool
    causes: dict[Cause, list[str]]
    roots: list[str]
    blocked: list[str]
    message: str
    next: str


def analyse(workflow_id: int, endings: Sequence[Ending]) -> Analysis | None:
    failed = [one for one in endings if _is_bad(one)]
    outer = {outer_of(one.name) for one in failed}
    bad = [(one, NESTED if _is_nested_end(one) and f"{one.name}/" in outer else _row(one)) for one in failed]
    if not bad:
        return None
    causes: dict[Cause, list[str]] = {}
    for one, row in bad:
        causes.setdefault(row.cause, []).append(one.name)
    roots = [(one, row) for one, row in bad if row.cause not in _FOLLOWS] or bad
    frequent = Counter(row.cause for _, row in roots)
    main = max(Cause, key=lambda cause: frequent[cause])
    first, row = next((one, row) for one, row in roots if row.cause is main)
    systemic = _is_systemic(endings, len(roots), frequent[main], row)
    return Analysis(
        scope="systemic" if systemic else "total" if len(bad) == len(endings) else "partial",
        critical=any(one.critical for one, _ in bad),
        causes=causes,
        roots=[one.name for one, _ in roots],
        blocked=causes.get(Cause.DEPENDENCY, []),
        message=_message(first, row, frequent[main], len(roots), len(endings)),
        next=row.next.format(id=workflow_id, job=first.job, twice=_twice_s(endings)),
    )


def _is_bad(one: Ending) -> bool:
    return (one.state in FINAL or one.state is State.HELD) and not is_done(one.state, one.reason)


def _is_nested_end(one: Ending) -> bool:
    """Whether it ends a nested workflow, and failed for its steps."""
    return one.control == COLLECT and not _nested_at_limit(one)


def _row(one: Ending) -> Row:
    return next(row for row in TABLE if row.is_so(one))


def _is_systemic(endings: Sequence[Ending], roots: int, frequent: int, main: Row) -> bool:
    """Several steps failed because of the host, or at least half of all steps that ran because of one cause."""
    if frequent < SYSTEMIC_LEAST:
        return False
    tried = sum(1 for one in endings if one.attempts and one.control is None) or roots
    return main.of_host or (main.cause is not Cause.OUTSIDE and frequent >= tried * SYSTEMIC_SHARE)


def _message(first: Ending, row: Row, frequent: int, roots: int, steps: int) -> str:
    others = f", and {frequent - 1} more likewise" if frequent > 1 else ""
    also = f"; {roots - frequent} failed otherwise" if roots > frequent else ""
    more = _more(first, row.cause)
    remark = "" if more is None else f" ({first.name}: {more})"
    return f"{roots} of {counted(steps, 'step')} failed: {first.name} {_ended(first, row)}{remark}{others}{also}"


def _ended(one: Ending, row: Row) -> str:
    """As in `exited with 3 (success codes: 0)`."""
    code = None if one.outcome is None else one.outcome.exit_code
    if row.cause is not Cause.EXIT or code is None:
        return row.sentence
    return exited_with(code, one.success_exit_codes)


def _more(one: Ending, cause: Cause) -> str | None:
    if cause is Cause.RESOURCES:
        return f"it asks for {', '.join(one.resources)}"
    if cause is Cause.OUTPUT or one.control is not None:
        return _error(one).partition("\n")[0] or None
    if cause in (Cause.EXIT, Cause.SIGNAL) and one.ended is not None:
        return suspected_limit(one.ended.bounds, one.outcome)
    return None


def _twice_s(endings: Sequence[Ending]) -> int:
    """Twice the longest timeout that was exceeded, in seconds."""
    limits = [one.timeout_ms for one in endings if one.reason is Reason.TIMEOUT and one.timeout_ms]
    return max(1, -(-2 * max(limits, default=1_800_000) // 1_000))
