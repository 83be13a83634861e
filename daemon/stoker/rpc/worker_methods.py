"""The rows of the table of methods that look at workers.

Owns what rpc/ needs of the engine for them (`Workers`). Refuses decisions, as `methods` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stoker.rpc.schema import JobParam, WorkerParams
from stoker.rpc.table import Method, MethodKind, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stoker.rpc.table import Reply


class WorkerCalls(Protocol):
    """What the engine offers about workers."""

    def get(self, job_id: int) -> Awaitable[Reply]: ...
    def environment(self, job_id: int) -> Awaitable[Reply]: ...


WORKER_METHODS: dict[str, Method[Any]] = {
    "worker.get": Method(
        WorkerParams, Role.OWNER, lambda service, _, params: service.workers.get(params.job), MethodKind.READ
    ),
    "job.environment": Method(
        JobParam, Role.OWNER, lambda service, _, job: service.workers.environment(job.id), MethodKind.READ
    ),
}
