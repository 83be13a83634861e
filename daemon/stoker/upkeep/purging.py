"""The message that removes some ended jobs and workflows, and the oldest changes.

Owns the last check before jobs are removed. A job stays until a later pass if another message of the turn has read it,
if it runs again, or if an open job needs it. So no decision of a turn concerns a job that the turn removes.
"""

from __future__ import annotations

from stoker.core.job.model import Actor
from stoker.core.retention import StillNeeded
from stoker.engine.inbox import RequestMessage
from stoker.engine.turn import Turn
from stoker.store.loading import Wanted
from stoker.store.retention import Candidates, PurgePortion


class Purging(RequestMessage[PurgePortion]):
    """Answered with what was removed. Only one is in the inbox at a time."""

    def __init__(self, candidates: Candidates, actor: Actor) -> None:
        super().__init__()
        self._candidates = candidates
        self._actor = actor

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.to_purge = self._candidates

    def apply_to(self, turn: Turn) -> None:
        if self.future.cancelled():
            return  # the pass was cancelled too, and `named_needs` with it
        asked, loaded = self._candidates, turn.loaded
        jobs = [
            job_id
            for job_id, at in asked.jobs.items()
            if loaded.jobs_ended_at.get(job_id) == at and not _is_used(turn, job_id)
        ]
        reused = turn.memory.schedules.reused() if asked.workflows else ()
        workflows = {
            ident: asked.steps[ident]
            for ident, at in asked.workflows.items()
            if loaded.workflows_ended_at.get(ident) == at
            and ident not in turn.memory.workflows.runs
            and ident not in _needed(turn).workflows
            and ident not in reused
            and not any(_is_used(turn, job_id) for job_id in asked.steps[ident])
        }
        portion = PurgePortion(turn.now.wall, jobs, workflows, asked.changes)
        if jobs or workflows or asked.changes:
            turn.purge(portion, self._actor)
        self.answer_after(turn, portion)


def _is_used(turn: Turn, job_id: int) -> bool:
    return any(job_id in users for users in (turn.loaded.jobs, turn.memory.runs, _needed(turn).jobs))


def _needed(turn: Turn) -> StillNeeded:
    needed = turn.memory.named_needs
    assert needed is not None, "needs are collected while anything is purged"
    return needed
