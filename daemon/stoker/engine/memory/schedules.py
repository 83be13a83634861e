"""The schedules in memory, and which of them is due next.

Invariant: the heap has an entry for the next slot of each schedule. Entries of schedules that have changed since are
passed over when they come up.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator

from stoker.core.errors import ScheduleNotFound, TooManySchedules
from stoker.core.schedule.model import Schedule
from stoker.core.schedule.slots import due_at
from stoker.core.similar_names import did_you_mean

IDLE_KEPT = 64
MOST_SCHEDULES = 20_000
MOST_TEMPLATES = 64 << 20  # characters


class LiveSchedules:
    def __init__(self) -> None:
        self._rows: dict[str, Schedule] = {}
        self._heap: list[tuple[int, str]] = []
        self._size = 0  # of all templates, in characters
        self._reused: dict[str, int] = {}  # by schedule, the workflow that it names as a run to take over

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self._rows.values())

    def reused(self) -> set[int]:
        """The workflows that schedules name by id, as runs whose ends are to be taken over."""
        return set(self._reused.values())

    def names(self, owner_uid: int | None = None) -> Collection[str]:
        """Of all schedules, or of those of a user."""
        return [name for name, schedule in self._rows.items() if owner_uid in (None, schedule.owner_uid)]

    def get(self, name: str) -> Schedule | None:
        return self._rows.get(name)

    def find(self, name: str, owner_uid: int | None = None) -> Schedule:
        """`owner_uid`: only one of that user's. Raises ScheduleNotFound."""
        schedule = self._rows.get(name)
        if schedule is None or owner_uid not in (None, schedule.owner_uid):
            raise no_schedule(name, self.names(owner_uid))
        return schedule

    def check_room(self, schedule: Schedule) -> None:
        """Raises TooManySchedules if a new or changed schedule would exceed the limits: all are kept in memory."""
        before = self._rows.get(schedule.name)
        if before is None and len(self._rows) >= MOST_SCHEDULES:
            problem = f"there are {len(self._rows)} schedules, and the limit is {MOST_SCHEDULES}"
        elif self._size - template_size(before) + template_size(schedule) > MOST_TEMPLATES:
            problem = f"the templates of all schedules would have more than {MOST_TEMPLATES >> 20} MiB"
        else:
            return
        raise TooManySchedules(f"schedule {schedule.name!r}: {problem}", hint="stoker schedule rm")

    def set(self, schedule: Schedule) -> None:
        before = self._rows.get(schedule.name)
        self._size += template_size(schedule) - template_size(before)
        self._rows[schedule.name] = schedule
        if schedule.part != (None if before is None else before.part):
            self._note_reused(schedule)
        due = due_at(schedule)
        if due is not None:
            heapq.heappush(self._heap, (due, schedule.name))
        if len(self._heap) > max(IDLE_KEPT, 2 * len(self._rows)):
            self._heap = [(at, each.name) for each in self if (at := due_at(each)) is not None]
            heapq.heapify(self._heap)

    def remove(self, name: str) -> None:
        self._size -= template_size(self._rows.pop(name))
        self._reused.pop(name, None)

    def _note_reused(self, schedule: Schedule) -> None:
        reuse = schedule.flow_part.reuse
        if isinstance(reuse, int):
            self._reused[schedule.name] = reuse
        else:
            self._reused.pop(schedule.name, None)

    def next_due(self) -> int | None:
        """When the next slot of any schedule is due (UTC ms)."""
        while self._heap and not self._is_current(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: int, limit: int) -> list[Schedule]:
        """Some schedules that are due, the earliest first. Their entries stay until their slots are settled."""
        names: dict[str, int] = {}
        while len(names) < limit and (at := self.next_due()) is not None and at <= now:
            names[heapq.heappop(self._heap)[1]] = at
        for name, at in names.items():
            heapq.heappush(self._heap, (at, name))
        return [self._rows[name] for name in names]

    def _is_current(self, at: int, name: str) -> bool:
        schedule = self._rows.get(name)
        return schedule is not None and due_at(schedule) == at


def no_schedule(name: str, known: Collection[str]) -> ScheduleNotFound:
    """`known`: the names that the user may learn of."""
    hint = did_you_mean(name, known) or "stoker schedule ls"
    return ScheduleNotFound(f"name: there is no schedule {name!r}", hint=hint, path="name")


def template_size(schedule: Schedule | None) -> int:
    return 0 if schedule is None else len(schedule.job or schedule.flow or "") + len(schedule.part or "")
