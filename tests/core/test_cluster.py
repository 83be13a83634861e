"""Runs on a cluster: the decision between claim, record and the engine's word, and the sentences for people.

Owns the table of what is seen and what follows, one row each.
"""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.cluster import (
    LISTED_LATE_MS,
    RECORD_LATE_MS,
    ClaimedBy,
    EngineJob,
    NextStep,
    Phase,
    Witnesses,
    end_before_start,
    end_by_word,
    next_step,
)
from stoker.core.explain import explain
from stoker.core.job.model import CLUSTER, Attempt, ExecutionMode, OutcomeKind, Queue, State
from stoker.core.job_facts import ClusterFacts, JobFacts
from tests.support import jobs

WINDOW_MS = 300_000
WAITS = EngineJob(7, "1.1.aa", Phase.WAITS, "PENDING", "Resources")
RUNS = EngineJob(7, "1.1.aa", Phase.RUNS, "RUNNING")
OVER = EngineJob(7, "1.1.aa", Phase.OVER, "NODE_FAIL", "None")
LONG = 10 * WINDOW_MS


def step(**seen: Any) -> NextStep:
    return next_step(
        Witnesses(**{"claim": None, "has_record": False, "listed": None, "answers": True} | seen), WINDOW_MS
    )


@pytest.mark.parametrize("claim", [None, *ClaimedBy])
@pytest.mark.parametrize("listed", [None, WAITS, RUNS, OVER])
@pytest.mark.parametrize("answers", [True, False])
def test_run_when_it_has_a_record_then_that_decides(claim: ClaimedBy | None, listed: Any, answers: bool) -> None:  # noqa: FBT001
    assert step(has_record=True, claim=claim, listed=listed, answers=answers, since_ms=LONG) is NextStep.SETTLE


@pytest.mark.parametrize("claim", [None, *ClaimedBy])
@pytest.mark.parametrize("listed", [None, WAITS, RUNS, OVER])
def test_run_when_the_engine_is_away_then_nothing_follows(claim: ClaimedBy | None, listed: Any) -> None:
    assert step(claim=claim, listed=listed, answers=False, since_ms=LONG) is NextStep.WAIT


@pytest.mark.parametrize(
    ("seen", "then"),
    [
        ({"listed": WAITS, "since_ms": LONG}, NextStep.WAIT),
        ({"listed": RUNS, "since_ms": LONG}, NextStep.WAIT),
        ({"claim": ClaimedBy.NODE, "listed": RUNS, "since_ms": LONG}, NextStep.WAIT),
        ({"since_ms": LISTED_LATE_MS - 1}, NextStep.WAIT),
        ({"since_ms": LISTED_LATE_MS}, NextStep.REVOKE),
        ({"listed": OVER}, NextStep.REVOKE),
        ({"claim": ClaimedBy.DAEMON, "listed": OVER}, NextStep.REVOKE),
        ({"claim": ClaimedBy.NODE, "listed": OVER, "since_ms": RECORD_LATE_MS - 1}, NextStep.WAIT),
        ({"claim": ClaimedBy.NODE, "listed": OVER, "since_ms": RECORD_LATE_MS}, NextStep.CONCLUDE),
        ({"claim": ClaimedBy.NODE, "since_ms": WINDOW_MS - 1}, NextStep.WAIT),
        ({"claim": ClaimedBy.NODE, "since_ms": WINDOW_MS}, NextStep.HOLD),
    ],
)
def test_run_when_it_has_no_record_then_the_others_decide(seen: dict[str, Any], then: NextStep) -> None:
    assert step(**seen) is then


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("OUT_OF_MEMORY", OutcomeKind.OOM),
        ("TIMEOUT", OutcomeKind.SIGNAL),
        ("CANCELLED", OutcomeKind.SIGNAL),
        ("NODE_FAIL", OutcomeKind.UNSEEN),
        ("PREEMPTED", OutcomeKind.UNSEEN),
        ("COMPLETED", OutcomeKind.UNSEEN),
    ],
)
def test_end_when_only_the_engine_tells_then_each_word_has_one_meaning(word: str, kind: OutcomeKind) -> None:
    outcome = end_by_word(EngineJob(7, "1.1.aa", Phase.OVER, word, "BadConstraints"), 5, stopped=True)

    assert (outcome.kind, outcome.stopped, outcome.ended_at) == (kind, True, 5)
    assert outcome.error == f"Slurm: {word} (BadConstraints); its node left no record of the end"


