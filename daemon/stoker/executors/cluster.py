"""Attempts on a cluster: handed to its engine, watched through the shared directory, taken up again by a later daemon.

Owns what is known of each run, and the two tasks that hand runs over and look after them. `core.cluster` decides what
follows from what is seen. Invariants: an order is whole before the engine hears of its run; what the engine did not
answer may have been done; a run that our claim has revoked is proven never started; while the engine is away nothing is
concluded from its silence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor as Threads
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.cluster.engine import ClusterEngine, EngineAway, EngineFull, EngineRefused, name_of
from stoker.cluster.shared_directory import CHECKPOINT, ERRORS, EVENTS, INPUTS, OUTPUT, SharedDirectory
from stoker.core.clock import boot_ms, wall_ms
from stoker.core.cluster import (
    ClaimedBy,
    ClusterOptions,
    EngineJob,
    NextStep,
    end_before_start,
    end_by_word,
    next_step,
)
from stoker.core.errors import CorruptRecord, DiskFull
from stoker.core.job import events as ev
from stoker.core.job.model import CLUSTER, Identity, Job, Outcome, OutcomeKind
from stoker.core.outputs import MAX_BYTES
from stoker.executors.base import Report, Sink, Start
from stoker.executors.cluster_accounts import ClusterAccounts
from stoker.executors.cluster_line import ClusterLine, FullQueue
from stoker.executors.cluster_run import ClusterRun
from stoker.executors.cluster_saves import ClusterSaves, KeepCheckpoint
from stoker.executors.cluster_stops import ClusterStops
from stoker.executors.cluster_watch import ClusterLook, ClusterWatch
from stoker.executors.environment import WorkerContext
from stoker.process.attempt_logs import log_of
from stoker.process.outcomes import outcome_of
from stoker.process.work_files import WorkFiles
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

T = TypeVar("T")

HANDED_AT_ONCE = 8


class ClusterExecutor:
    """Runs attempts on a cluster. `ready` wakes the loop when attempts can be handed over again; `keep` stores a
    checkpoint that a run saved.
    """

    def __init__(
        self,
        shared: SharedDirectory,
        engine: ClusterEngine,
        context: WorkerContext,
        options_of: Callable[[str], ClusterOptions],
        sink: Sink,
        ready: Callable[[], None],
        keep: KeepCheckpoint,
        threads: Threads,
        background: BackgroundTasks,
        *,
        python: str,
        window_ms: int,
    ) -> None:
        self._shared = shared
        self._engine = engine
        self._context = context
        self._options_of = options_of
        self._sink = sink
        self._ready = ready
        self._threads = threads
        self._background = background.group()
        self._python = python
        self._window_ms = window_ms
        self._work_files = WorkFiles(context.state_dir)
        self._runs: dict[str, ClusterRun] = {}
        self._line = ClusterLine()
        self._may_hand = asyncio.Event()
        self._has_runs = asyncio.Event()
        self._watch = ClusterWatch(shared, engine, self._back)
        self._saves = ClusterSaves(shared, self._in_thread, keep)
        self._accounts = ClusterAccounts(engine, self._in_thread)
        self._stops = ClusterStops(
            shared, engine, self._watch, self._in_thread, self._begin, self._end, self._stop_delivered
        )

    def launcher_for(self, _job: Job) -> str | None:
        return CLUSTER if self._watch.away is None else None

    @property
    def away(self) -> str | None:
        """Why the engine does not answer; None if it does."""
        return self._watch.away

    @property
    def full(self) -> Mapping[str, FullQueue]:
        """The queues for which the engine takes no more jobs now."""
        return self._line.full

    def _back(self) -> None:
        self._may_hand.set()
        self._ready()

    def listed(self, run_id: str) -> EngineJob | None:
        """The engine's last word on a run."""
        run = self._runs.get(run_id)
        return None if run is None else run.word

    def begin(self, open_runs: Iterable[str]) -> None:
        """Take over the open runs of earlier daemons. A shared directory that is away is waited for."""
        for run_id in open_runs:
            self._runs[run_id] = ClusterRun(run_id, same_since=boot_ms())
        self._background.retry("start of the cluster", self._begin_all)

    async def _begin_all(self) -> None:
        """ClusterLook after all runs from now on. Raises OSError."""
        await self._in_thread(self._shared.prepare)
        await self._clear_leftovers()
        for run_id in await self._in_thread(self._shared.claimed) & self._runs.keys():
            await self._begin(self._runs[run_id])
        self._background.retry("runs for the cluster", self._hand_over)
        self._background.retry("runs on the cluster", self._look_after)

    async def _clear_leftovers(self) -> None:
        """Stop and remove runs that this state does not know as open: settled ones, or unknown after a restore."""
        for run_id in await self._in_thread(self._shared.known) - self._runs.keys():
            revoked = await self._in_thread(self._shared.revoke, run_id)
            if revoked or run_id in await self._in_thread(self._shared.ended):
                self._stops.forget(run_id)
            else:
                log(LogEvent.WORKER_LEAKED, run_id=run_id, launcher=CLUSTER)
                self._runs[run_id] = ClusterRun(run_id, is_known=False, same_since=boot_ms())
                self.stop(run_id, 0)

    # --- the executor protocol ---

    def refuses(self, _start: Start) -> bool:
        return False

    def start(self, starts: Sequence[Start]) -> None:
        for start in starts:
            run_id = start.attempt.run_id
            run = self._runs[run_id] = ClusterRun(run_id, start)
            self._line.add(run)
        self._watch.changed()
        self._may_hand.set()
        self._has_runs.set()

    def stop(self, run_id: str, grace_ms: int) -> None:
        run = self._runs.get(run_id)
        if run is None or run.ends:
            return
        run.grace_ms = grace_ms if run.grace_ms is None else min(grace_ms, run.grace_ms)
        if run.start is not None:  # the engine has not heard of it
            self._end(run, end_before_start(None, wall_ms(), stopped=True))
            return
        run.stop_sent = False
        self._background.retry(f"stop of {run_id}", partial(self._stops.stop, run))

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        """A run has no launcher at home, so a stop never waits for one."""

    def signal(self, run_id: str, signum: int) -> None:
        run = self._runs.get(run_id)
        if run is not None:
            self._background.retry(f"warning to {run_id}", partial(self._stops.warn, run, signum))

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        """Their files go once the engine's jobs are over: until then a claim keeps it from starting one again."""
        for run_id in run_ids:
            if self._runs.pop(run_id, None) is not None:
                self._stops.forget(run_id)

    def _remove_files(self, run_ids: Sequence[str]) -> None:
        if run_ids:
            remove = partial(self._in_thread, self._shared.remove, run_ids)
            self._background.retry("removal of runs from the cluster", remove)

    async def close(self) -> None:
        """Leave all runs to the next daemon."""
        await self._background.close()

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args))

    # --- handing over ---

    async def _hand_over(self) -> None:
        while True:
            together = [] if self._watch.away is not None else self._line.take(HANDED_AT_ONCE, boot_ms())
            if not together:
                await self._wait_for_more()
                continue
            starts = [(run, run.start) for run in together if run.start is not None]
            said = await asyncio.gather(*(self._hand_over_one(run, start) for run, start in starts))
            for (run, start), full in reversed(list(zip(starts, said, strict=True))):
                if full is not None and not run.ends:
                    self._put_back(run, start, full)

    async def _wait_for_more(self) -> None:
        """Until a run comes, the engine is back, or the pause of a full queue is over."""
        for queue in self._line.unasked(boot_ms()):
            self._reopen(queue)
        self._may_hand.clear()
        due_ms = None if self._watch.away is not None else self._line.due_in_ms(boot_ms())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due_ms is None else due_ms / 1_000):
                await self._may_hand.wait()

    def _put_back(self, run: ClusterRun, start: Start, why: str) -> None:
        """Keep a run that the engine does not take now."""
        run.start = start
        if self._line.put_back(run, start.job.spec.queue, why, boot_ms()):
            log(LogEvent.CLUSTER_FULL, queue=start.job.spec.queue, error=why)

    def _reopen(self, queue: str) -> None:
        if self._line.reopen(queue):
            log(LogEvent.CLUSTER_FULL_END, queue=queue)
            self._ready()

    async def _hand_over_one(self, run: ClusterRun, start: Start) -> str | None:
        """Write the order and submit. If the answer is lost, looking after the run finds out what became of it.

        Returns why the engine takes no more of the queue, if it said so.
        """
        try:
            await self._in_thread(self._put_order, start)
            if run.ends:  # stopped meanwhile
                await self._in_thread(self._shared.remove, [run.run_id])
                return None
            run.start, run.same_since = None, boot_ms()
            self._note_number(run, await self._in_thread(self._submit, start))
            self._reopen(start.job.spec.queue)
        except EngineAway as error:
            self._watch.note_away(str(error))
        except EngineFull as error:
            return str(error)
        except EngineRefused as error:
            await self._refused(run, str(error))
        except OSError as error:
            failed = Outcome(kind=OutcomeKind.NEVER_STARTED, transient=True, error=f"{error}", ended_at=wall_ms())
            self._end(run, failed)
        return None

    def _note_number(self, run: ClusterRun, number: int) -> None:
        run.number = number
        if run.ends:  # it was revoked meanwhile
            self._stops.forget(run.run_id)

    def _put_order(self, start: Start) -> None:
        """In a thread. Raises OSError."""
        run_id = start.attempt.run_id
        path = partial(self._shared.path, run_id)
        order = self._context.order_for_node(start, path)
        body = {**msgspec.to_builtins(order), "grace_ms": start.job.spec.grace_ms}
        names = {
            INPUTS: self._work_files.inputs,
            CHECKPOINT: self._work_files.checkpoint,
            EVENTS: self._work_files.events,
        }
        self._shared.put_order(run_id, msgspec.json.encode(body), {n: Path(of(run_id)) for n, of in names.items()})

    def _submit(self, start: Start) -> int:
        """In a thread. Raises EngineAway or EngineRefused."""
        run_id = start.attempt.run_id
        return self._engine.submit(
            run_id,
            name_of(run_id),
            self._shared.script,
            self._shared.arguments(self._python, run_id),
            self._shared.path(run_id, ERRORS),
            self._options_of(start.job.spec.queue),
        )

    async def _refused(self, run: ClusterRun, why: str) -> None:
        """The engine does not take it. Only our claim makes sure that it did not take it all the same."""
        if await self._in_thread(self._shared.revoke, run.run_id) and not run.ends:
            self._end(run, Outcome(kind=OutcomeKind.SPAWN_ERROR, error=why, ended_at=wall_ms()))

    # --- looking after runs ---

    async def _look_after(self) -> None:
        while True:
            if not (self._runs or self._stops.waits) and self._watch.away is None:
                self._has_runs.clear()
                await self._has_runs.wait()
            begun = [run.run_id for run in self._runs.values() if run.may_save]
            look = await self._in_thread(self._watch.look, begun)
            self._watch.note(look)
            if look.jobs is not None:
                self._remove_files(await self._stops.cancel_unwanted(look.jobs))
                await self._accounts.ask(self._runs.values())
            for run in self._concerned(look):
                try:
                    await self._look_after_one(run, look)
                except (OSError, DiskFull) as error:  # of one run: the others go on, the next look tries it again
                    log(LogEvent.BACKGROUND_RETRIED, task=f"run {run.run_id} on the cluster", error=error)
            await asyncio.sleep(self._watch.pause_s(look))  # polls: nothing tells of the changes of another host

    def _concerned(self, look: ClusterLook) -> list[ClusterRun]:
        """The runs of which this look may show something new: all of them if the engine was asked."""
        new, told = look.jobs is not None, look.ended | look.saving
        names = self._runs.keys() if new else (look.claimed | told) & self._runs.keys()
        runs = (self._runs[run_id] for run_id in names)
        return [
            run
            for run in runs
            if run.start is None and not run.ends and (new or run.claim is None or run.run_id in told)
        ]

    async def _look_after_one(self, run: ClusterRun, look: ClusterLook) -> None:
        if run.claim is None and run.run_id in look.claimed:
            await self._begin(run)
        if look.jobs is not None:
            run.note_word(look.jobs.get(run.run_id))
        if run.run_id in look.saving:
            await self._saves.take(run.run_id)
        seen = run.seen(has_record=run.run_id in look.ended, answers=self._watch.away is None)
        match next_step(seen, self._window_ms):
            case NextStep.SETTLE:
                await self._settle(run)
            case NextStep.REVOKE:
                await self._revoke(run)
            case NextStep.CONCLUDE if run.word is not None:
                if run.is_known:
                    await self._saves.take(run.run_id)
                self._end(run, end_by_word(run.word, wall_ms(), stopped=run.stop_sent))
            case NextStep.HOLD if not run.held:
                run.held = True
                self._sink([Report(run.run_id, ev.Stuck())])
            case _:
                await self._stops.kill_late(run)

    async def _begin(self, run: ClusterRun) -> None:
        """A node has claimed the run: from then on it counts as started."""
        claim = await self._in_thread(self._shared.claim, run.run_id)
        self._watch.changed()
        run.claim = claim.by
        if claim.by is ClaimedBy.NODE:
            if claim.engine_job is not None:
                run.number = int(claim.engine_job)
            ago_ms = max(0, wall_ms() - (claim.at_ms or wall_ms()))
            self._sink([Report(run.run_id, ev.Began(None, boot_ms() - ago_ms))])

    async def _settle(self, run: ClusterRun) -> None:
        """Bring home what the run left, then report its end by the record."""
        if run.is_known:
            await self._saves.take(run.run_id)
        try:
            end = await self._in_thread(self._bring_home if run.is_known else self._end_of, run.run_id)
        except CorruptRecord as error:
            end = Outcome(kind=OutcomeKind.UNSEEN, error=error.message, ended_at=wall_ms())
        if end.shutdown and run.listed is not None:
            end = replace(end, error=f"Slurm: {run.listed.state}")
        self._end(run, end)

    def _bring_home(self, run_id: str) -> Outcome:
        """In a thread. Raises OSError or CorruptRecord."""
        end = self._end_of(run_id)
        self._shared.pull_log(run_id, log_of(self._context.state_dir, run_id))
        self._shared.take(run_id, OUTPUT, Path(self._work_files.output(run_id)), MAX_BYTES + 1)
        return end

    def _end_of(self, run_id: str) -> Outcome:
        """In a thread. Raises OSError or CorruptRecord."""
        return outcome_of(self._shared.end(run_id))

    async def _revoke(self, run: ClusterRun) -> None:
        """Claim a run that the engine ended, or does not know: if the claim is the first, it has never started."""
        if await self._in_thread(self._shared.revoke, run.run_id):
            self._end(run, end_before_start(run.listed, wall_ms(), stopped=run.grace_ms is not None))

    def _end(self, run: ClusterRun, outcome: Outcome) -> None:
        run.start, run.ends = None, True
        self._watch.changed()
        self._sink([Report(run.run_id, ev.Ended(outcome=outcome))])

    def _stop_delivered(self, run_id: str) -> None:
        self._sink([Report(run_id, ev.Delivered(delivered=True))])

    async def pull_log(self, run_id: str) -> None:
        """Bring the log of a run up to date, for a reader. Raises OSError."""
        run = self._runs.get(run_id)
        if run is not None and run.claim is ClaimedBy.NODE and not run.ends:
            await self._in_thread(self._shared.pull_log, run_id, log_of(self._context.state_dir, run_id))
