"""The inputs of an attempt beside its spec: the ends of its needs, named events, and its newest checkpoint.

Owns the starts between their commit and their executor. A start waits for the reader's thread only if it may have a
checkpoint or named events, is that of a hook, or its inputs are large or could not be read with the commit. Invariants:
an attempt that was stopped or settled meanwhile is not started; if the newest checkpoint is damaged, a warning is
logged and the one before it is used.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import CheckpointDamaged
from stoker.core.job import events as ev
from stoker.core.job.model import ExecutionMode, Job, Reason
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.checkpoint import opened
from stoker.core.workflow.nesting import seen_as
from stoker.engine.heartbeats import Heartbeats
from stoker.engine.memory import LiveState
from stoker.engine.step_files import StepFiles
from stoker.executors.base import Executor, Report, Sink, Start, never_started
from stoker.executors.owner_standing import OwnerStanding
from stoker.process.secret_files import NoPrivatePlace
from stoker.process.work_files import InputsFile, WorkFiles, inputs_text
from stoker.store import attempts, checkpoints, conditions, secret_rows
from stoker.store.attempts import Needed
from stoker.store.reader import Reader
from stoker.store.secret_box import SecretBox
from stoker.store.secret_rows import SecretsGone
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

MAX_INPUTS_BYTES = 96 * 1024  # one variable of an environment may have 128 KiB, its name and its last zero included
SMALL_INPUTS_BYTES = 4 * 1024  # written by the event loop
PORTION = 50  # needs read at once: each may have handed on 64 KiB
AGAIN_S = 1.0
TRIES = 20


class AttemptInputs:
    """Reads the inputs of starts and writes their files, then hands them to their executors."""

    def __init__(
        self,
        reader: Reader,
        work_files: WorkFiles,
        memory: LiveState,
        executors: Mapping[ExecutionMode, Executor],
        heartbeats: Heartbeats,
        sink: Sink,
        background: BackgroundTasks,
        step_files: StepFiles,
        box: SecretBox,
        owners: OwnerStanding,
    ) -> None:
        self._reader = reader
        self._work_files = work_files
        self._memory = memory
        self._executors = executors
        self._heartbeats = heartbeats
        self._sink = sink
        self._background = background
        self._step_files = step_files
        self._box = box
        self._owners = owners
        self._held: set[str] = set()

    def holds(self, run_id: str) -> bool:
        """Whether the start waits here for its inputs: then no launcher can have started it."""
        return run_id in self._held

    def start(self, starts: Sequence[Start], ends: Mapping[int, Needed]) -> None:
        """Start at once what is possible with these ends of needed jobs, the others once their inputs are there."""
        starts = [self._told(start) for start in starts]
        ready = [self._ready(start, ends) for start in starts]
        self._hand_over([start for start in ready if start is not None])
        waiting = [start for start, done in zip(starts, ready, strict=True) if done is None]
        alone = [start for start in waiting if start.job.attempts == 1 and not start.job.spec.sources]
        first: defaultdict[int, list[Start]] = defaultdict(list)  # by owner: a look at one delays no other
        for start in alone:
            first[start.job.owner_uid].append(start)
        # Each may have a checkpoint of ten megabytes, or files to hash.
        again = [[start] for start in waiting if start.job.attempts > 1 or start.job.spec.sources]
        for together in (*chain.from_iterable(map(_portions, first.values())), *again):
            self._held.update(start.attempt.run_id for start in together)
            self._start_together(together)

    def _told(self, start: Start) -> Start:
        failed, state = self._memory.workflows.told(start.job)
        return start if state is None else replace(start, failed=failed, workflow_state=state)

    def _ready(self, start: Start, ends: Mapping[int, Needed]) -> Start | None:
        """The start with its inputs; None if they must be read or written in the reader's thread."""
        spec = start.job.spec
        if not self._owners.admits(start.job.owner_uid):
            return None
        if start.job.attempts > 1 or spec.wait_for is not None or spec.hook is not None or spec.sources or spec.secrets:
            return None
        if not (jobs := start.needed):
            return start
        needed = [ends[job_id] for job_id in sorted(jobs) if job_id in ends]
        size = sum(len(one.output or "") for one in needed)
        if len(needed) < len(jobs) or size > SMALL_INPUTS_BYTES:
            return None
        variable, seen = _InputsVariable(), _seen(start.job, needed)
        variable.add(seen)
        try:
            if spec.execution_mode is not ExecutionMode.IN_PROCESS:
                self._work_files.put_inputs(start.attempt.run_id, inputs_text((one.name, _end(one)) for one in seen))
        except OSError:  # it is written again, in the thread
            return None
        return replace(start, inputs=variable.text)

    def _start_together(self, starts: Sequence[Start]) -> None:
        work = partial(self._start_when_read, starts, count(1))
        self._background.retry(f"inputs of {starts[0].attempt.run_id}", work, longest_pause_s=AGAIN_S)

    async def _start_when_read(self, starts: Sequence[Start], tries: Iterator[int]) -> None:
        """Hand the starts over once their inputs are read, or report their end if they may not start any more.

        After a failed read each is read alone, as one damaged row may be the cause. After TRIES failed reads they are
        reported as never started: their jobs are queued again, and can expire.
        """
        number = next(tries)
        if number > 1 and len(starts) > 1:
            for start in starts:
                self._start_together([start])
            return
        wanted = [start for start in starts if self._may_begin(start)]
        if number <= TRIES:
            self._hand_over(await self._provide(wanted))
        else:
            self._sink([never_started(start) for start in wanted])
        self._held.difference_update(start.attempt.run_id for start in starts)

    async def _provide(self, starts: Sequence[Start]) -> list[Start]:
        """The starts that may still begin, with their inputs.

        Waits for room on the disk, however long: without its checkpoint an attempt would begin at zero.
        """
        starts = await self._admitted(starts)
        for start in starts:
            if start.job.spec.sources:
                await self._step_files.before_start(start.attempt.run_id, start.job.spec)
        provided: list[Start] = []
        missing: Sequence[Start] = starts
        while missing:
            ready, missing = await self._write(missing)
            provided += ready
            if missing:
                provided += (start for start in missing if self._executor_of(start).refuses(start))
                missing = [start for start in missing if not self._executor_of(start).refuses(start)]
                await asyncio.sleep(AGAIN_S)  # polls: the kernel sends no notice of free space
                missing = [start for start in missing if self._may_begin(start)]
        return [start for start in provided if self._may_begin(start)]

    async def _admitted(self, starts: Sequence[Start]) -> list[Start]:
        """The starts whose owner may still have jobs here; the others are reported as refused, so they are held."""
        bars = {uid: await self._owners.bar_of(uid) for uid in {start.job.owner_uid for start in starts}}
        for start in starts:
            if (why := bars[start.job.owner_uid]) is not None:
                self._sink([Report(start.attempt.run_id, ev.Refused(why, Reason.SPAWN_ERROR))])
        return [start for start in starts if bars[start.job.owner_uid] is None]

    def _executor_of(self, start: Start) -> Executor:
        return self._executors[start.job.spec.execution_mode]

    async def _write(self, starts: Sequence[Start]) -> tuple[list[Start], list[Start]]:
        """Write the files of all in one hop to the reader's thread: a hop costs as much as a start.

        Returns the starts that are ready, and those whose files could not be written now. One that may not start at all
        is in neither: its end is reported.
        """
        ready: list[Start] = []
        later: list[Start] = []
        written = await self._reader.run(_write_all, self._work_files, self._box, starts)
        for start, inputs in zip(starts, written, strict=True):
            for damaged in inputs.damaged:
                log(LogEvent.CHECKPOINT_DAMAGED, job=start.job.id, checkpoint=damaged.details["id"], error=damaged)
            if inputs.error is not None:
                log(LogEvent.CHECKPOINT_FAILED, job=start.job.id, attempt=start.attempt.ordinal, error=inputs.error)
            if inputs.refused is not None:
                self._sink([Report(start.attempt.run_id, ev.Refused(inputs.refused, Reason.SECRETS))])
            elif inputs.error is not None:
                later.append(start)
            else:
                ready.append(replace(start, inputs=inputs.variable, events=inputs.events))
        return ready, later

    def _hand_over(self, starts: Sequence[Start]) -> None:
        """Hand the starts to their executors, after the sockets for heartbeats are bound."""
        by_mode: defaultdict[ExecutionMode, list[Start]] = defaultdict(list)
        for start in starts:
            if start.job.spec.has_notify_socket:
                self._heartbeats.open(start.attempt.run_id)
            by_mode[start.job.spec.execution_mode].append(start)
        for mode, group in by_mode.items():
            self._executors[mode].start(group)

    def _may_begin(self, start: Start) -> bool:
        """Whether it may still start; if it was stopped meanwhile, its end is reported."""
        run = self._memory.by_run(start.attempt.run_id)
        if run is None:
            return False
        if run.attempt.stop_reason is not None:
            self._sink([never_started(start)])
            return False
        return True

    async def inputs(self, job: Job) -> str | None:
        """The outputs of its needs, as JSON by step or job id; None if that is too large for an environment."""
        return await self._reader.run(_variable, job, [*job.needed, *self._memory.workflows.told(job)[0]])


