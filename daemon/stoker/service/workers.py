"""Looking at the worker of a job, and at what it was given.

Owns the answers of `worker.get` and `job.environment`. Refuses to change anything. The look happens in threads that
nothing else waits for: /proc of a sick process may hang. Invariant: what marks a process as a worker of ours, or lets
it write in the job's name, is in no environment that leaves here; whoever carried it would be stopped as a worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from stoker.core.errors import NotAllowed, WaitTimeout
from stoker.core.job.model import ExecutionMode, Job
from stoker.core.raw_bytes import AnyText
from stoker.executors.environment import job_variables
from stoker.host.threads import start_threads
from stoker.process.observing import ProcessSample, observe
from stoker.service import status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stoker.engine.memory import OpenRun
    from stoker.service.assembly import Engine

PATIENCE_S = 5.0


class WorkerService:
    """The answers about workers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = start_threads(2, "worker-look")

    async def get(self, job_id: int) -> dict[str, Any]:
        """What the worker of a job does now. Raises NotAllowed where there is none."""
        job = await status.job_now(self._engine, job_id)
        run = self._engine.memory.runs.get(job_id)
        if run is None or job.spec.execution_mode is ExecutionMode.IN_PROCESS:
            why = "runs inside the daemon" if run is not None else f"is not running ({job.state.value})"
            raise NotAllowed(f"job {job_id} {why}, so it has no worker", hint=f"stoker why {job_id}")
        look = asyncio.get_running_loop().run_in_executor(
            self._threads, observe, self._engine.instance, run.attempt.run_id, run.attempt.identity
        )
        try:
            seen = await asyncio.wait_for(asyncio.shield(look), PATIENCE_S)
        except TimeoutError:
            raise WaitTimeout(f"the look at the worker of job {job_id} hangs", hint=f"stoker why {job_id}") from None
        return self._about(run) | _sums(run, seen)

    def _about(self, run: OpenRun) -> dict[str, Any]:
        launchers, attempt, said = self._engine.local.launchers, run.attempt, self._engine.memory.said
        known = launchers.get(attempt.launcher) is not None
        return {
            "job": run.job.id,
            "attempt": attempt.ordinal,
            "run_id": attempt.run_id,
            "started_at": attempt.started_at,
            "stopping": attempt.stop_reason,
            "launcher": attempt.launcher,
            "launcher_state": "stuck" if launchers.silent(attempt.launcher) else "ok" if known else "gone",
            "said": said.get(attempt.run_id),
            "silent_ms": self._engine.heartbeats.silent_ms(attempt.run_id),
        }

    async def environment(self, job_id: int) -> dict[str, Any]:
        """What a worker of the job has: directory, umask, variables but for what marks it. NotAllowed in-process."""
        job = await status.job_now(self._engine, job_id)
        if job.spec.execution_mode is ExecutionMode.IN_PROCESS:
            raise NotAllowed(f"job {job_id} is a handler of the daemon: it has no environment of its own")
        inputs = await self._engine.attempt_inputs.inputs(job)
        return {
            "id": job_id,
            "working_dir": job.spec.working_dir,
            "umask": self._engine.context.umask_of(job),
            "env": self._variables(job, inputs),
        }

    def _variables(self, job: Job, inputs: str | None) -> dict[str, AnyText]:
        context = self._engine.context
        told = {**job_variables(job), "STOKER_SOCKET": context.socket}
        if inputs is not None:
            told["STOKER_INPUTS"] = inputs
        run = self._engine.memory.runs.get(job.id)
        if run is not None:
            told["STOKER_ATTEMPT"] = str(run.attempt.ordinal)
            told["STOKER_CHECKPOINT"] = context.work_files.checkpoint(run.attempt.run_id)
            told["STOKER_INPUTS_FILE"] = context.work_files.inputs(run.attempt.run_id, needs=bool(job.spec.needs))
        return {**context.base, **job.spec.env, **told}


def _sums(run: OpenRun, seen: Sequence[ProcessSample]) -> dict[str, Any]:
    """The tree as one; `state` is that of its main process."""
    identity = run.attempt.identity
    main = None if identity is None else identity.pid
    files = [one.open_files for one in seen]
    return {
        "pid": main,
        "state": next((one.state for one in seen if one.pid == main), "ended" if main else "starting"),
        "cpu_percent": round(sum(one.cpu_percent for one in seen), 1),
        "cpu_ms": sum(one.cpu_ms for one in seen),
        "memory_bytes": sum(one.memory_bytes for one in seen),
        "open_files": None if None in files else sum(number or 0 for number in files),
        "children": sum(one.pid != main for one in seen),
        "processes": [msgspec.structs.asdict(one) for one in seen],
    }
