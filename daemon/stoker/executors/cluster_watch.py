"""Looks at a cluster: the names in the shared directory each time, the list of the engine when it is due.

Owns how often is looked, so that looks cost little however many runs there are, and whether the engine answers.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from stoker.cluster.engine import ClusterEngine, EngineAway, EngineRefused
from stoker.cluster.shared_directory import SharedDirectory
from stoker.core.clock import wall_ms
from stoker.core.cluster import EngineJob
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

# Between two looks passes a tenth of the time since something changed: the end of a short run is seen soon, and a long
# one costs nothing.
LOOK_SHARE, SHORTEST_LOOK_S, LONGEST_LOOK_S = 0.1, 0.1, 2.0
# A look costs the more the more runs there are. Each kind takes this part of a processor at most.
COST_SHARE = 0.005
ENGINE_LOOK_S = 2.0
SAVES_LOOK_S = 1.0
AWAY_AGAIN_S = 5.0


class ClusterLook(Struct, frozen=True):
    """The result of one look. `jobs`: None if the engine was not asked, or is `away`. `saving`: the runs that saved
    checkpoints. The times are of a processor.
    """

    claimed: set[str]
    ended: set[str]
    jobs: Mapping[str, EngineJob] | None
    read_s: float
    saving: frozenset[str] = frozenset()
    away: str | None = None
    asked_s: float = 0.0


class ClusterWatch:
    """`back` is called when the engine answers again. `away`: why it does not answer; None if it does."""

    def __init__(self, shared: SharedDirectory, engine: ClusterEngine, back: Callable[[], None]) -> None:
        self._shared = shared
        self._engine = engine
        self._back = back
        self._ask_at = time.monotonic()
        self._saves_at = time.monotonic()
        self._changed_at = time.monotonic()
        self._since: int | None = None
        self.away: str | None = "it was not asked yet"

    def changed(self) -> None:
        """Something happened to a run: more may follow soon."""
        self._changed_at = time.monotonic()

    def pause_s(self, look: ClusterLook) -> float:
        """How long to wait after this look."""
        quiet_s = time.monotonic() - self._changed_at
        return max(look.read_s / COST_SHARE, min(max(SHORTEST_LOOK_S, LOOK_SHARE * quiet_s), LONGEST_LOOK_S))

    def look(self, begun: Collection[str]) -> ClusterLook:
        """To be called in a thread. `begun`: the runs that may save checkpoints. Raises OSError."""
        began = time.thread_time()
        claimed, ended = self._shared.claimed(), self._shared.ended()
        read_s = time.thread_time() - began
        saving = self._saving(begun) if time.monotonic() >= self._saves_at else frozenset()
        if time.monotonic() < self._ask_at:
            return ClusterLook(claimed, ended, None, read_s, saving)
        began = _children_cpu_s()
        jobs: Mapping[str, EngineJob] | None = None
        away = None
        try:
            jobs = self._engine.jobs()
        except (EngineAway, EngineRefused) as error:
            away = str(error)
        return ClusterLook(claimed, ended, jobs, read_s, saving, away, _children_cpu_s() - began)

    def _saving(self, begun: Collection[str]) -> frozenset[str]:
        began = time.thread_time()
        found = frozenset(run_id for run_id in begun if self._shared.saves(run_id))
        cost_s = time.thread_time() - began
        self._saves_at = time.monotonic() + max(SAVES_LOOK_S, cost_s / COST_SHARE)
        return found

    def note(self, look: ClusterLook) -> None:
        """Note whether the engine answered, and when to ask it again."""
        if look.away is not None:
            self.note_away(look.away)
        elif look.jobs is not None:
            self._note_back()
            self._ask_at = time.monotonic() + max(ENGINE_LOOK_S, look.asked_s / COST_SHARE)

    def note_away(self, why: str) -> None:
        if self.away is None:
            log(LogEvent.CLUSTER_AWAY, error=why)
            self._since = wall_ms()
        self.away = why
        self._ask_at = time.monotonic() + AWAY_AGAIN_S

    def _note_back(self) -> None:
        if self.away is not None:
            if self._since is not None:
                log(LogEvent.CLUSTER_BACK, away_ms=wall_ms() - self._since)
            self.away = self._since = None
            self._back()


def _children_cpu_s() -> float:
    """The processor time of the commands that have ended: of ours, and of few others that end meanwhile."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
