"""Why a workflow failed: causes from reasons, systemic or partial, critical or not, and one next command."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.job.limits import Bounds, Limits
from stoker.core.job.model import Attempt, Outcome, OutcomeKind, Reason, State
from stoker.core.workflow.analysis import Analysis, Cause, Ending, analyse
from stoker.core.workflow.definition import OUTSIDE
from stoker.core.workflow.fan_out import COLLECT


def ending(name: str, reason: Reason | None, state: State = State.FAILED, **options: Any) -> Ending:
    return Ending(name=name, job=ord(name), state=state, reason=reason, **{"attempts": 1, **options})


def ended(kind: OutcomeKind, limits: Limits | None = None, **outcome: Any) -> dict[str, Any]:
    bounds = None if limits is None else Bounds(rlimit=limits)
    run = Attempt(run_id="98.1.0", job_id=98, ordinal=1, launcher="l", created_at=0, bounds=bounds)
    return {"ended": replace(run, ended_at=1, outcome=Outcome(kind=kind, **outcome))}


def unborn(error: str) -> dict[str, Any]:
    return ended(OutcomeKind.SPAWN_ERROR, error=error)


def ok(name: str) -> Ending:
    return ending(name, Reason.EXIT, State.SUCCEEDED)


def analysed(*endings: Ending) -> Analysis:
    analysis = analyse(7, endings)
    assert analysis is not None
    return analysis


def test_analysis_when_nothing_failed_then_there_is_no_analysis() -> None:
    skipped = ending("b", Reason.USER, State.SKIPPED)

    assert analyse(7, [ok("a"), skipped, ending("c", None, State.RUNNING)]) is None


@pytest.mark.parametrize("reason", [*Reason, None])
def test_analysis_when_one_step_failed_then_it_has_a_cause_and_a_next_command(
    reason: Reason | None,
) -> None:
    analysis = analysed(ok("a"), ending("b", reason))

    assert list(analysis.causes.values()) == [["b"]]
    assert analysis.next.startswith("stoker ")
    assert "{" not in analysis.next
    assert (analysis.scope, analysis.critical, analysis.roots) == ("partial", True, ["b"])


EXIT, SIGNAL = OutcomeKind.EXIT, OutcomeKind.SIGNAL
CPU, FILE = Limits(cpu_seconds=1), Limits(file_size_bytes=1)
EXPIRED: dict[str, Any] = {"state": State.EXPIRED, "attempts": 0}


@pytest.mark.parametrize(
    ("reason", "options", "cause", "following"),
    [
        (Reason.SIGNAL, ended(SIGNAL, signal=24), Cause.CPU, "stoker show 98"),
        (Reason.EXIT, ended(EXIT, CPU, exit_code=128 + 24), Cause.CPU, "stoker show 98"),  # a shell reported it
        (Reason.SIGNAL, ended(SIGNAL, signal=25), Cause.FILE_SIZE, "stoker show 98"),
        (Reason.EXIT, ended(EXIT, FILE, exit_code=128 + 25), Cause.FILE_SIZE, "stoker show 98"),
        (Reason.EXIT, ended(EXIT, exit_code=128 + 25), Cause.EXIT, "stoker logs 98"),  # no limit bounded it
        (Reason.EXIT, ended(EXIT, CPU, exit_code=128 + 25), Cause.EXIT, "stoker logs 98"),
        (Reason.UNRESPONSIVE, ended(SIGNAL, CPU, signal=24), Cause.UNRESPONSIVE, "stoker workflow retry 7 --failed"),
        (Reason.OOM, ended(OutcomeKind.OOM, signal=9), Cause.MEMORY, "stoker show 98"),
        (Reason.SPAWN_ERROR, unborn("make: Cannot allocate memory"), Cause.MEMORY, "stoker status"),
        (Reason.SPAWN_ERROR, unborn("log /x/1.log: No space left on device"), Cause.DISK, "stoker status"),
        (Reason.SPAWN_ERROR, unborn("log /x/1.log: Disk quota exceeded"), Cause.DISK, "stoker status"),
        (Reason.SPAWN_ERROR, unborn("make: Resource temporarily unavailable"), Cause.PROCESSES, "stoker show 98"),
        (Reason.SPAWN_ERROR, unborn("make: No such file or directory"), Cause.COMMAND, "stoker logs 98"),
        (Reason.SPAWN_ERROR, ended(OutcomeKind.SPAWN_ERROR), Cause.COMMAND, "stoker logs 98"),
        (Reason.SPAWN_ERROR, {}, Cause.COMMAND, "stoker logs 98"),
        (Reason.TTL, {"resources": ("repo",), **EXPIRED}, Cause.RESOURCES, "stoker resource ls"),
        (Reason.TTL, EXPIRED, Cause.ROOM, "stoker queue"),
        (Reason.DEADLINE, EXPIRED, Cause.ROOM, "stoker queue"),
        (Reason.DEADLINE, ended(SIGNAL, signal=15), Cause.DEADLINE, "stoker retry 98 --deadline +1h"),
    ],
)  # fmt: skip
def test_analysis_when_a_step_reached_a_limit_or_lacked_something_then_it_is_named(
    reason: Reason, options: dict[str, Any], cause: Cause, following: str
) -> None:
    analysis = analysed(ok("a"), ending("b", reason, **options))

    assert (analysis.causes, analysis.next) == ({cause: ["b"]}, following)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reason": Reason.TTL, "resources": ("repo", "seat"), **EXPIRED}, "(b: it asks for repo, seat)"),
        ({"reason": Reason.EXIT, **ended(EXIT, Limits(open_files=9), exit_code=1)}, "see its log: open files)"),
        ({"reason": Reason.EXIT, **ended(EXIT, exit_code=1)}, "b exited with 1 (success codes: 0); 1 failed otherwise"),
    ],
)  # fmt: skip
def test_message_when_more_is_known_of_the_named_step_then_it_is_part_of_it(
    options: dict[str, Any], message: str
) -> None:
    analysis = analysed(ending("b", **options), ending("c", Reason.USER))

    assert message in analysis.message


@pytest.mark.parametrize(
    ("endings", "scope"),
    [
        ([ending("a", Reason.OOM), ending("b", Reason.OOM), *map(ok, "cdefgh")], "systemic"),  # the host's fault
        ([ending("a", Reason.EXIT), ending("b", Reason.EXIT), *map(ok, "cdefgh")], "partial"),
        ([ending("a", Reason.EXIT), ending("b", Reason.EXIT), ok("c")], "systemic"),
        ([ending("a", Reason.EXIT), ending("b", Reason.TIMEOUT)], "total"),  # two causes, one step each
        ([ending("a", Reason.EXIT), ending("b", Reason.TIMEOUT), ok("c")], "partial"),
        ([ending("a", Reason.TTL, State.EXPIRED, attempts=0), ending("b", Reason.TTL, attempts=0)], "systemic"),
        ([ending("a", Reason.OOM)], "total"),
    ],
)
def test_analysis_when_several_failed_by_the_host_or_one_cause_then_it_is_systemic(
    endings: list[Ending], scope: str
) -> None:
    assert analysed(*endings).scope == scope


def test_analysis_when_steps_were_skipped_for_another_then_they_are_blocked() -> None:
    analysis = analysed(
        ending("a", Reason.EXIT, critical=False), ending("b", Reason.DEPENDENCY, State.SKIPPED, critical=False), ok("c")
    )

    assert (analysis.roots, analysis.blocked, analysis.critical) == (["a"], ["b"], False)
    assert analysis.causes == {Cause.EXIT: ["a"], Cause.DEPENDENCY: ["b"]}
    assert analysis.next == "stoker logs 97"


def test_analysis_when_siblings_were_ended_then_they_are_named_apart() -> None:
    aborted = [ending(name, Reason.ABORTED, State.CANCELLED) for name in "bc"]

    analysis = analysed(ending("a", Reason.EXIT), *aborted, ok("d"))
    alone = analysed(*aborted)

    assert (analysis.roots, analysis.blocked, analysis.scope) == (["a"], [], "partial")
    assert analysis.causes == {Cause.EXIT: ["a"], Cause.ABORTED: ["b", "c"]}
    assert (alone.roots, alone.next) == (["b", "c"], "stoker workflow show 7")  # at a limit of the workflow


def test_analysis_when_work_outside_failed_then_it_says_nothing_of_the_host() -> None:
    ends = [ending(name, Reason.EXIT, control=OUTSIDE, critical=False) for name in "ab"]
    why = ended(OutcomeKind.EXCEPTION, error="job 41 did not succeed: it is failed\nmore")

    analysis = analysed(replace(ends[0], **why), ends[1])

    assert (analysis.causes, analysis.next) == ({Cause.OUTSIDE: ["a", "b"]}, "stoker why 97")
    assert (analysis.scope, analysis.critical) == ("total", False)
    assert "(a: job 41 did not succeed: it is failed), and 1 more likewise" in analysis.message
    assert analysed(ending("c", Reason.EXIT), *ends, ok("d")).roots == ["c", "a", "b"]


def test_analysis_when_a_step_of_a_nested_flow_failed_then_its_end_is_no_root() -> None:
    inner = Ending(name="b/x", job=1, state=State.FAILED, reason=Reason.EXIT, attempts=1)
    end = ending("b", Reason.EXIT, control=COLLECT)

    analysis = analysed(end, inner, *map(ok, "cd"))

    assert (analysis.roots, analysis.scope) == (["b/x"], "partial")
    assert analysis.causes == {Cause.EXIT: ["b/x"], Cause.DEPENDENCY: ["b"]}
    assert analysed(end, ok("c")).roots == ["b"]  # for outputs that are missing


@pytest.mark.parametrize("limit", [Reason.TIMEOUT, Reason.DEADLINE])
def test_analysis_when_a_nested_flow_reached_a_limit_then_that_is_the_root(limit: Reason) -> None:
    inner = Ending(name="b/x", job=1, state=State.CANCELLED, reason=Reason.ABORTED)

    analysis = analysed(ending("b", limit, control=COLLECT), inner, ok("c"))

    assert (analysis.roots, analysis.next) == (["b"], "stoker workflow retry 7 --failed")
    assert "1 of 3 steps failed: b reached a limit of time of its flow" in analysis.message


def test_analysis_when_only_needs_were_not_met_then_those_steps_are_the_roots() -> None:
    analysis = analysed(ok("a"), ending("b", Reason.DEPENDENCY, State.SKIPPED, attempts=0))

    assert (analysis.roots, analysis.next) == (["b"], "stoker workflow graph 7")


def test_analysis_when_limits_were_too_short_then_twice_the_longest_is_proposed() -> None:
    endings = [ending("a", Reason.TIMEOUT, timeout_ms=1_500), ending("b", Reason.TIMEOUT), ending("c", Reason.EXIT)]

    analysis = analysed(*endings)

    assert analysis.next == "stoker workflow retry 7 --failed --timeout 3s"
    assert (
        analysis.message
        == "3 of 3 steps failed: a ran for longer than allowed, and 1 more likewise; 1 failed otherwise"
    )
