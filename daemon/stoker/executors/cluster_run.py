"""A run on a cluster as the daemon knows it, between its order and its end.

Owns the last word of the engine on the run, and since when it is the same. It decides nothing: `core.cluster` does.
"""

from __future__ import annotations

from msgspec import Struct

from stoker.core.clock import boot_ms
from stoker.core.cluster import RECORD_LATE_MS, ClaimedBy, EngineJob, Witnesses
from stoker.executors.base import Start


class ClusterRun(Struct):
    """The knowledge about a run. `accounted`: its end by the engine's accounts, once the engine lists it no more.

    `start`: its order, until the engine has it. `number`: of its job in the engine. `listed`: the engine's last word on
    it, the same since `same_since` (steady ms). `grace_ms`: of a stop that is wanted, `kill_at` the time of its last
    resort. `ends`: its end is being reported. `is_known`: False for a run that a restored state
    does not know.
    """

    run_id: str
    start: Start | None = None
    claim: ClaimedBy | None = None
    number: int | None = None
    listed: EngineJob | None = None
    accounted: EngineJob | None = None
    same_since: int = 0
    answered: bool = False
    grace_ms: int | None = None
    stop_sent: bool = False
    kill_at: int | None = None
    held: bool = False
    ends: bool = False
    is_known: bool = True

    @property
    def may_save(self) -> bool:
        """Whether its node may have checkpoints of it that count."""
        return self.claim is ClaimedBy.NODE and self.is_known and not self.ends

    @property
    def word(self) -> EngineJob | None:
        """The engine's last word on it, by its list or its accounts."""
        return self.listed or self.accounted

    @property
    def is_forgotten(self) -> bool:
        """Whether a node began it and only accounts can tell its end. A file system may show its record late."""
        unknown = self.answered and self.word is None and boot_ms() - self.same_since >= RECORD_LATE_MS
        return unknown and self.number is not None and self.claim is ClaimedBy.NODE and not self.ends

    def note_word(self, listed: EngineJob | None) -> None:
        """Note the engine's word, and since when it is the same."""
        before = None if self.listed is None else self.listed.state
        now = None if listed is None else listed.state
        if not self.answered or before != now:
            self.same_since = boot_ms()
        self.answered, self.listed = True, listed
        if listed is not None:
            self.number = listed.id

    def seen(self, *, has_record: bool, answers: bool) -> Witnesses:
        """The knowledge about it now. `answers`: whether the engine does."""
        return Witnesses(
            claim=self.claim,
            has_record=has_record,
            listed=self.word,
            answers=self.answered and answers,
            since_ms=boot_ms() - self.same_since,
        )
