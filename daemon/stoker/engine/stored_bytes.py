"""Adds what each commit stored to the bytes of its users, as long as any user has a limit of bytes.

Owns what counts: the texts of specs and flows, checkpoints, outputs and logs. Only ended attempts have a known log.
"""

from __future__ import annotations

from stoker.core.job import events as ev
from stoker.core.workflow.checkpoint import chain_of
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
        batch, known = turn.batch, turn.memory.users.bytes
        written = (*batch.new_workflows.values(), *batch.workflows.values()) if batch.checkpoints else ()
        owners = {chain_of(workflow.id): workflow.owner_uid for workflow in written}
        for checkpoint in batch.checkpoints:
            owner_uid = owners.get(checkpoint.chain)
            if owner_uid is None:
                owner_uid = owner_of(turn, checkpoint.chain)
            if owner_uid is not None:
                known.add("max_stored_bytes", owner_uid, len(checkpoint.data))

    def _add_ends(self, turn: Turn) -> None:
        known = turn.memory.users.bytes
        for transition in turn.transitions:
            job, attempt = transition.job, transition.attempt
            if isinstance(transition.event, ev.Ended) and attempt is not None and attempt.outcome is not None:
                outcome = attempt.outcome
                known.add("max_log_bytes", job.owner_uid, min(outcome.log_bytes or 0, job.spec.max_log_bytes))
                known.add("max_stored_bytes", job.owner_uid, len((outcome.output or "").encode()))


def owner_of(turn: Turn, chain: str) -> int | None:
    """The user whose workflow or job a chain belongs to; a workflow whose row the turn writes may not be found here."""
    number = int(chain[1:])
    if chain == chain_of(number):
        run = turn.memory.workflows.runs.get(number)
        return None if run is None else run.workflow.owner_uid
    job = turn.find(number)
    return None if job is None else job.owner_uid
