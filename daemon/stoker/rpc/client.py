"""The Python client: blocking, one connection, one request at a time.

    with stoker.Client() as client:
        job = client.submit("sha256sum", "/etc/hosts", max_attempts=3)
        standing = client.wait(job["id"])

Owns one Python method per method of the protocol, and the knowledge which of them may be sent twice: `submit` has an
idempotency key, and reads change nothing. A Client is not thread-safe: give each thread its own. It imports few modules
of the standard library and no others, because every shell command pays for the imports.
"""

from __future__ import annotations

import os
from binascii import a2b_base64

from stoker.rpc import wire
from stoker.rpc.conversation import Conversation

TYPE_CHECKING = False  # `typing` alone would be a tenth of the time of `stoker submit`
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, Unpack

    from stoker.core.daemon_views import StatusView
    from stoker.core.views import Explanation, JobDetails, JobHistory, JobPage, WorkflowDetails
    from stoker.core.wire_types import (
        ChangeShape,
        CheckpointPage,
        CheckpointPiece,
        JobOptions,
        JobSpec,
        NotSubmitted,
        StandingShape,
        Submitted,
        WorkflowAccepted,
    )

BATCH_JOBS = 1_000  # that share one commit
BATCH_BYTES = wire.MAX_FRAME_BYTES - 4096  # leaves room for the envelope


class Client(Conversation):
    """The methods of the protocol; see Conversation for the parameters.

    Every method raises the StokerError that the daemon answered, or DaemonUnreachable.
    """

    # --- jobs -----------------------------------------------------------------------------------------------

    def submit(self, /, command: str, *args: str, **options: Unpack[JobOptions]) -> Submitted:
        """Store a job. When this returns, the job is on disk."""
        job: JobSpec = {"command": command, "args": list(args), **options}
        answer: Submitted = self.call("job.submit", _with_key(job), again=True)
        return answer

    def submit_many(self, jobs: Iterable[JobSpec], *, atomic: bool = False) -> list[Submitted | NotSubmitted]:
        """Store many jobs, each with its own answer; with `atomic` all of them or, on an error, no job.

        Without `atomic` their number is unlimited: they are sent in frames of at most 1 000.
        """
        answers: list[Submitted | NotSubmitted] = []
        keyed = map(_with_key, jobs)
        for part in [list(keyed)] if atomic else _parts(keyed):
            answers += self.call("job.submit_many", {"jobs": part, "atomic": atomic}, again=True)["jobs"]
        return answers

    def find(self, idempotency_key: str) -> Submitted:
        """The job that was submitted with that key. Raises JobNotFound."""
        answer: Submitted = self.call("job.find", {"idempotency_key": idempotency_key}, again=True)
        return answer

    def get(self, job: int) -> JobDetails:
        """A job with its newest attempts."""
        answer: JobDetails = self._read("job.get", id=job)
        return answer

    def wait(self, *jobs: int, any_one: bool = False, timeout_s: float | None = None) -> list[StandingShape]:
        """Wait until all jobs (or, with `any_one`, one of them) are final or held. Raises WaitTimeout."""
        params: dict[str, Any] = {
            "ids": jobs,
            "any": any_one,
            "timeout_ms": None if timeout_s is None else int(timeout_s * 1000),
        }
        params |= own_token()
        standings: list[StandingShape] = self.call("job.wait", params, again=True, patient=True)["jobs"]
        return standings

    def cancel(self, job: int, reason: str | None = None) -> StandingShape:
        standing: StandingShape = self.call("job.cancel", {"id": job, "reason": reason})
        return standing

    def retry(self, job: int, reason: str | None = None, **options: Any) -> StandingShape:
        """Queue a finished job again; options: yes timeout_ms deadline."""
        standing: StandingShape = self.call("job.retry", {"id": job, "reason": reason, **options})
        return standing

    def why(self, job: int) -> Explanation:
        """Why a job does not run, or why it ended as it did."""
        answer: Explanation = self._read("job.why", id=job)
        return answer

    def history(self, job: int) -> JobHistory:
        """All changes of a job, and its newest attempts."""
        whole: JobHistory = self._read("job.history", id=job)
        page = whole
        while page["next"] is not None:
            page = self._read("job.history", id=job, after=page["next"])
            whole["changes"] += page["changes"]
        return whole

    def logs(self, job: int, attempt: int | None = None, *, follow: bool = False) -> Iterator[bytes]:
        """The log of an attempt (default: the newest); with `follow` until it ends. Holes in the log are skipped."""
        pieces = self.stream("job.logs", {"id": job, "attempt": attempt, "follow": follow})
        return (a2b_base64(piece["data"]) for piece in pieces if "data" in piece)

    # --- workflows ------------------------------------------------------------------------------------------

    def submit_workflow(
        self,
        flow: Mapping[str, Any],
        parameters: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        dry_run: bool = False,
        **part: Any,
    ) -> WorkflowAccepted:
        """Store the steps of a workflow, all or a part of them: target from reuse.

        Raises FlowInvalid, with every mistake in its details, and stores nothing.
        """
        key = os.urandom(16).hex() if idempotency_key is None else idempotency_key
        params = {
            "flow": _flow_of_any_bytes(flow),
            "parameters": parameters or {},
            "idempotency_key": key,
            "dry_run": dry_run,
            **part,
        }
        answer: WorkflowAccepted = self.call("workflow.submit", params, again=True)
        return answer

    def workflow(self, workflow: int) -> WorkflowDetails:
        """A workflow with all its steps."""
        answer: WorkflowDetails = self._read("workflow.get", id=workflow)
        return answer

    def checkpoints(self, *, workflow: int | None = None, job: int | None = None, **page: int) -> CheckpointPage:
        """Checkpoints of a workflow, or of a job outside a workflow, newest first; page: before_seq limit."""
        answer: CheckpointPage = self.call("checkpoint.list", {"workflow": workflow, "job": job, **page}, again=True)
        return answer

    def checkpoint_data(self, checkpoint: int) -> bytes:
        """The data of a checkpoint. Raises CheckpointDamaged if its checksum is wrong."""
        data = bytearray()
        while True:
            piece: CheckpointPiece = self._read("checkpoint.get", id=checkpoint, offset=len(data))
            data += a2b_base64(piece["data"])
            if len(data) >= piece["bytes"] or not piece["data"]:
                return bytes(data)

    # --- the daemon -----------------------------------------------------------------------------------------

    def status(self) -> StatusView:
        """The state of the daemon."""
        answer: StatusView = self._read("system.status")
        return answer

    def watch(
        self,
        after: int | None = None,
        job: int | None = None,
        workflow: int | None = None,
        *,
        history: str | None = None,
    ) -> Iterator[ChangeShape]:
        """Changes as they are committed, after the sequence number `after` (default: from now on).

        All of them, those of a job, or those of a workflow and its steps. `history`: the one that the status had when
        `after` was read; raises HistoryChanged if a restore has taken back that change since.
        """
        batches = self.stream("watch", {"after": after, "history": history, "job": job, "workflow": workflow})
        return (change for batch in batches for change in batch["changes"])

    def list(self, **filters: Any) -> JobPage:
        """A page of jobs; filters: states queue name label limit before.

        Newest first, with `before` as cursor; or oldest first, with `after` (0: from the first).
        """
        answer: JobPage = self._read("job.list", **filters)
        return answer


