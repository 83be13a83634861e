"""Shows the worker of a job and its environment: `worker.get` and `job.environment`.

/proc is read in threads of its own, because it may hang for a process that hangs. Invariant: an environment that is
shown has no variable that marks a process as our worker or lets it act for the job: a process that copied it would be
stopped as a leaked worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import msgspec

from stoker.core.errors import NotAllowed, WaitTimeout
from stoker.core.job.model import ExecutionMode, Job
from stoker.core.raw_bytes import AnyText
from stoker.engine.memory import OpenRun
from stoker.executors.environment import job_variables
from stoker.host.threads import start_threads
from stoker.process.samples import observe
from stoker.service.engine import Engine
from stoker.service.views import job_now

if TYPE_CHECKING:
    from stoker.core.views import EnvironmentView, ProcessView, WorkerView

PATIENCE_S = 30.0  # a busy machine takes seconds to read the /proc of all processes


class WorkerService:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = start_threads(2, "worker-look")

    async def get(self, job_id: int) -> WorkerView:
        """The processes of a job's worker and their use of the host. Raises NotAllowed if the job has no worker."""
        job = await job_now(self._engine, job_id)
        run = self._engine.memory.runs.get(job_id)
        if run is None or job.spec.execution_mode is ExecutionMode.IN_PROCESS:
            why = "runs inside the daemon" if run is not None else f"is not running ({job.state.value})"
            raise NotAllowed(f"job {job_id} {why}, so it has no worker", hint=f"stoker why {job_id}")
        reading = asyncio.get_running_loop().run_in_executor(
            self._threads, observe, self._engine.instance, run.attempt.run_id, run.attempt.identity
        )
        try:
            processes = await asyncio.wait_for(asyncio.shield(reading), PATIENCE_S)
        except TimeoutError:
            raise WaitTimeout(
                f"reading /proc for the worker of job {job_id} takes longer than {PATIENCE_S:g} s",
                hint=f"stoker why {job_id}",
            ) from None
        return self._view(run, processes)

    def _view(self, run: OpenRun, processes: list[ProcessView]) -> WorkerView:
        """`state` is that of the main process, the other figures those of the whole tree."""
        launchers, attempt = self._engine.local.launchers, run.attempt
        alive = launchers.get(attempt.launcher) is not None
        main = None if attempt.identity is None else attempt.identity.pid
        state = next((process["state"] for process in processes if process["pid"] == main), None)
        report = self._engine.memory.worker_status.get(attempt.run_id)
        files = [process["open_files"] for process in processes]
        return {
            "job": run.job.id,
            "attempt": attempt.ordinal,
            "run_id": attempt.run_id,
            "started_at": attempt.started_at,
            "stopping": attempt.stop_reason,
            "launcher": attempt.launcher,
            "launcher_state": "stuck" if launchers.silent(attempt.launcher) else "ok" if alive else "gone",
            "said": None if report is None else msgspec.structs.asdict(report),
            "silent_ms": self._engine.heartbeats.silent_ms(attempt.run_id),
            "pid": main,
            "state": state or ("ended" if main else "starting"),
            "cpu_percent": round(sum(process["cpu_percent"] for process in processes), 1),
            "cpu_ms": sum(process["cpu_ms"] for process in processes),
            "memory_bytes": sum(process["memory_bytes"] for process in processes),
            "open_files": None if None in files else sum(number or 0 for number in files),
            "children": sum(process["pid"] != main for process in processes),
            "processes": processes,
        }

    async def environment(self, job_id: int) -> EnvironmentView:
        """The directory, umask and variables of the job's worker. Raises NotAllowed for an in-process job."""
        job = await job_now(self._engine, job_id)
        if job.spec.execution_mode is ExecutionMode.IN_PROCESS:
            raise NotAllowed(f"job {job_id} is a handler of the daemon: it has no environment of its own")
        inputs = await self._engine.attempt_inputs.inputs(job)
        view = {
            "id": job_id,
            "owner_uid": job.owner_uid,
            "working_dir": job.spec.working_dir,
            "umask": self._engine.context.umask_of(job),
            "env": self._variables(job, inputs),
        }
        return cast("EnvironmentView", view)

    def _variables(self, job: Job, inputs: str | None) -> dict[str, AnyText]:
        context = self._engine.context
        own = {**job_variables(job), "STOKER_SOCKET": context.socket}
        if inputs is not None:
            own["STOKER_INPUTS"] = inputs
        failed, state = self._engine.memory.workflows.told(job)
        if state is not None:
            own["STOKER_WORKFLOW_STATE"] = state
        run = self._engine.memory.runs.get(job.id)
        if run is not None:
            own["STOKER_ATTEMPT"] = str(run.attempt.ordinal)
            if job.spec.secrets:
                own["STOKER_SECRETS_DIR"] = context.work_files.secrets.directory(run.attempt.run_id)
            own["STOKER_CHECKPOINT"] = context.work_files.checkpoint(run.attempt.run_id)
            own["STOKER_INPUTS_FILE"] = context.work_files.inputs(run.attempt.run_id, needs=bool(job.needed or failed))
        return {**context.base, **job.spec.env, **own}
