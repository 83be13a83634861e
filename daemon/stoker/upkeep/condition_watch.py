"""The watchers of all conditions that jobs wait for, as one part.

Owns the order in which these parts begin, act and end, and posts the ends of jobs and workflows that others wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.core.job.conditions import OF_FILES, kind_of
from stoker.core.named_events import NamedEvent
from stoker.engine.conditions import EndAwaited, ends_of
from stoker.engine.inbox import Inbox
from stoker.engine.memory import LiveState, awaited
from stoker.engine.named_events import EventDelivery
from stoker.engine.turn import Turn
from stoker.upkeep.file_watch import FileWatch
from stoker.upkeep.host_state import HostState

if TYPE_CHECKING:
    from stoker.core.job.model import Job


class ConditionWatch:
    def __init__(self, memory: LiveState, inbox: Inbox, files: FileWatch, host: HostState) -> None:
        self._memory = memory
        self._inbox = inbox
        self.files = files
        self.host = host

    def begin(self, undelivered: Sequence[NamedEvent], ends_met: Sequence[str]) -> None:
        """Go on with what an earlier daemon left."""
        for event in undelivered:
            self._inbox.post(EventDelivery(event))
        for condition in ends_met:
            self._inbox.post(EndAwaited(condition))
        self.files.begin()
        self.host.begin()

    def after_commit(self, turn: Turn) -> None:
        if self._memory.ends_awaited:
            for condition in sorted(self._memory.ends_awaited.intersection(ends_of(turn))):
                self._inbox.post(EndAwaited(condition))
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