def own_token() -> dict[str, str]:
    """The token of the job that this program runs in: sent with a wait, it tells the daemon that this job waits."""
    token = os.environ.get("STOKER_TOKEN")
    return {"token": token} if token else {}


def _with_key(job: JobSpec) -> JobSpec:
    """The job in a form that a frame can hold, with an idempotency key: sent twice, it is stored once."""
    job = of_any_bytes(job)
    return job if job.get("idempotency_key") is not None else {**job, "idempotency_key": os.urandom(16).hex()}


def of_any_bytes(job: Any) -> Any:
    """The job in a form that a frame can hold. Its command, arguments, variables and directory may be any bytes."""
    sent = {**job}
    for field in ("command", "working_dir"):
        if isinstance(sent.get(field), str):
            sent[field] = wire.raw_text(sent[field])
    if isinstance(sent.get("args"), list | tuple):
        sent["args"] = [wire.raw_text(arg) if isinstance(arg, str) else arg for arg in sent["args"]]
    if isinstance(sent.get("env"), dict):
        sent["env"] = {
            name: wire.raw_text(text) if isinstance(text, str) else text for name, text in sent["env"].items()
        }
    return sent


def _flow_of_any_bytes(flow: Mapping[str, Any]) -> dict[str, Any]:
    """The same for each step of a flow and for its defaults."""
    sent = {**flow}
    if isinstance(defaults := sent.get("defaults"), dict):
        sent["defaults"] = of_any_bytes(defaults)
    if isinstance(steps := sent.get("steps"), dict):
        sent["steps"] = {name: of_any_bytes(step) if isinstance(step, dict) else step for name, step in steps.items()}
    return sent


def _parts(jobs: Iterable[JobSpec]) -> Iterator[list[JobSpec]]:
    """The jobs in lists that each fit a frame."""
    part: list[JobSpec] = []
    size = 0
    for job in jobs:
        job_bytes = len(wire.encode(job))
        if part and (len(part) == BATCH_JOBS or size + job_bytes > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(job)
        size += job_bytes
    if part:
        yield part
