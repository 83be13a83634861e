"""In-process jobs: registered async handlers, run as tasks of the daemon.

Owns the tasks. An exception becomes the outcome of the attempt: a failure for good, unless it is
`Transient`. A handler ends with the daemon, so its job is requeued after a crash. Stoker's own handlers are given to
the executor; they are in no registry, so a submit of a job for them is refused.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from stoker.core.clock import boot_ms, wall_ms
from stoker.core.job import events as ev
from stoker.core.job.model import IN_PROCESS, Identity, Job, Outcome, OutcomeKind
from stoker.core.raw_bytes import native, storable
from stoker.executors.base import Report, Sink, Start
from stoker.executors.handlers import HANDLERS, OWN_PREFIX, Call, Handler, Transient
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

ERROR_LIMIT = 4_000
CANCEL_AGAIN_S = 1.0
CLOSE_ROUNDS = 5


class StepFailed(Exception):
    """Raised by a handler of Stoker's own: its attempt fails with this text, which a person can use."""


OwnHandler = Callable[[Call], Awaitable[str | None]]  # returns the output of the attempt, as JSON


class InProcessExecutor:
    def __init__(self, sink: Sink, own: Mapping[str, OwnHandler] | None = None) -> None:
        self._sink = sink
        self._own = own or {}
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}

    def launcher_for(self, _job: Job) -> str | None:
        return IN_PROCESS

    def refuses(self, _start: Start) -> bool:
        return False

    def start(self, starts: Sequence[Start]) -> None:
        for start in starts:
            args = tuple(map(native, start.job.spec.args))
            call = Call(start.job.id, start.attempt.run_id, args, start.events)
            command = native(start.job.spec.command)
            registered = HANDLERS.get(command)
            run = self._own.get(command) or (registered and registered.run)
            task = asyncio.get_running_loop().create_task(_outcome(command, run, call))
            self._tasks[call.run_id] = task
            task.add_done_callback(partial(self._ended, call.run_id))
        self._sink([Report(start.attempt.run_id, ev.Began(None, boot_ms())) for start in starts])

    def _ended(self, run_id: str, task: asyncio.Task[Outcome]) -> None:
        del self._tasks[run_id]
        outcome = _cancelled() if task.cancelled() else task.result()
        self._sink([Report(run_id, ev.Ended(outcome=outcome))])

    def stop(self, run_id: str, grace_ms: int) -> None:
        """Cancel the task. A task that goes on is cancelled and logged every second, as tasks have no SIGKILL."""
        task = self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            asyncio.get_running_loop().call_later(grace_ms / 1_000, self._stop_again, run_id, task)
        self._sink([Report(run_id, ev.Delivered(delivered=task is not None))])

    def _stop_again(self, run_id: str, task: asyncio.Task[Outcome]) -> None:
        if not task.done():
            task.cancel()
            log(LogEvent.WORKER_UNRESPONSIVE, run_id=run_id, error="the handler goes on after it was cancelled")
            asyncio.get_running_loop().call_later(CANCEL_AGAIN_S, self._stop_again, run_id, task)

    def reassign(self, run_id: str, identity: Identity | None) -> None:
        """A handler has no launcher, so a stop never waits for one."""

    def signal(self, run_id: str, signum: int) -> None:
        """A handler gets no signals."""

    def acknowledge(self, run_ids: Sequence[str]) -> None:
        """No outcome is kept here: handler and outcome both end with the daemon."""

    async def close(self) -> None:
        """Cancel the handlers and wait for their end, for a limited time."""
        for _ in range(CLOSE_ROUNDS):
            tasks = set(self._tasks.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)


async def _outcome(command: str, run: OwnHandler | Handler | None, call: Call) -> Outcome:
    """Run the handler, and turn its result or any exception into an outcome."""
    if run is None:  # it was removed from the settings since the job was submitted
        error = f"there is no in-process handler {command!r} any more; [daemon] handlers must name its module"
        return Outcome(kind=OutcomeKind.EXCEPTION, error=error, ended_at=wall_ms())
    try:
        output = await run(call)
    except StepFailed as failed:
        stopped, error = _was_cancelled(), str(failed)[:ERROR_LIMIT]
        return Outcome(kind=OutcomeKind.EXCEPTION, stopped=stopped, error=error, ended_at=wall_ms())
    except BaseException as raised:  # the boundary of a handler: not even its sys.exit() escapes
        if isinstance(raised, asyncio.CancelledError) and _was_cancelled():
            raise
        transient = isinstance(raised, Transient)
        if not transient:
            log(LogEvent.HANDLER_RAISED, job=call.job_id, run_id=call.run_id, command=command, error=raised)
        frames = raised.__traceback__ and raised.__traceback__.tb_next  # without the frame of this function
        trace = storable("".join(traceback.format_exception(type(raised), raised, frames)))[-ERROR_LIMIT:]
        return Outcome(kind=OutcomeKind.EXCEPTION, transient=transient, error=trace, ended_at=wall_ms())
    own = output if command.startswith(OWN_PREFIX) else None  # what another handler returns is its own affair
    return Outcome(kind=OutcomeKind.EXIT, exit_code=0, output=own, ended_at=wall_ms())


def _was_cancelled() -> bool:
    """Whether we cancelled the task: a handler may also meet the CancelledError of something that it awaits."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cancelled() -> Outcome:
    return Outcome(kind=OutcomeKind.EXCEPTION, stopped=True, error="cancelled", ended_at=wall_ms())
