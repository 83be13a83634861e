"""The outcome logs that a recovery removes: those that cannot grow and whose outcomes are all committed."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import pytest

from stoker.core.job.recovery import RecoveryPlan
from stoker.process.evidence import LauncherFacts
from stoker.process.messages import Exited
from stoker.upkeep.recovery_findings import RecoveryFindings

LOG = Path("outcomes/1-ab.log")
ONE, OTHER = (Exited(run_id=f"{job}.1.0123456789abcdef", at_boot_ms=5, at_ms=7) for job in (1, 2))
CASES: list[tuple[str, list[Exited], Container[str], Container[str], bool]] = [
    ("its launcher is dead and the outcome is committed", [ONE], (), (), True),
    ("its launcher may write to it", [ONE], (LOG.stem,), (), False),
    ("it has grown since the plan was made", [ONE, OTHER], (), (), False),
    ("the run is open: its launcher had just answered that it goes on", [ONE], (), (ONE.run_id,), False),
]


@pytest.mark.parametrize(("_why", "ends", "alive", "open_runs", "removed"), CASES, ids=[case[0] for case in CASES])
def test_log_when_a_recovery_has_ended_then_it_goes_only_with_nothing_to_lose(
    _why: str,
    ends: list[Exited],
    alive: Container[str],
    open_runs: Container[str],
    removed: bool,  # noqa: FBT001
) -> None:
    findings = RecoveryFindings(RecoveryPlan(), [], {}, LauncherFacts(written={ONE.run_id: ONE}), {}, [LOG])

    logs = findings.committed_logs([(LOG, ends)], alive, lambda run_id: run_id in open_runs)

    assert logs == ([LOG] if removed else [])
