"""Why a workflow failed: causes from reasons, systemic or partial, critical or not, and one next command."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.analysis import Analysis, Cause, Ending, analyse
from stoker.core.model import Reason, State


def ending(name: str, reason: Reason | None, state: State = State.FAILED, **options: Any) -> Ending:
    return Ending(name=name, job=ord(name), state=state, reason=reason, **{"attempts": 1, **options})


def ok(name: str) -> Ending:
    return ending(name, Reason.EXIT, State.SUCCEEDED)


def analysed(*endings: Ending) -> Analysis:
    found = analyse(7, endings)
    assert found is not None
    return found


def test_analysis_when_nothing_failed_then_there_is_none() -> None:
    skipped = ending("b", Reason.USER, State.SKIPPED)

    assert analyse(7, [ok("a"), skipped, ending("c", None, State.RUNNING)]) is None


@pytest.mark.parametrize("reason", [*Reason, None])
def test_analysis_when_one_step_failed_for_any_reason_then_it_has_a_cause_and_a_next_command(
    reason: Reason | None,
) -> None:
    found = analysed(ok("a"), ending("b", reason))

    assert list(found.causes.values()) == [["b"]]
    assert found.next.startswith("stoker ")
    assert "{" not in found.next
    assert (found.scope, found.critical, found.roots) == ("partial", True, ["b"])


@pytest.mark.parametrize(
    ("endings", "scope"),
    [
        ([ending("a", Reason.OOM), ending("b", Reason.OOM), *map(ok, "cdefgh")], "systemic"),  # the host's fault
        ([ending("a", Reason.EXIT), ending("b", Reason.EXIT), *map(ok, "cdefgh")], "partial"),
        ([ending("a", Reason.EXIT), ending("b", Reason.EXIT), ok("c")], "systemic"),
        ([ending("a", Reason.EXIT), ending("b", Reason.TIMEOUT)], "partial"),  # two causes, one step each
        ([ending("a", Reason.TTL, State.EXPIRED, attempts=0), ending("b", Reason.TTL, attempts=0)], "systemic"),
        ([ending("a", Reason.OOM)], "partial"),
    ],
)
def test_analysis_when_several_fell_to_the_host_or_half_of_all_to_one_cause_then_it_is_systemic(
    endings: list[Ending], scope: str
) -> None:
    assert analysed(*endings).scope == scope


def test_analysis_when_steps_were_skipped_for_another_then_they_are_blocked_and_no_roots() -> None:
    found = analysed(
        ending("a", Reason.EXIT, critical=False), ending("b", Reason.DEPENDENCY, State.SKIPPED, critical=False), ok("c")
    )

    assert (found.roots, found.blocked, found.critical) == (["a"], ["b"], False)
    assert found.causes == {Cause.EXIT: ["a"], Cause.DEPENDENCY: ["b"]}
    assert found.next == "stoker logs 97"


def test_analysis_when_only_needs_were_not_met_then_those_steps_are_the_roots() -> None:
    found = analysed(ok("a"), ending("b", Reason.DEPENDENCY, State.SKIPPED, attempts=0))

    assert (found.roots, found.next) == (["b"], "stoker workflow graph 7")


def test_analysis_when_limits_were_too_short_then_twice_the_longest_is_proposed() -> None:
    endings = [ending("a", Reason.TIMEOUT, timeout_ms=1_500), ending("b", Reason.DEADLINE), ending("c", Reason.EXIT)]

    found = analysed(*endings)

    assert found.next == "stoker workflow retry 7 --failed --timeout 3s"
    assert found.message == "3 of 3 steps failed: a and 1 more ran for longer than allowed; 1 failed otherwise"
