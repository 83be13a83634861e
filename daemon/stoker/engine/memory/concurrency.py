"""The workflows that run one at a time: those of one owner that share a `concurrency_key`.

Owns who waits for whom. Invariants: of the workflows of a key that have not ended only the one with the smallest place
may start steps; one that runs again after its end takes the last place.
"""

from __future__ import annotations

import sys

from stoker.core.workflow.state import Workflow

Key = tuple[int, str]


def key_of(workflow: Workflow) -> Key | None:
    return None if workflow.concurrency_key is None else (workflow.owner_uid, workflow.concurrency_key)


class Turns:
    """By key the place of each workflow; one that has ended is behind all others until it runs again."""

    def __init__(self) -> None:
        self._places: dict[Key, dict[int, int]] = {}

    def note(self, workflow: Workflow) -> list[int]:
        """Take over the place of a workflow; returns all workflows of its key."""
        key = key_of(workflow)
        if key is None:
            return []
        places = self._places.setdefault(key, {})
        places[workflow.id] = sys.maxsize if workflow.ended else workflow.place
        return [*places]

    def forget(self, workflow: Workflow) -> None:
        key = key_of(workflow)
        if key is not None and key in self._places:
            self._places[key].pop(workflow.id, None)
            if not self._places[key]:
                del self._places[key]

    def live(self, key: Key) -> list[int]:
        """The workflows of a key that have not ended, in their order."""
        places = self._places.get(key, {})
        return sorted((one for one in places if places[one] < sys.maxsize), key=places.__getitem__)

    def before(self, workflow: Workflow) -> list[int]:
        """The workflows for whose end this one waits."""
        key = key_of(workflow)
        if key is None:
            return []
        own = self._places.get(key, {}).get(workflow.id, sys.maxsize)
        return [one for one in self.live(key) if one != workflow.id and self._places[key][one] < own]
