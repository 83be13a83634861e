"""What is due of a schedule: which slots are submitted now, and which are passed over.

Owns the rules for slots that could not be submitted in time, and the jitter.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.schedule.model import Misfire, Schedule
from stoker.core.schedule.timing import Slots, next_slot, slots_of

# A restart of the daemon, or a busy host, makes a slot late by less than this: it is submitted under every policy.
LATE_MS = 60_000
MOST_AT_ONCE = 100  # slots of one schedule in one turn; the others follow in the next turns
MOST_CAUGHT_UP = 1_000  # slots that a catch-up window may hold under the policy `all`


class DueSlots(Struct, frozen=True):
    """The slots to submit, in order. `missed`: the first of those that are passed over.

    `passed`: every slot up to this one is settled with them. `following`: the first one after it.
    """

    slots: tuple[int, ...]
    missed: int | None
    passed: int
    following: int | None


def jitter(schedule: Schedule, slot: int) -> int:
    """How much later than its slot a run is submitted (ms): the same for a slot whenever it is asked."""
    if not schedule.jitter_ms:
        return 0
    digest = blake2b(f"{schedule.name}/{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % (schedule.jitter_ms + 1)


def due_at(schedule: Schedule) -> int | None:
    """When the next slot of a schedule is submitted (UTC ms); None if it never is."""
    slot = schedule.next_slot
    return None if slot is None or schedule.paused else slot + jitter(schedule, slot)


def due_slots(schedule: Schedule, now: int) -> DueSlots:
    """What to do at `now`, when the next slot of the schedule is due."""
    assert schedule.next_slot is not None, "only a schedule with a next slot is due"
    following = slots_of(schedule.timing, schedule.zone)
    window = LATE_MS if schedule.misfire is Misfire.SKIP else max(schedule.catch_up_ms, LATE_MS)
    oldest = max(schedule.passed, now - window - schedule.jitter_ms - 1)
    if schedule.misfire is Misfire.ALL:
        slots = _first(schedule, following, oldest, now)
        passed = slots[-1] if slots else oldest
    else:
        latest = _latest(schedule, following, oldest, now)
        slots = () if latest is None else (latest,)
        passed = oldest if latest is None else latest
    first = slots[0] if slots else passed + 1
    return DueSlots(
        slots=slots,
        missed=schedule.next_slot if schedule.next_slot < first else None,
        passed=passed,
        following=following(passed),
    )


def _is_due(schedule: Schedule, slot: int, now: int) -> bool:
    return slot + jitter(schedule, slot) <= now


def _first(schedule: Schedule, following: Slots, after: int, now: int) -> tuple[int, ...]:
    """The first due slots after a time."""
    slots: list[int] = []
    slot = following(after)
    while slot is not None and _is_due(schedule, slot, now) and len(slots) < MOST_AT_ONCE:
        slots.append(slot)
        slot = following(slot)
    return tuple(slots)


def _latest(schedule: Schedule, following: Slots, after: int, now: int) -> int | None:
    """The newest due slot after a time, by bisection: there may be a million of them."""
    slot = _newest_up_to(following, after, now)
    while slot is not None and not _is_due(schedule, slot, now):
        slot = _newest_up_to(following, after, slot - 1)
    return slot


def _newest_up_to(following: Slots, after: int, end: int) -> int | None:
    """The newest slot in the time from after `after` up to `end`."""
    newest = following(after)
    if newest is None or newest > end:
        return None
    low, high = newest, end  # a slot, and a time after which none is
    while low < high:
        middle = (low + high) // 2
        slot = following(middle)
        if slot is None or slot > end:
            high = middle
        else:
            low = newest = slot
    return newest


def pass_over(schedule: Schedule, now: int) -> Schedule:
    """As after a pause: its slots up to `now` are settled, later ones are not, whatever they were before."""
    return replace(schedule, passed=now, next_slot=next_slot(schedule.timing, schedule.zone, now))


def caught_up(schedule: Schedule, now: int) -> int:
    """How many slots the catch-up window holds from now on; it is not counted beyond MOST_CAUGHT_UP."""
    following = slots_of(schedule.timing, schedule.zone)
    count, slot = 0, following(now)
    while slot is not None and slot <= now + schedule.catch_up_ms and count <= MOST_CAUGHT_UP:
        count, slot = count + 1, following(slot)
    return count
