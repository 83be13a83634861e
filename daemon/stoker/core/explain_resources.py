"""Why a queued job waits for a resource, in words: too little is free, or it is set aside, or its workflow limits it.

Owns these sentences for `core/explain.py`. Invariant: each names the jobs that hold what is lacking.
"""

from __future__ import annotations

from collections.abc import Sequence

from stoker.core.job.model import Job
from stoker.core.job_facts import Blocker, JobFacts
from stoker.core.units import counted, few

MOST_NAMED = 5


def lacking(job: Job, facts: JobFacts) -> Blocker | None:
    for name, amount in job.spec.resources.items():
        if facts.free.get(name, 0) < amount:
            return _lacks(job, name, amount, facts)
    for name, amount in job.spec.resources.items():
        if job.id not in facts.reserved and facts.free.get(name, 0) - _set_aside(name, facts) < amount:
            return _set_aside_for_others(name, amount, facts)
    return None


def _set_aside(name: str, facts: JobFacts) -> int:
    return sum(needs.get(name, 0) for needs in facts.reserved.values())


def _set_aside_for_others(name: str, amount: int, facts: JobFacts) -> Blocker:
    jobs, others = _seen([job_id for job_id, needs in facts.reserved.items() if name in needs], facts)
    free = facts.free.get(name, 0)
    return Blocker(
        "resource",
        f"needs {amount} of resource {name!r}; {free} free, set aside for {jobs_text(jobs, others)}, which goes first",
        f"stoker why {jobs[0]}" if jobs else "stoker resource ls",
        {
            "resource": name,
            "wanted": amount,
            "capacity": facts.capacity.get(name, 0),
            "free": free,
            "set_aside_for": jobs,
            **_counted(others),
        },
    )


def _lacks(job: Job, name: str, amount: int, facts: JobFacts) -> Blocker:
    holders, others = _seen(facts.holders.get(name, ()), facts)
    free, capacity = facts.free.get(name, 0), facts.capacity.get(name, 0)
    if "/" in name:  # a width: no person can name a resource so
        return _narrow(job, name, capacity, holders)
    held = f", held by {jobs_text(holders, others)}" if holders or others else ""
    enough = amount <= capacity  # if not, waiting for the holders does not help
    first = "; it is next: units that become free are kept for it" if job.id in facts.reserved else ""
    return Blocker(
        "resource",
        f"needs {amount} of resource {name!r}, "
        + (f"{max(0, free)} free{held}{first}" if enough else f"and its capacity is {capacity}"),
        _next_command(name, amount, holders, enough=enough, others=others),
        {
            "resource": name,
            "wanted": amount,
            "capacity": capacity,
            "free": free,
            "holders": holders,
            **_counted(others),
            "reserved": job.id in facts.reserved,
        },
    )


def _narrow(job: Job, name: str, width: int, holders: list[int]) -> Blocker:
    """A limit of its workflow, or of its group, for steps that run at once."""
    group = name.partition("/")[2].removesuffix("/")  # of a nested workflow its steps have this before their names
    what = f"of {group!r}" if group else f"of workflow {job.workflow_id}"
    message = f"at most {counted(width, 'step')} {what} run at once" + (f": {jobs_text(holders)}" if holders else "")
    details = {"group": group or None, "width": width, "holders": holders}
    return Blocker("width", message, f"stoker workflow show {job.workflow_id}", details)


def _next_command(name: str, amount: int, holders: Sequence[int], *, enough: bool, others: int) -> str:
    if enough and (holders or others):
        return f"stoker show {holders[0]}" if holders else "stoker resource ls"
    return f"stoker resource set {name} {amount}"


def _seen(ids: Sequence[int], facts: JobFacts) -> tuple[list[int], int]:
    """The jobs that may be named, and the number of the others."""
    seen = [job_id for job_id in ids if job_id not in facts.hidden]
    return seen, len(ids) - len(seen)


def _counted(others: int) -> dict[str, int]:
    return {"others": others} if others else {}


def jobs_text(ids: Sequence[object], others: int = 0) -> str:
    """`job 3`, `jobs 3, 4 and 7 more`; `job 3 and 2 jobs of other users`."""
    named = [f"{'job' if len(ids) == 1 else 'jobs'} {few(ids, MOST_NAMED)}"] if ids or not others else []
    return " and ".join([*named, *([f"{counted(others, 'job')} of other users"] if others else [])])


def at_quota(job: Job, facts: JobFacts) -> Blocker | None:
    if facts.user_most is None or facts.user_running < facts.user_most:
        return None
    message = (
        f"uid {job.owner_uid} runs {counted(facts.user_running, 'job')}, and its limit max_running is {facts.user_most}"
    )
    return Blocker("quota", message, "stoker limits", {"running": facts.user_running, "limit": facts.user_most})
