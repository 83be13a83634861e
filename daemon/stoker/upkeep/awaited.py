"""What jobs wait for beside their needs: one part for everything that watches their conditions.

Owns the order in which these parts begin, act and end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.core.clock import Clock
from stoker.core.job.conditions import OF_FILES, kind_of
from stoker.core.named_events import NamedEvent
from stoker.engine.conditions import ConditionWatch
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, awaited
from stoker.engine.turn import Turn
from stoker.upkeep.file_watch import FileWatch
from stoker.upkeep.host_state import HostState
from stoker.upkeep.throttle import Throttle

if TYPE_CHECKING:
    from stoker.core.job.model import Job


class Awaited:
    def __init__(
        self,
        config: Config,
        clock: Clock,
        memory: LiveState,
        inbox: Inbox,
        throttle: Throttle,
        background: BackgroundTasks,
    ) -> None:
        self._ends = ConditionWatch(memory, inbox)
        self.files = FileWatch(memory, inbox, clock, background)
        self.host = HostState(config, clock, memory, inbox, throttle, background)

    def begin(self, undelivered: Sequence[NamedEvent], ends_met: Sequence[str]) -> None:
        """Go on with what an earlier daemon left."""
        self._ends.begin(undelivered, ends_met)
        self.files.begin()
        self.host.begin()

    def after_commit(self, turn: Turn) -> None:
        self._ends.after_commit(turn)
        self.files.after_commit(turn)
        self.host.after_commit(turn)

    def tick(self) -> None:
        self.files.tick()
        self.host.tick()

    def seen(self, job: Job) -> dict[str, str]:
        """How the open conditions of a job about files and the host stand, in words."""
        return {text: (self.files if kind_of(text) in OF_FILES else self.host).words(text) for text in awaited(job)}

    def close(self) -> None:
        self.files.close()
