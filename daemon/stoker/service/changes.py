"""The log of changes as a stream for clients.

Owns the checks of a cursor, and which changes a viewer gets: all those of a job or a workflow that it may look into,
and of the whole log those of its own jobs and workflows.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, NamedTuple

from stoker.core.access import Viewer
from stoker.core.errors import InvalidParams
from stoker.engine.subscriptions import ChangeFeed
from stoker.service.engine import Engine
from stoker.service.ownership import Ownership
from stoker.service.views import job_now, stored_workflow
from stoker.store import changes

if TYPE_CHECKING:
    from stoker.core.wire_types import ChangeShape


class WatchStart(NamedTuple):
    """Where a watch begins: after that sequence number (0: with all that are left; None: from now on).

    `history`: the id that `system.status` had beside that number; `job` or `workflow`: only the changes of that one.
    """

    after: int | None
    history: str | None
    job: int | None
    workflow: int | None


async def watch(engine: Engine, ownership: Ownership, start: WatchStart, viewer: Viewer) -> ChangeFeed:
    """The log of changes, as it grows. Raises JobNotFound, WorkflowNotFound, ChangesRemoved, HistoryChanged."""
    if start.job is not None and start.workflow is not None:
        raise InvalidParams("workflow: watch a job or a workflow, not both", path="workflow")
    if start.workflow is not None:
        await stored_workflow(engine, start.workflow)
    if start.job is not None:
        await job_now(engine, start.job)
    feed = engine.subscriptions.watch(await _checked_cursor(engine, start), start.job, start.workflow)
    if viewer.owns is None or start.job is not None or start.workflow is not None:
        return feed
    return ChangeFeed(feed.seq, _own_changes(ownership, feed, viewer.owns))


async def _checked_cursor(engine: Engine, start: WatchStart) -> int | None:
    after = start.after
    if after is not None and start.history is not None:
        engine.subscriptions.history.check_cursor(start.history, after)
    if after is not None and after > engine.subscriptions.seq:
        newest = engine.subscriptions.seq
        raise InvalidParams(
            f"after: {after} is beyond the newest change, {newest}: a restore may have gone back before it",
            hint=f"stoker watch --since {newest}",
            path="after",
        )
    if after == 0:  # all that are left: they come after those that were removed
        return await engine.queries.run(changes.last_removed)
    if after is not None and not (start.job and await engine.queries.run(changes.begins, start.job)):
        await engine.queries.run(changes.check_cursor, after)
    return after


async def _own_changes(ownership: Ownership, feed: ChangeFeed, uid: int) -> AsyncGenerator[Sequence[ChangeShape], None]:
    async with aclosing(feed.changes) as batches:
        async for batch in batches:
            if own := await ownership.changes_of(uid, batch):
                yield own
