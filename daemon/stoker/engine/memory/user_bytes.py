"""How many bytes of each user are stored: as they were last measured, with what was added since.

Owns the numbers. What is removed meanwhile counts until the next measurement, which follows each removal; before the
first one only what was added is known. Invariant: nothing that is added while a measurement runs is lost; it may count
twice until the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

Owned = tuple[str, int]  # the key of a limit, and a user


class UserBytes:
    def __init__(self) -> None:
        self._known: Counter[Owned] = Counter()
        self._added: Counter[Owned] = Counter()  # since the measurement under way began, or the last one
        self.is_measured = False

    def __getitem__(self, owned: Owned) -> int:
        return self._known[owned]

    def owners(self) -> set[int]:
        """The users of whom something is stored."""
        return {uid for (_, uid), size in self._known.items() if size}

    def add(self, name: str, owner_uid: int, size: int) -> None:
        self._known[name, owner_uid] += size
        self._added[name, owner_uid] += size

    def begin_measurement(self) -> None:
        self._added.clear()

    def end_measurement(self, measured: Mapping[Owned, int]) -> None:
        self._known = Counter(measured) + self._added
        self.is_measured = True
