"""The reason why a job of a cluster waits or runs: the part of `explain` that rests on the words of the engine.

Owns the meaning of Slurm's reasons for people. A node's claim is newer than the engine's list, so a run that has begun
runs, whatever the list still says.
"""

from __future__ import annotations

from stoker.core.cluster import Phase
from stoker.core.job.model import Job
from stoker.core.job_facts import Blocker, JobFacts

# What Slurm's commonest reasons for waiting mean (squeue(1), JOB REASON CODES).
_REASONS = {
    "Resources": "the nodes are busy",
    "Priority": "jobs of a higher priority go first",
    "Dependency": "it depends on another job of Slurm",
    "BeginTime": "its time to begin has not come",
    "ReqNodeNotAvail": "a node that it needs is not available",
    "PartitionDown": "its partition is down",
    "PartitionTimeLimit": "its time limit is above that of the partition",
    "PartitionNodeLimit": "it asks for more nodes than the partition has",
    "JobHeldAdmin": "an administrator of Slurm holds it",
    "JobHeldUser": "it is held in Slurm",
    "Licenses": "licences are taken",
}


def waiting_words(reason: str) -> str:
    """A reason of Slurm behind a colon, with its meaning if it is one of the commonest."""
    meaning = _REASONS.get(reason)
    return "" if reason in ("", "None") else f": {reason}" + (f" ({meaning})" if meaning else "")


def engine_away(_job: Job, facts: JobFacts) -> Blocker | None:
    """Nothing is handed over while the engine does not answer, or takes no more jobs of the queue."""
    if facts.cluster is None or facts.cluster.away is None:
        return _engine_full(facts)
    message = f"queue {facts.queue.name!r} hands its jobs to Slurm, which does not answer: {facts.cluster.away}"
    return Blocker("cluster_away", message, "sinfo", {"error": facts.cluster.away})


def _engine_full(facts: JobFacts) -> Blocker | None:
    if facts.cluster is None or facts.cluster.full is None:
        return None
    message = f"waits until Slurm takes more jobs of queue {facts.queue.name!r}: {facts.cluster.full}"
    return Blocker("cluster_full", message, "sacctmgr show assoc", {"error": facts.cluster.full})


def _unlisted(job: Job, facts: JobFacts, *, began: bool) -> Blocker:
    """A job of which the engine has said nothing yet."""
    if began:
        message = f"is running (attempt {job.attempts}) on the cluster"
        return Blocker("running", message, f"stoker why {job.id}")
    return _engine_full(facts) or Blocker("cluster_waits", "is being handed to Slurm", f"stoker why {job.id}")


def on_cluster(job: Job, facts: JobFacts) -> Blocker | None:
    """How a job stands that was handed over."""
    if facts.cluster is None:
        return None
    listed, away = facts.cluster.listed, facts.cluster.away
    if away is not None:
        message = f"was handed to Slurm, which does not answer now ({away}); its node records its end"
        return Blocker("cluster_away", message, "sinfo", {"error": away})
    began = facts.attempt is not None and facts.attempt.started_at is not None
    if listed is None:
        return _unlisted(job, facts, began=began)
    details = {"engine_job": listed.id, "engine_state": listed.state, "engine_reason": listed.reason}
    hint = f"scontrol show job {listed.id}"
    if listed.phase is Phase.WAITS and not began:
        message = f"waits in Slurm as job {listed.id}{waiting_words(listed.reason)}"
        return Blocker("cluster_waits", message, hint, details)
    if listed.phase is not Phase.OVER:
        message = f"is running (attempt {job.attempts}) on the cluster, as job {listed.id} of Slurm"
        return Blocker("running", message, f"stoker logs -f {job.id}", details)
    message = f"job {listed.id} of Slurm is over ({listed.state}), and its record is awaited"
    return Blocker("running", message, hint, details)
