"""The first start after a restore: jobs that may have run since the backup are not started again automatically.

Owns the order: workers that the restored state does not know are stopped, then waiting jobs are held, then jobs start.
Slots of schedules that came before the restore are not made up for, as they may have had their runs.
Safe jobs stay queued, unless a worker of theirs may still live: it could not be stopped, or the state was restored into
another directory. The recovery has settled open attempts before. Invariant: the note of the restore stays in the
database until the last job is held, so that after a crash the next start holds the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import asdict

from stoker.core.errors import InvalidParams
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, Job, Reason, State
from stoker.core.job.run_id import RunId
from stoker.core.schedule.model import Schedule
from stoker.core.schedule.slots import pass_over
from stoker.core.units import instant
from stoker.engine.inbox import Inbox, RequestMessage
from stoker.engine.settings import note_slots, update_schedule
from stoker.engine.turn import Turn
from stoker.store import restore as rows
from stoker.store.loading import Wanted
from stoker.store.reader import Reader
from stoker.store.restore import Restored
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.upkeep.recovery import RecoveryService

PORTION = 500  # jobs in one turn


class RestoredHold(RequestMessage[int]):
    """Hold those of these jobs that wait; the answer is their number."""

    def __init__(self, job_ids: Sequence[int], restored: Restored) -> None:
        super().__init__()
        self._job_ids = job_ids
        self._last_seq = restored.last_seq
        self._note = f"a backup was restored at {instant(restored.at)}: this may have run since it was made"

    def declare_reads(self, wanted: Wanted) -> None:
        wanted.ids.update(self._job_ids)

    def apply_to(self, turn: Turn) -> None:
        held = 0
        for job_id in self._job_ids:
            job = turn.find(job_id)
            if job is not None and job.state in (State.WAITING, State.QUEUED) and not self._is_new(job):
                turn.step(job_id, ev.Hold(actor=Actor(note=self._note), reason=Reason.RESTORED))
                held += 1
        self.answer_after(turn, held)

    def _is_new(self, job: Job) -> bool:
        """Whether a hook submitted it for a change of this start: nothing has started since."""
        return (job.spec.hook_change or 0) > self._last_seq


class RestoreSettled(RequestMessage[None]):
    """Settle the slots that came before the restore, record it, and remove its note."""

    def __init__(self, restored: Restored, held: int) -> None:
        super().__init__()
        self._restored = restored
        self._held = held

    def apply_to(self, turn: Turn) -> Iterator[None]:
        for schedule in list(turn.memory.schedules):
            if schedule.next_slot is not None and schedule.next_slot <= self._restored.at and not schedule.paused:
                self._pass_over(turn, schedule)
            yield
        turn.record("system", "database", "restored", {**asdict(self._restored), "held": self._held})
        turn.batch.meta[rows.NOTE] = ""
        self.answer_after(turn, None)

    def _pass_over(self, turn: Turn, schedule: Schedule) -> None:
        with contextlib.suppress(InvalidParams):  # its time zone is gone: it is paused once a slot is due
            later = pass_over(schedule, self._restored.at)
            slots = {"first": schedule.next_slot, "before": self._restored.at + 1}
            note_slots(turn, schedule.name, "missed", slots)
            update_schedule(turn, later)


async def settle_restore(
    restored: Restored, reader: Reader, inbox: Inbox, recovery: RecoveryService, *, elsewhere: bool
) -> None:
    """Call after the recovery and before anything starts. `elsewhere`: it was restored into another directory."""
    elsewhere = elsewhere or recovery.has_silent_launcher  # it may still carry out earlier orders
    living = {RunId.parse(run_id).job_id for run_id in await recovery.stop_leaked()}
    held = await _hold(sorted(living), restored, inbox) if living else 0
    after: int | None = 0
    while after is not None:
        ids = await reader.run(rows.not_started, after, PORTION, safe_too=elsewhere)
        held += await _hold(ids, restored, inbox)
        after = ids[-1] if len(ids) == PORTION else None
    await inbox.ask(RestoreSettled(restored, held))
    log(LogEvent.STATE_RESTORED, backup=restored.backup, seq=restored.last_seq, held=held)


async def _hold(job_ids: Collection[int], restored: Restored, inbox: Inbox) -> int:
    return await inbox.ask(RestoredHold(list(job_ids), restored)) if job_ids else 0
