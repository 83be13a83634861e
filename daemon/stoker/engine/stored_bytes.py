"""Adds what each commit stored to the bytes of its users, as long as any user has a limit of bytes.

Owns what counts: the texts of specs and flows, checkpoints, outputs and logs. Only ended attempts have a known log.
"""

from __future__ import annotations

from stoker.core.job import events as ev
from stoker.core.workflow.checkpoint import Checkpoint, chain_of
from stoker.engine.turn import Turn
from stoker.store.jobs import spec_size


class StoredBytes:
    def after_commit(self, turn: Turn) -> None:
        if turn.memory.users.quotas.bound_bytes:
            self._add_specs(turn)
            self._add_checkpoints(turn)
            self._add_ends(turn)

    def _add_specs(self, turn: Turn) -> None:
        known = turn.memory.users.bytes
        for job in turn.batch.new_jobs.values():
            known.add("max_stored_bytes", job.owner_uid, spec_size(job.spec))
        for workflow in turn.batch.new_workflows.values():
            known.add("max_stored_bytes", workflow.owner_uid, len(workflow.flow.encode()))

    def _add_checkpoints(self, turn: Turn) -> None:
        for checkpoint in turn.batch.checkpoints:
            owner_uid = owner_of(turn, checkpoint)
            if owner_uid is not None:
                turn.memory.users.bytes.add("max_stored_bytes", owner_uid, len(checkpoint.data))

    def _add_ends(self, turn: Turn) -> None:
        known = turn.memory.users.bytes
        for transition in turn.transitions:
            job, attempt = transition.job, transition.attempt
            if isinstance(transition.event, ev.Ended) and attempt is not None and attempt.outcome is not None:
                outcome = attempt.outcome
                known.add("max_log_bytes", job.owner_uid, min(outcome.log_bytes or 0, job.spec.max_log_bytes))
                known.add("max_stored_bytes", job.owner_uid, len((outcome.output or "").encode()))


def owner_of(turn: Turn, checkpoint: Checkpoint) -> int | None:
    """The user whose workflow or job a chain belongs to. A workflow that has just ended is in the batch."""
    for workflow in (*turn.batch.new_workflows.values(), *turn.batch.workflows.values()):
        if chain_of(workflow.id, 0) == checkpoint.chain:
            return workflow.owner_uid
    number = int(checkpoint.chain[1:])
    if chain_of(number, 0) == checkpoint.chain:
        run = turn.memory.workflows.runs.get(number)
        return None if run is None else run.workflow.owner_uid
    job = turn.find(number)
    return None if job is None else job.owner_uid
