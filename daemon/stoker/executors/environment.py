"""The environment of a worker, and its launch order.

Owns the allowlist and the STOKER_* variables. No other variable of the daemon reaches a worker: NOTIFY_SOCKET,
LISTEN_FDS and credentials are meant for the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stoker.cluster.shared_directory import CHECKPOINT, EVENTS, INPUTS, LOG, OUTPUT, SAVES
from stoker.core.job.limits import Limits
from stoker.core.job.model import Job
from stoker.core.raw_bytes import AnyText, sendable
from stoker.core.tokens import Tokens
from stoker.core.units import instant
from stoker.executors.attempt_cgroups import AttemptCgroups
from stoker.executors.base import Start
from stoker.process.attempt_logs import log_name
from stoker.process.cgroup import Leaf
from stoker.process.messages import LaunchOrder, Setup
from stoker.process.run_roots import RunRoots
from stoker.process.spawner import UserAccount
from stoker.process.work_files import WorkFiles
from stoker.telemetry.otel import Telemetry

# Variables that mean nothing on a node of a cluster, and the files of a run there.
AT_HOME = ("STOKER_SOCKET", "STOKER_TOKEN", "NOTIFY_SOCKET", "WATCHDOG_USEC")
ON_NODE = {
    "STOKER_OUTPUT": OUTPUT,
    "STOKER_CHECKPOINT": CHECKPOINT,
    "STOKER_INPUTS_FILE": INPUTS,
    "STOKER_EVENT_FILE": EVENTS,
    "STOKER_HOOK_FILE": EVENTS,
}


class WorkerContext(Struct, frozen=True, kw_only=True):
    """Settings and parts that all workers of this daemon share. `base`: the variables that each of them gets."""

    state_dir: Path
    socket: str
    instance: str
    epoch: int
    base: Mapping[str, AnyText]
    umask: int
    telemetry: Telemetry
    cgroups: AttemptCgroups
    tokens: Tokens
    work_files: WorkFiles
    spawner: str = ""  # the socket of the service that starts the launchers of other users

    @property
    def roots(self) -> RunRoots:
        return self.work_files.roots

    def variables(self, start: Start, account: UserAccount | None = None) -> dict[str, AnyText]:
        """`account`: that of the user as whom it runs; None if that is the user of the daemon."""
        job, attempt = start.job, start.attempt
        return {
            **self.base,
            **({} if account is None else account.variables),
            **job.spec.env,
            **self._notify_variables(job, attempt.run_id),
            **job_variables(job),
            "STOKER_ATTEMPT": str(attempt.ordinal),
            "STOKER_RUN_ID": attempt.run_id,
            "STOKER_INSTANCE": self.instance,
            "STOKER_SOCKET": self.socket,
            "STOKER_TOKEN": self.tokens.of(attempt.run_id),
            "STOKER_OUTPUT": self.work_files.output(attempt.run_id),
            "STOKER_CHECKPOINT": self.work_files.checkpoint(attempt.run_id),
            "STOKER_INPUTS_FILE": self.work_files.inputs(attempt.run_id, needs=bool(start.needed)),
            **({} if start.workflow_state is None else {"STOKER_WORKFLOW_STATE": start.workflow_state}),
            **({} if start.inputs is None else {"STOKER_INPUTS": start.inputs}),
            **({"STOKER_EVENT_FILE": self.work_files.events(attempt.run_id)} if job.spec.wait_for else {}),
            **({"STOKER_SECRETS_DIR": self.work_files.secrets.directory(attempt.run_id)} if job.spec.secrets else {}),
            **({"STOKER_HOOK_FILE": self.work_files.events(attempt.run_id)} if job.spec.hook else {}),
            "TRACEPARENT": self.telemetry.traceparent(job, attempt.run_id),
        }

    def _notify_variables(self, job: Job, run_id: str) -> dict[str, str]:
        """Those of sd_notify(3) and sd_watchdog_enabled(3), so that programs made for systemd need no change."""
        variables = {"NOTIFY_SOCKET": self.work_files.notice_address(run_id)} if job.spec.has_notify_socket else {}
        if job.spec.heartbeat_ms is not None:
            variables["WATCHDOG_USEC"] = str(job.spec.heartbeat_ms * 1_000)
        return variables

    def umask_of(self, job: Job) -> int:
        """The umask that the client sent with the job, else the one that the daemon was started with."""
        return self.umask if job.spec.umask is None else job.spec.umask

    def order(self, start: Start, account: UserAccount | None = None) -> LaunchOrder:
        """The order for the launcher. Makes the attempt's cgroup, which must exist first. Raises OSError.

        A job of another user has none: its launcher may not move processes within the subtree of the daemon.
        """
        job, attempt = start.job, start.attempt
        leaf = None if account is not None else self.cgroups.make(attempt.run_id, job.spec.limits)
        if account is not None and not start.needed:
            self.work_files.put_no_inputs(attempt.run_id)
        return LaunchOrder(
            epoch=self.epoch,
            run_id=attempt.run_id,
            argv=(job.spec.command, *job.spec.args),
            env=self.variables(start, account),
            working_dir=job.spec.working_dir,
            log=f"{self.roots.of_run(attempt.run_id)}/{log_name(job.id, attempt.ordinal)}",
            max_log_bytes=job.spec.max_log_bytes,
            umask=self.umask_of(job),
            stdin=job.spec.stdin,
            setup=_setup(job.spec.limits, job.spec.nice, leaf),
        )

    def order_for_node(self, start: Start, path: Callable[[str], Path]) -> LaunchOrder:
        """The order for a node of a cluster, which does not reach the daemon. `path` gives the files of the run."""
        job, attempt = start.job, start.attempt
        variables = self.variables(start)
        for name in AT_HOME:
            variables.pop(name, None)
        files = {variable: str(path(name)) for variable, name in ON_NODE.items() if variable in variables}
        files["STOKER_CHECKPOINT_DIR"] = str(path(SAVES))
        return LaunchOrder(
            epoch=self.epoch,
            run_id=attempt.run_id,
            argv=(job.spec.command, *job.spec.args),
            env={**variables, **files},
            working_dir=job.spec.working_dir,
            log=str(path(LOG)),
            max_log_bytes=job.spec.max_log_bytes,
            umask=self.umask_of(job),
            stdin=job.spec.stdin,
            setup=_setup(job.spec.limits, job.spec.nice, None),
        )


def job_variables(job: Job) -> dict[str, str]:
    """The variables that name the job, its step and workflow, and its schedule or hook, if it has them."""
    variables = {"STOKER_JOB_ID": str(job.id)}
    if job.workflow_id is not None and job.step is not None:
        variables |= {"STOKER_WORKFLOW_ID": str(job.workflow_id), "STOKER_STEP": job.step}
    if job.spec.schedule is not None and job.spec.scheduled_for is not None:
        variables |= {"STOKER_SCHEDULE": job.spec.schedule, "STOKER_SCHEDULED_FOR": instant(job.spec.scheduled_for)}
    if job.spec.hook is not None:
        data = job.spec.hook_data
        variables |= {
            "STOKER_HOOK": job.spec.hook,
            "STOKER_HOOK_ON": data["on"],
            "STOKER_HOOK_SUMMARY": data["summary"],
        }
    return variables


def _setup(limits: Limits, nice: int, leaf: Leaf | None) -> Setup | None:
    """None if a plain spawn is enough: a fork costs twice as much."""
    if leaf is None:
        return Setup(limits=limits or None, nice=nice) if limits or nice else None
    # A limit that the cgroup enforces for the whole tree is not set for each process as well.
    rest = replace(limits, **dict.fromkeys(leaf.in_force))
    of_leaf = Limits(**{name: getattr(limits, name) for name in leaf.in_force})
    return Setup(limits=rest or None, leaf_limits=of_leaf or None, nice=nice, cgroup=str(leaf.path))


def allowed(environ: Mapping[str, str], names: tuple[str, ...], path: str) -> dict[str, AnyText]:
    """The daemon's variables that workers get; `path` replaces PATH where it is set."""
    base = {name: environ[name] for name in names if name in environ}
    base["PATH"] = path or environ.get("PATH", os.defpath)
    return {name: sendable(value) for name, value in base.items()}
