"""The views of limits: what enforces each, and which may have ended an attempt."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.job.limits import NO_LIMITS, Bounds, Limits, describe
from stoker.core.job.model import Outcome, OutcomeKind
from stoker.core.job.verdict import suspected_limit

ALL = Limits(memory_bytes=1, cpu_seconds=2, processes=3, open_files=4, file_size_bytes=5)


def ended(**fields: Any) -> Outcome:
    kind = OutcomeKind.EXIT if "exit_code" in fields else OutcomeKind.SIGNAL
    return Outcome(**({"kind": kind} | fields))


# --- what is in force ---------------------------------------------------------------------------------------


def test_describe_when_limits_are_enforced_in_two_ways_then_each_says_which() -> None:
    bounds = Bounds(cgroup=Limits(memory_bytes=1), rlimit=Limits(cpu_seconds=2, open_files=3, file_size_bytes=5))

    assert describe(ALL, bounds) == {
        "memory_bytes": {"by": "cgroup", "value": 1, "wanted": 1},
        "cpu_seconds": {"by": "rlimit", "value": 2, "wanted": 2},
        "processes": {"by": "none", "value": None, "wanted": 3},
        "open_files": {"by": "rlimit", "value": 3, "wanted": 4},
        "file_size_bytes": {"by": "rlimit", "value": 5, "wanted": 5},
    }


@pytest.mark.parametrize(("wanted", "bounds"), [(NO_LIMITS, Bounds()), (ALL, None)], ids=["not asked", "not known"])
def test_describe_when_no_limit_was_requested_or_is_known_then_it_is_empty(
    wanted: Limits, bounds: Bounds | None
) -> None:
    assert describe(wanted, bounds) is None


# --- what may have been the end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "rlimit", "word"),
    [(24, Limits(cpu_seconds=2), "CPU time"), (25, Limits(file_size_bytes=5), "file size")],
    ids=["cpu", "file size"],
)
def test_suspected_limit_when_the_kernel_sends_the_signal_then_it_is_likely(
    signal: int, rlimit: Limits, word: str
) -> None:
    suspicion = suspected_limit(Bounds(rlimit=rlimit), ended(signal=signal)) or ""

    assert "likely" in suspicion
    assert word in suspicion


@pytest.mark.parametrize("outcome", [ended(exit_code=1), ended(signal=11)], ids=["exit", "signal"])
def test_suspected_limit_when_felt_inside_the_program_then_it_may_be_the_cause(outcome: Outcome) -> None:
    bounds = Bounds(cgroup=Limits(processes=3), rlimit=Limits(memory_bytes=1, cpu_seconds=2, open_files=4))

    suspicion = suspected_limit(bounds, outcome) or ""

    assert suspicion == "a limit may be the cause, see its log: memory, open files, processes"


def test_suspected_limit_when_the_cpu_time_is_used_up_then_it_may_be_the_cause() -> None:
    bounds = Bounds(rlimit=Limits(cpu_seconds=2))

    suspicion = suspected_limit(bounds, ended(signal=9, user_ms=6_000, system_ms=1_000)) or ""

    assert suspicion.endswith("see its log: CPU time")
    assert suspected_limit(bounds, ended(signal=9, user_ms=1_000)) is None


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        (None, ended(exit_code=1)),
        (Bounds(rlimit=ALL), None),
        (Bounds(rlimit=ALL), ended(exit_code=0)),
        (Bounds(rlimit=ALL), ended(signal=15, stopped=True)),
        (Bounds(cgroup=Limits(memory_bytes=1)), ended(signal=9)),
        (Bounds(cgroup=Limits(memory_bytes=1)), ended(signal=9, kind=OutcomeKind.OOM)),
        (Bounds(rlimit=Limits(file_size_bytes=5)), ended(signal=9, kind=OutcomeKind.UNSEEN)),
        (Bounds(), ended(signal=24)),
    ],
    ids=["unknown", "open", "success", "stopped", "cgroup", "seen", "unseen", "not in force"],
)
def test_suspected_limit_when_there_is_no_ground_then_no_limit_is_suspected(
    bounds: Bounds | None, outcome: Outcome | None
) -> None:
    assert suspected_limit(bounds, outcome) is None