def _portions(starts: Iterable[Start]) -> Iterator[list[Start]]:
    """Starts that read their inputs together: PORTION needs and events at most, or one start with more."""
    portion: list[Start] = []
    needs = 0
    for start in starts:
        of_start = len(start.needed) + (start.job.spec.wait_for is not None)
        needs += of_start
        if portion and needs > PORTION:
            yield portion
            portion, needs = [], of_start
        portion.append(start)
    if portion:
        yield portion


# --- inputs from the ends of needed jobs ---


def _write_needs(portions: Iterable[Sequence[Needed]], file: InputsFile, variable: _InputsVariable) -> None:
    """STOKER_INPUTS_FILE. Raises OSError."""
    try:
        for portion in portions:
            file.add((one.name, _end(one)) for one in portion)
            variable.add(portion)
    finally:
        file.close()


def _seen(job: Job, needs: Sequence[Needed]) -> Sequence[Needed]:
    """The needs by their names in the flow of the step, without steps of Stoker's own."""
    if job.step is None or not {"/", "["} & set(job.step):
        return needs
    names = [one.step and seen_as(one.step, job.step) for one in needs]
    return [
        replace(one, step=name) for one, name in zip(needs, names, strict=True) if one.step is None or name is not None
    ]


class _InputsVariable:
    """STOKER_INPUTS: the outputs of the needs of one attempt, as long as they fit."""

    def __init__(self) -> None:
        self._outputs: dict[str, msgspec.Raw] = {}
        self._bytes = 0

    def add(self, needs: Sequence[Needed]) -> None:
        for one in needs:
            if one.output is not None:
                self._bytes += len(one.output)
                if self._bytes <= MAX_INPUTS_BYTES:
                    self._outputs[one.name] = msgspec.Raw(one.output.encode())

    @property
    def text(self) -> str | None:
        """The variable, once all needs were added; None if the kernel would refuse it."""
        if self._bytes > MAX_INPUTS_BYTES:
            return None
        encoded = encode_sorted(self._outputs)
        return encoded.decode() if len(encoded) <= MAX_INPUTS_BYTES else None


