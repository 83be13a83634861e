"""The faults of a cluster that a probe shows: one row for each end that its job can have.

Owns the words and the next command of each.
"""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.cluster import EngineJob, Phase
from stoker.core.cluster_probe import ProbeAnswer, ProbedJob, ProbeFault, ProbePlace, faults

HOUR_MS = 3_600_000
PLACE = ProbePlace("/shared", "python3", "secret", 60_000)
LOOK = "srun --partition=long ls -ld /shared"
SHOW = "scontrol show job 7"
CLOCK = "set the clock of the node: timedatectl; chronyc tracking"
ABOUT = "queue hpc, gpu: its probe, job 7 of Slurm,"


def job(**options: Any) -> ProbedJob:
    return ProbedJob(queues=("hpc", "gpu"), options=("--partition=long",), number=7, **options)


def listed(phase: Phase, state: str, reason: str = "None") -> EngineJob:
    return EngineJob(7, "stoker.doctor.0", phase, state, reason)


def answer(nonce: str = "secret", python: str = "3.11", skew_ms: int = 0) -> ProbedJob:
    return job(answer=ProbeAnswer("n1", nonce, python, skew_ms), listed=listed(Phase.OVER, "COMPLETED"))


PROVEN = {
    "refused": (
        ProbedJob(queues=("hpc",), refused="sbatch: invalid partition specified: long"),
        "queue hpc: Slurm refuses its jobs: sbatch: invalid partition specified: long",
        "sinfo --summarize, then correct [queues.NAME.slurm]",
    ),
    "refused account": (
        ProbedJob(queues=("hpc",), refused="sbatch: Invalid account"),
        "queue hpc: Slurm refuses its jobs: sbatch: Invalid account",
        'sacctmgr show associations user="$USER", then correct [queues.NAME.slurm]',
    ),
    "failed": (
        job(listed=listed(Phase.OVER, "FAILED", "NonZeroExitCode")),
        f"{ABOUT} failed: its node cannot write to /shared",
        LOOK,
    ),
    "other text": (
        answer(nonce="old"),
        "queue hpc, gpu: node n1 does not read in /shared the text that is there",
        LOOK,
    ),
    "no python": (
        answer(python="sh: 1: python3: not found"),
        "queue hpc, gpu: python3 cannot be run on node n1: sh: 1: python3: not found",
        "install Python 3.11 or newer there, or set [cluster] python to its path",
    ),
    "old python": (
        answer(python="3.9"),
        "queue hpc, gpu: python3 on node n1 is Python 3.9, and 3.11 is the oldest",
        "set [cluster] python to the path of a newer one",
    ),
    "clock ahead": (
        answer(skew_ms=HOUR_MS),
        "queue hpc, gpu: the clock of node n1 is 1h ahead of that of /shared",
        CLOCK,
    ),
    "clock behind": (
        answer(skew_ms=-HOUR_MS),
        "queue hpc, gpu: the clock of node n1 is 1h behind that of /shared",
        CLOCK,
    ),
}
OPEN = {
    "away": (
        ProbedJob(queues=("hpc",), away="sbatch: Unable to contact slurm controller"),
        "queue hpc: Slurm does not answer: sbatch: Unable to contact slurm controller",
        "scontrol ping",
    ),
    "not listed": (job(), f"{ABOUT} left no answer within 1m, and Slurm does not list it", SHOW),
    "waits": (
        job(listed=listed(Phase.WAITS, "PENDING", "Resources")),
        f"{ABOUT} did not start within 1m: Resources (the nodes are busy)",
        "stoker doctor --probe --timeout 10m",
    ),
    "runs": (
        job(listed=listed(Phase.RUNS, "RUNNING")),
        f"{ABOUT} left no answer in /shared within 1m (RUNNING)",
        SHOW,
    ),
    "late": (
        job(listed=listed(Phase.OVER, "COMPLETED")),
        f"{ABOUT} left no answer in /shared within 1m (COMPLETED)",
        SHOW,
    ),
    "lost node": (
        job(listed=listed(Phase.OVER, "NODE_FAIL")),
        f"{ABOUT} left no answer in /shared within 1m (NODE_FAIL)",
        SHOW,
    ),
}


@pytest.mark.parametrize("name", PROVEN)
def test_probe_when_it_shows_a_fault_then_the_next_command_is_named(name: str) -> None:
    probed, message, remedy = PROVEN[name]

    assert list(faults(probed, PLACE)) == [ProbeFault(message, remedy)]


@pytest.mark.parametrize("name", OPEN)
def test_probe_when_it_has_shown_nothing_then_no_fault_is_proven(name: str) -> None:
    probed, message, remedy = OPEN[name]

    assert list(faults(probed, PLACE)) == [ProbeFault(message, remedy, is_proven=False)]


def test_probe_when_its_answer_is_right_then_there_is_no_fault() -> None:
    assert list(faults(answer(), PLACE)) == []
    assert list(faults(answer(python="4.0", skew_ms=30_000), PLACE)) == []


@pytest.mark.parametrize(
    ("probed", "settled"),
    [
        (ProbedJob(queues=("hpc",), refused="no"), True),
        (answer(), True),
        (job(), False),
        (job(listed=listed(Phase.WAITS, "PENDING")), False),
        (job(listed=listed(Phase.RUNS, "RUNNING")), False),
        (job(listed=listed(Phase.OVER, "COMPLETED")), False),
        (job(listed=listed(Phase.OVER, "FAILED")), True),
    ],
)
def test_probe_when_more_can_come_then_it_is_waited_for(probed: ProbedJob, *, settled: bool) -> None:
    assert probed.is_settled == settled
