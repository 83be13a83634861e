"""All jobs at once, for people who look at them: the overview, the load of the last hour, a timeline of attempts, and
the reports of recoveries.

It only reads, each answer is bounded, and none takes longer for having millions of ended jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from stoker.core.access import Viewer
from stoker.core.errors import InvalidParams
from stoker.core.load import INTERVAL_MS, KEPT_MS
from stoker.core.units import instant
from stoker.service.engine import Engine
from stoker.service.status import queue_views
from stoker.service.views import job_views
from stoker.store import jobs, recoveries, timeline
from stoker.store.recoveries import StoredDecision
from stoker.store.timeline import TimelineRow

if TYPE_CHECKING:
    from stoker.core.overview_views import (
        AttemptPage,
        LoadView,
        OverviewView,
        RecoveredAttempt,
        RecoveryPage,
        RecoveryReport,
        RecoverySummary,
        TimelineAttempt,
    )


class OverviewService:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def overview(self, limit: int, viewer: Viewer) -> OverviewView:
        """At most `limit` running jobs and as many failed ones."""
        engine, at = self._engine, self._engine.clock.now().wall
        runs = [run for run in engine.memory.runs.values() if viewer.sees in (None, run.job.owner_uid)]
        first = sorted(runs, key=lambda run: (run.attempt.created_at, run.job.id))[:limit]
        running = await engine.queries.run(jobs.by_ids, [run.job.id for run in first])
        failed = await engine.queries.run(timeline.failed_last, limit, viewer.sees)
        ends = await engine.queries.run(timeline.ends_since, at - KEPT_MS, viewer.sees)
        views = await job_views(engine, [*running.values(), *failed], viewer)
        return {
            "at": at,
            "queues": queue_views(engine),
            "running": sorted(views[: len(running)], key=lambda view: (view["started_at"] or at, view["id"])),
            "failed": views[len(running) :],
            "ends": {"since": at - KEPT_MS, "counts": ends.counts, "counted_all": ends.counted_all},
        }

    async def load(self) -> LoadView:
        """The load of the last hour."""
        samples = [
            {"since": one.since, "until": one.until, **msgspec.to_builtins(one.load)}
            for one in self._engine.load_history.series
        ]
        return cast("LoadView", {"interval_ms": INTERVAL_MS, "samples": samples})

    async def attempts(
        self, since: int, until: int | None, before: str | None, limit: int, viewer: Viewer
    ) -> AttemptPage:
        """The attempts that ran at some time between `since` and `until` (None: now). Raises InvalidParams."""
        until = self._engine.clock.now().wall if until is None else until
        if until < since:
            raise InvalidParams(f"until: {instant(until)} is before since, {instant(since)}", path="until")
        at, _, run_id = (before or "").partition("/")
        behind = (int(at), run_id) if before else None
        page = await self._engine.queries.run(timeline.touching, since, until, behind, limit, viewer.sees)
        return {
            "attempts": [self._attempt(row) for row in page.rows],
            "next": page.next and f"{page.next[0]}/{page.next[1]}",
        }

    def _attempt(self, row: TimelineRow) -> TimelineAttempt:
        """The start of a process is known in memory a little earlier than in its row."""
        run = self._engine.memory.by_run(row.run_id)
        view = msgspec.structs.asdict(row)
        if run is not None and row.ended_at is None:
            view["started_at"] = run.attempt.started_at
        return cast("TimelineAttempt", view)

    async def recoveries(self, before: int, limit: int) -> RecoveryPage:
        """The reports that are kept, of starts before that epoch, newest first."""
        page = await self._engine.queries.run(recoveries.page, before, limit + 1)
        shown = [cast("RecoverySummary", msgspec.structs.asdict(one)) for one in page[:limit]]
        return {"recoveries": shown, "next": shown[-1]["epoch"] if len(page) > limit else None}

    async def recovery(self, epoch: int, after: int, limit: int) -> RecoveryReport:
        """The report of one start: its decisions behind the first `after`. Raises InvalidParams."""
        found = await self._engine.queries.run(recoveries.report, epoch)
        if found is None:
            raise InvalidParams(
                f"epoch: there is no report of start {epoch}",
                hint="stoker recover --list names those that are kept",
                path="epoch",
            )
        summary, decisions = found
        page = decisions[after : after + limit]
        following = after + limit if len(decisions) > after + limit else None
        view = {**msgspec.structs.asdict(summary), "decisions": [_decision(one) for one in page], "next": following}
        return cast("RecoveryReport", view)


def _decision(decision: StoredDecision) -> RecoveredAttempt:
    values = {
        "job": decision.job_id,
        "run_id": decision.run_id,
        "fact": decision.finding.fact,
        "evidence": decision.finding.evidence,
        "action": decision.action,
        "why": decision.why,
        "stop_reason": decision.stop_reason,
        "then": decision.then,
    }
    return cast("RecoveredAttempt", values)
