"""Whether what a request names belongs to the user who sent it.

Owns the errors for what does not. Invariant: the things of others and things that do not exist are refused by the same
query and with the same words, so an answer does not tell which of the two it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stoker.core.errors import CheckpointNotFound, JobNotFound, StokerError, WorkflowNotFound
from stoker.store import owners
from stoker.store.reader import Reader

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape


class Named(NamedTuple):
    """The things with an owner that the parameters of a request name."""

    jobs: Sequence[int] = ()
    workflow: int | None = None
    checkpoint: int | None = None


class Ownership:
    def __init__(self, queries: Reader) -> None:
        self._queries = queries

    async def check(self, uid: int, named: Named) -> None:
        """Raises JobNotFound, WorkflowNotFound or CheckpointNotFound unless all of it belongs to the user."""
        if named.jobs:
            own = await self.jobs_of(uid, named.jobs)
            for job_id in named.jobs:
                if job_id not in own:
                    raise JobNotFound(f"there is no job {job_id} of yours", hint="stoker ls --all", id=job_id)
        if (ident := named.workflow) is not None and not await self._workflows_of(uid, [ident]):
            raise WorkflowNotFound(f"there is no workflow {ident} of yours", hint="stoker workflow ls", id=ident)
        if (ident := named.checkpoint) is not None and not await self._queries.run(owners.has_checkpoint, uid, ident):
            hint = "stoker checkpoint ls WORKFLOW"
            raise CheckpointNotFound(f"there is no checkpoint {ident} of yours", hint=hint, id=ident)

    async def jobs_of(self, uid: int, ids: Iterable[int]) -> set[int]:
        """Those of the jobs that belong to the user."""
        return await self._queries.run(owners.jobs_of, uid, list(ids))

    async def _workflows_of(self, uid: int, ids: Iterable[int]) -> set[int]:
        return await self._queries.run(owners.workflows_of, uid, list(ids))

    async def changes_of(self, uid: int, changes: Collection[ChangeShape]) -> list[ChangeShape]:
        """Those of the changes that are of the user's jobs and workflows; of what was purged no owner is known."""
        jobs = await self.jobs_of(uid, {int(one["subject"]) for one in changes if one["kind"] == "job"})
        workflows = await self._workflows_of(uid, {int(one["subject"]) for one in changes if one["kind"] == "workflow"})
        own = {("job", str(ident)) for ident in jobs} | {("workflow", str(ident)) for ident in workflows}
        return [one for one in changes if (one["kind"], one["subject"]) in own]


NOT_FOUND: tuple[type[StokerError], ...] = (JobNotFound, WorkflowNotFound, CheckpointNotFound)