def _end(one: Needed) -> dict[str, Any]:
    outputs = msgspec.Raw(b"{}" if one.output is None else one.output.encode())
    return {"state": one.state, "reason": one.reason, "exit_code": one.exit_code, "outputs": outputs}


# --- in the reader's thread ---


class _Written(Struct, frozen=True):
    """The inputs of one start: STOKER_INPUTS, the events of a handler, the damaged checkpoints, and what failed.

    `refused`: why the job may not start.
    """

    variable: str | None = "{}"
    events: Mapping[str, Any] = field(default_factory=dict)
    damaged: Sequence[CheckpointDamaged] = ()
    error: OSError | None = None
    refused: str | None = None


def _write_all(
    connection: sqlite3.Connection, work_files: WorkFiles, box: SecretBox, starts: Sequence[Start]
) -> list[_Written]:
    written = []
    for start in starts:
        try:
            written.append(_write(connection, work_files, box, start))
        except (SecretsGone, NoPrivatePlace) as why:
            written.append(_Written(refused=str(why)))
    return written


def _write(connection: sqlite3.Connection, work_files: WorkFiles, box: SecretBox, start: Start) -> _Written:
    job, run_id = start.job, start.attempt.run_id
    data, damaged = None, list[CheckpointDamaged]()
    if job.attempts > 1:
        data, damaged = checkpoints.newest_sound(connection, job.id, job.checkpoint_floor, opened)
    variable, events = _InputsVariable(), {} if job.spec.wait_for is None else _events(connection, job)
    if job.spec.execution_mode is ExecutionMode.IN_PROCESS:
        return _Written(events=msgspec.json.decode(msgspec.json.encode(events)), damaged=damaged)
    try:
        if data is not None:
            work_files.put_checkpoint(run_id, data)
        if job.spec.wait_for is not None:
            work_files.put_events(run_id, msgspec.json.encode(events) + b"\n")
        if job.spec.hook is not None:
            work_files.put_events(run_id, msgspec.json.encode(job.spec.hook_data) + b"\n")
        if start.needed:
            _write_needs(_needs(connection, job, start.needed), InputsFile(work_files.inputs(run_id)), variable)
        if job.spec.secrets:
            work_files.secrets.put(run_id, secret_rows.of_job(connection, box, job))
    except OSError as error:
        return _Written(error=error)
    return _Written(variable.text, damaged=damaged)


def _events(connection: sqlite3.Connection, job: Job) -> dict[str, Any]:
    """The events that the job waited for and got, by name, as STOKER_EVENT_FILE has them."""
    return {
        event.name: {
            "id": event.id,
            "emitted_at": event.emitted_at,
            "owner_uid": event.owner_uid,
            "data": msgspec.Raw(event.data.encode()),
        }
        for event in conditions.given(connection, job.id)
    }


def _variable(connection: sqlite3.Connection, job: Job, ids: Sequence[int]) -> str | None:
    variable = _InputsVariable()
    for portion in _needs(connection, job, ids):
        variable.add(portion)
    return variable.text


def _needs(connection: sqlite3.Connection, job: Job, ids: Sequence[int]) -> Iterator[Sequence[Needed]]:
    """How its needs ended, in portions: a thousand needs can have 64 MB of outputs."""
    for at in range(0, len(ids), PORTION):
        yield _seen(job, attempts.needed(connection, ids[at : at + PORTION]))
