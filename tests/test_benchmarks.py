"""The benchmarks run, and their table judges as it says. Their numbers on a busy machine are not tested.

Owns one quick run of all of them: a benchmark that no longer works is found here. Only the system calls of a job, which
a busy machine hardly changes, have a bound.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cost, harness, peers
from benchmarks.table import Row, lines
from tests.support import slurm, strace

ROOT = Path(__file__).parents[1]
JOBS = 200
CALLS_A_JOB = 70  # 27 where eight jobs share a turn, 65 where each has its own


def ratio(value: float, *, more_is_better: bool) -> Row:
    must, goal = (0.3, 0.5) if more_is_better else (5, 3)
    return Row("what", [value], must, goal, "", more_is_better=more_is_better)


@pytest.mark.parametrize(
    ("value", "more_is_better", "verdict"),
    [(0.6, True, "goal"), (0.4, True, "must"), (0.2, True, "MISSED"),
     (2, False, "goal"), (4, False, "must"), (6, False, "MISSED")],
)  # fmt: skip
def test_row_when_judged_then_it_says_which_bound_was_reached(
    value: float, verdict: str, *, more_is_better: bool
) -> None:
    assert ratio(value, more_is_better=more_is_better).verdict == verdict


def test_table_when_printed_then_a_missed_budget_stands_in_it() -> None:
    row = Row("submits", [0.1, 0.3, 0.2], 0.3, 0.5, "10/s", more_is_better=True)

    head, line = lines([row])

    assert head.split() == ["what", "median", "rounds", "must", "goal", "reached", "in", "figures"]
    assert line.split() == ["submits", "0.2", "0.1..0.3", "≥", "0.3", "≥", "0.5", "MISSED", "10/s"]


def test_peers_when_they_are_missing_then_the_error_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "FETCHED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SystemExit, match="make bench-peers"):
        next(peers.rows(harness.QUICK))


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler for the yardsticks")
def test_benchmarks_when_run_quickly_then_every_budget_has_a_row() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr
    judged = [line for line in run.stdout.splitlines() if "≤" in line or "≥" in line]
    assert len(judged) == 58 + 2 * (strace.why_not() is None) + 4 * (slurm.why_not() is None)


@pytest.mark.skipif(strace.why_not() is not None, reason=f"{strace.why_not()}")
def test_job_when_its_system_calls_are_counted_then_they_are_few() -> None:
    """Without futex: how often threads wait for each other depends on the neighbours. The bound is a loose one."""
    with harness.daemon(max_running=8) as process, harness.RawConnection(process.socket) as connection:
        cost.in_batches(connection, JOBS)

        counts = cost.count_calls(process.pid, lambda: cost.in_batches(connection, JOBS))

    assert counts["fdatasync"] > 0
    assert (sum(counts.values()) - counts["futex"]) / JOBS <= CALLS_A_JOB