def test_end_when_it_was_revoked_then_it_never_started_unless_cancelled_there() -> None:
    cancelled = EngineJob(7, "1.1.aa", Phase.OVER, "CANCELLED", "None")

    assert end_before_start(None, 5, stopped=False).kind is OutcomeKind.NEVER_STARTED
    assert end_before_start(OVER, 5, stopped=False).kind is OutcomeKind.NEVER_STARTED
    assert end_before_start(cancelled, 5, stopped=True).kind is OutcomeKind.NEVER_STARTED
    by_person = end_before_start(cancelled, 5, stopped=False)
    assert (by_person.kind, by_person.error) == (
        OutcomeKind.SPAWN_ERROR,
        "job 7 of Slurm was cancelled before it started",
    )


@pytest.mark.parametrize(
    ("asked", "goes_on"),
    [({}, False), ({"survive": True}, True), ({"execution_mode": ExecutionMode.CLUSTER}, True)],
)
def test_worker_when_the_daemon_ends_then_it_goes_on_if_asked_or_elsewhere(
    asked: dict[str, Any], goes_on: object
) -> None:
    assert jobs.spec(**asked).outlives_daemon is goes_on


# --- why ---


def why(state: State, cluster: ClusterFacts, started_at: int | None = None) -> tuple[str, str]:
    spec = jobs.spec(execution_mode=ExecutionMode.CLUSTER, queue="hpc")
    job = jobs.job(state, asked=spec, id=3, attempts=int(state is State.RUNNING))
    attempt = Attempt(run_id="3.1.aa", job_id=3, ordinal=1, launcher=CLUSTER, created_at=1, started_at=started_at)
    facts = JobFacts(
        now=jobs.NOW, queue=Queue(name="hpc"), attempt=attempt if job.attempts else None, cluster=cluster, running=9
    )
    blocker = explain(job, facts)
    return blocker.code, blocker.message


@pytest.mark.parametrize(
    ("cluster", "code", "words"),
    [
        (ClusterFacts(), "cluster_waits", "is being handed to Slurm"),
        (ClusterFacts(WAITS), "cluster_waits", "waits in Slurm as job 7: Resources (the nodes are busy)"),
        (ClusterFacts(EngineJob(7, "r", Phase.WAITS, "PENDING", "Odd")), "cluster_waits", "as job 7: Odd"),
        (ClusterFacts(EngineJob(7, "r", Phase.WAITS, "PENDING", "None")), "cluster_waits", "waits in Slurm as job 7"),
        (ClusterFacts(RUNS), "running", "is running (attempt 1) on the cluster, as job 7 of Slurm"),
        (ClusterFacts(OVER), "running", "job 7 of Slurm is over (NODE_FAIL), and its record is awaited"),
        (ClusterFacts(full="at most 2"), "cluster_full", "until Slurm takes more jobs of queue 'hpc': at most 2"),
        (ClusterFacts(RUNS, full="at most 2"), "running", "as job 7 of Slurm"),
        (ClusterFacts(RUNS, away="no route"), "cluster_away", "Slurm, which does not answer now (no route)"),
    ],
)
def test_why_when_a_job_is_on_a_cluster_then_it_has_the_words_of_slurm(
    cluster: ClusterFacts, code: str, words: str
) -> None:
    got = why(State.RUNNING, cluster)

    assert got[0] == code
    assert words in got[1]


def test_why_when_a_job_waits_for_the_engine_then_slots_of_this_host_do_not_count() -> None:
    assert why(State.QUEUED, ClusterFacts(away="no route"))[0] == "cluster_away"
    assert why(State.QUEUED, ClusterFacts(full="at most 2"))[0] == "cluster_full"
    assert why(State.QUEUED, ClusterFacts()) == ("slot", "may start at any moment")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (ClusterFacts(), "is running (attempt 1) on the cluster"),
        (ClusterFacts(WAITS), "is running (attempt 1) on the cluster, as job 7 of Slurm"),
    ],
)
def test_why_when_its_node_has_begun_then_an_older_word_of_slurm_does_not_count(
    cluster: ClusterFacts, words: str
) -> None:
    assert why(State.RUNNING, cluster, started_at=1) == ("running", words)
