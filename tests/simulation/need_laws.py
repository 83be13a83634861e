"""The law of needs: why a step was skipped follows from how its needs ended, in whichever order they did.

Owns a fold over the ends of all needs, written without the core, and its comparison with each step that was just
skipped. Invariant: only committed rows are read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from tests.simulation.laws import Laws

NEWEST = "SELECT coalesce(max(seq), 0) FROM changes"
# By a later change of the step, or of a need of it, the ends of that time are gone.
SKIPPED = """
SELECT id, reason, policy ->> '$.when', policy -> '$.needs', seq FROM changes JOIN jobs ON jobs.id = job_id
WHERE seq > ? AND cause = 'need_failed' AND workflow_id IS NOT NULL AND state = 'skipped'
    AND seq = (SELECT max(seq) FROM changes AS later WHERE later.job_id = jobs.id)
"""
ENDS = """
SELECT id, state, reason, finished_at IS NOT NULL, command = 'stoker.expand' AND state = 'running',
    (SELECT max(seq) FROM changes WHERE job_id = jobs.id) FROM jobs WHERE id IN (SELECT value FROM json_each(?))
"""
FAILED = ("failed", "cancelled", "expired")


class End(NamedTuple):
    on: str
    state: str
    reason: str | None
    final: bool

    @property
    def ok(self) -> bool:
        return self.state == "succeeded" or (
            self.state == "skipped" and self.reason not in ("dependency", "not_needed")
        )

    @property
    def failed(self) -> bool:
        return self.state in FAILED or (self.state, self.reason) == ("skipped", "dependency")

    @property
    def unmet(self) -> bool:
        return self.final and not {"ok": self.ok, "failed": self.failed, "any": True}[self.on]


def skipped_because(when: str | None, ends: Sequence[End]) -> str | None:
    """The reason for which these ends skip a step; None: they do not, or not yet."""
    if any(end.on == "ok" and end.unmet and end.failed for end in ends):
        return "dependency"  # also of a nested step that watches a failure: it needs the begin of its workflow
    if when in ("any_ok", "any_failed"):
        if not all(end.final for end in ends) or any(end.ok if when == "any_ok" else end.failed for end in ends):
            return None
        return "dependency" if when == "any_ok" and any(end.failed for end in ends) else "not_needed"
    if any(end.unmet and end.failed for end in ends):
        return "dependency"
    return "not_needed" if all(end.final for end in ends) and any(end.unmet for end in ends) else None


class NeedLaws:
    def __init__(self, connection: sqlite3.Connection, laws: Laws) -> None:
        self._database = connection
        self._laws = laws
        self._seen = 0

    def stored(self) -> None:
        """A transaction went through: each step that it skipped has the reason of the fold."""
        for job_id, reason, when, sent, at in self._database.execute(SKIPPED, (self._seen,)).fetchall():
            needs = {need["job"]: need.get("on", "ok") for need in json.loads(sent or "[]")}
            ended = self._database.execute(ENDS, (json.dumps(list(needs)),)).fetchall()
            by_handler_or_list = job_id in needs or any(expands for *_, expands, _ in ended)
            if by_handler_or_list or any(changed > at for *_, changed in ended):
                continue
            ends = [End(needs[need], state, why, bool(final)) for need, state, why, final, *_ in ended]
            self._laws.looks["skipped"] += 1
            if (expected := skipped_because(when, ends)) != reason:
                self._laws.broken(f"job {job_id} was skipped ({reason}), its needs say {expected}: {ends}")
        ((self._seen,),) = self._database.execute(NEWEST).fetchall()
