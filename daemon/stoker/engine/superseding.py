"""Superseding: of the jobs that share an owner and a `supersede_key`, the newest takes the place of the others.

A job that has not started ends in the commit that stores the newer one, so a crash leaves one of the two. A job with an
open attempt finishes it or is stopped, as the newer job asks, and the newer job waits for its end. Invariant: of each
key at most one job waits to start, and it starts after the end of the one that runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stoker.core.errors import InvalidParams, NotAllowed
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Job, Need, NeedOn, Spec, State, SupersedeRunning
from stoker.engine.turn import Turn


def unfinished(turn: Turn, key: tuple[int, str] | None) -> list[Job]:
    """The jobs of a key that have not ended."""
    if key is None:
        return []
    ids = turn.loaded.unfinished_of_key.get(key, ())
    return [job for job in map(turn.find, ids) if job is not None and not job.final]


def remember(turn: Turn, job: Job) -> None:
    """Let later messages of this turn see a job that was stored or queued again."""
    if job.supersedes is not None:
        turn.loaded.unfinished_of_key.setdefault(job.supersedes, []).append(job.id)


def without_superseded(older: Sequence[Job], ahead: Counter[str]) -> Counter[str]:
    """`ahead` (new jobs by queue) minus the queued jobs in `older`: one of the new jobs replaces them."""
    if not older:
        return ahead
    left = ahead.copy()
    left.subtract(job.spec.queue for job in older if job.state in (State.WAITING, State.QUEUED))
    return left


def check_needs(spec: Spec, older: Sequence[Job]) -> None:
    """Raises InvalidParams if a job needs one that it would replace."""
    ids = {job.id for job in older}
    for index, need in enumerate(spec.needs):
        if need.job in ids:
            path = f"needs[{index}]"
            raise InvalidParams(
                f"{path}: job {need.job} has the same supersede_key, so this job would replace the one it needs",
                hint="leave out the need: jobs of one key run one after the other",
                path=path,
            )


def needs_of_running(turn: Turn, older: Sequence[Job]) -> tuple[Need, ...]:
    """A newer job starts after the open attempts of its key."""
    return tuple(Need(job.id, NeedOn.ANY) for job in older if job.id in turn.memory.runs)


def supersede(turn: Turn, newer: Job, older: Sequence[Job]) -> tuple[list[int], list[int]]:
    """Let `newer` replace the others. Returns those that ended, and those whose attempt is still open."""
    stop = newer.spec.supersede_running is SupersedeRunning.STOP
    event = ev.Superseded(actor=Actor(newer.owner_uid), by=newer.id, stop=stop)
    after = [turn.step(job.id, event) for job in older]
    return [job.id for job in after if job.final], [job.id for job in after if not job.final]


def check_newest(turn: Turn, job: Job) -> None:
    """Raises NotAllowed if another job of its key has not ended: both would run."""
    others = [other for other in unfinished(turn, job.supersedes) if other.id != job.id]
    if others:
        other = others[-1]
        raise NotAllowed(
            f"job {job.id} has the same supersede_key as job {other.id}, which is {other.state.value}: only one of"
            " them may run",
            hint=f"stoker cancel {other.id}, then stoker retry {job.id}",
            state=job.state.value,
        )
