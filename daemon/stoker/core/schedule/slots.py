"""The due slots of a schedule: which are submitted now, and which are skipped.

Owns the rules for slots that could not be submitted in time, and the jitter.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.schedule.model import Misfire, Schedule
from stoker.core.schedule.timing import Slots, next_slot, slots_of

# Every misfire policy submits a slot that is late by less than this: so late makes it a restart or a busy host.
LATE_MS = 60_000
MOST_AT_ONCE = 100  # slots of one schedule in one turn; the others follow in the next turns
MOST_CAUGHT_UP = 1_000  # slots that a catch-up window may hold under the policy `all`


class DueSlots(Struct, frozen=True):
    """The slots to submit, in order. `missed`: the first slot that is skipped.

    `passed`: every slot up to this time is settled then. `following`: the first slot after it.
    """

    slots: tuple[int, ...]
    missed: int | None
    passed: int
    following: int | None


def jitter(schedule: Schedule, slot: int) -> int:
    """The delay of a run after its slot (ms). It is computed from the slot, so that each call gives the same."""
    if not schedule.jitter_ms:
        return 0
    digest = blake2b(f"{schedule.name}/{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % (schedule.jitter_ms + 1)


def due_at(schedule: Schedule) -> int | None:
    """The time at which the next slot is submitted (UTC ms); None after the last one, or while paused."""
    slot = schedule.next_slot
    return None if slot is None or schedule.paused else slot + jitter(schedule, slot)


def due_slots(schedule: Schedule, now: int) -> DueSlots:
    """The slots to submit and to skip at `now`, when the next slot of the schedule is due."""
    assert schedule.next_slot is not None, "only a schedule with a next slot is due"
    following = slots_of(schedule.timing, schedule.zone)
    window = LATE_MS if schedule.misfire is Misfire.SKIP else max(schedule.catch_up_ms, LATE_MS)
    oldest = max(schedule.passed, now - window - schedule.jitter_ms - 1)
    if schedule.misfire is Misfire.ALL:
        slots = _first(schedule, following, oldest, now)
    else:
        slots = _latest(schedule, following, oldest, now)
    passed = slots[-1] if slots else oldest
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


def _latest(schedule: Schedule, following: Slots, after: int, now: int) -> tuple[int, ...]:
    """The newest due slot after a time, by bisection, as there may be a million of them; and those that came with it.

    Slots are submitted in order: where some are closer together than the jitter, one with a short delay waits for those
    before it, and comes with the last of them. It still comes within its jitter.
    """
    certain = max(after, now - schedule.jitter_ms - 1)  # slots up to then are due, whatever their delay
    ends = _first(schedule, following, certain, now) or (_newest_up_to(following, after, certain),)
    newest = ends[-1]
    if newest is None:
        return ()
    slots = _between(following, max(after, newest - schedule.jitter_ms - 1), newest)
    slowest = max(slots, key=lambda slot: slot + jitter(schedule, slot))
    return slots[slots.index(slowest) :][-MOST_AT_ONCE:]


def _between(following: Slots, after: int, end: int) -> tuple[int, ...]:
    slots: list[int] = []
    slot = following(after)
    while slot is not None and slot <= end:
        slots.append(slot)
        slot = following(slot)
    return tuple(slots)


def _newest_up_to(following: Slots, after: int, end: int) -> int | None:
    """The newest slot later than `after` and not later than `end`."""
    newest = following(after)
    if newest is None or newest > end:
        return None
    low, high = newest, end  # the newest slot is in this range
    while low < high:
        middle = (low + high) // 2
        slot = following(middle)
        if slot is None or slot > end:
            high = middle
        else:
            low = newest = slot
    return newest


def pass_over(schedule: Schedule, now: int) -> Schedule:
    """Settle the slots up to `now` without a run, and make all later ones due again."""
    return replace(schedule, passed=now, next_slot=next_slot(schedule.timing, schedule.zone, now))


def taken_over(before: Schedule | None, schedule: Schedule, now: int) -> tuple[Schedule, int | None]:
    """A schedule that replaces another one keeps what is known of its runs. Also gives a slot that gets no run by that.

    A slot that has come and still waits, as for its jitter, is kept where the new schedule has it as well.
    """
    if before is None:
        return schedule, None
    kept = {name: getattr(before, name) for name in ("created_at", "last_slot", "last_job", "last_workflow")}
    if before.paused or before.next_slot is None or before.next_slot > now:
        return replace(schedule, **kept), None
    same = all(getattr(before, name) == getattr(schedule, name) for name in ("timing", "zone", "owner_uid"))
    if same and not schedule.paused:
        return replace(schedule, **kept, passed=before.passed, next_slot=before.next_slot), None
    return replace(schedule, **kept), before.next_slot


def caught_up(schedule: Schedule, now: int) -> int:
    """The number of slots in the catch-up window that begins now; counting stops above MOST_CAUGHT_UP."""
    following = slots_of(schedule.timing, schedule.zone)
    count, slot = 0, following(now)
    while slot is not None and slot <= now + schedule.catch_up_ms and count <= MOST_CAUGHT_UP:
        count, slot = count + 1, following(slot)
    return count
