"""The real server of rpc/ on uvloop in a thread, with a small service in memory behind it.

Owns `ServerThread`, `MemoryService` (it keeps jobs in a dict and answers a submit one loop iteration later, as a commit
would) and `RawClient`, which sends exactly the bytes that a test gives it.
"""

# ruff: noqa: ARG002 - a fake takes what the protocol says, needed or not

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import uvloop

from stoker.background.tasks import BackgroundTasks
from stoker.core.access import Viewer
from stoker.core.answers import JobStanding, SubmitAnswer
from stoker.core.errors import JobNotFound, StokerError
from stoker.core.job.model import State
from stoker.core.requests import JobChanges, JobFilter, JobParams, QueueSettings, Verb, VerbParams
from stoker.core.standstill import Wait
from stoker.engine.subscriptions import ChangeFeed
from stoker.process.attempt_logs import Chunk
from stoker.rpc.address import bind_socket
from stoker.rpc.server import Server
from stoker.service.logs import LogFeed, LogStart
from stoker.service.service import Service
from tests.support.facts import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from stoker.rpc.table import Reply

READ_TIMEOUT_S = DEADLINE_S


class MemoryService(Service):
    """Answers the methods of jobs, queues and resources from memory. `log` holds what `job.logs` sends."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobParams] = {}
        self.keys: dict[str, int] = {}
        self.commands: list[tuple[Verb, VerbParams]] = []
        self.log: list[Chunk] = [Chunk(0, b"hello\n"), Chunk(6, None, 100), Chunk(106, b"\xffend\n")]
        self.follow_forever = False
        self.feeds_open = 0
        self.hung_up_on: list[int] = []
        self.waits_open = 0
        self.gets = 0
        self.crash_next = False
        self.hold_submits = False
        self.held: list[Callable[[], None]] = []

    def hung_up(self, connection: int) -> None:
        self.hung_up_on.append(connection)

    def submit(
        self, jobs: list[JobParams], viewer: Viewer, *, atomic: bool
    ) -> asyncio.Future[list[SubmitAnswer | StokerError]]:
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[list[SubmitAnswer | StokerError]] = loop.create_future()

        def commit() -> None:
            committed.set_result([self._store(job) for job in jobs])

        if self.hold_submits:
            self.held.append(commit)
        else:
            loop.call_soon(commit)
        return committed

    def _store(self, job: JobParams) -> SubmitAnswer | StokerError:
        key = job.idempotency_key
        if isinstance(key, str) and key in self.keys:
            return SubmitAnswer(self.keys[key], State.QUEUED, existing=True)
        job_id = len(self.jobs) + 1
        self.jobs[job_id] = job
        if isinstance(key, str):
            self.keys[key] = job_id
        return SubmitAnswer(job_id, State.QUEUED)

    def release_submits(self) -> None:
        for commit in self.held:
            commit()

    def command(self, verb: Verb, sent: VerbParams, peer_uid: int) -> asyncio.Future[JobStanding]:
        answer: asyncio.Future[JobStanding] = asyncio.get_running_loop().create_future()
        self.commands.append((verb, sent))
        answer.set_result(JobStanding(id=sent.id, state=State.CANCELLED))
        return answer

    def edit(self, job_id: int, changes: JobChanges, peer_uid: int, note: str | None) -> asyncio.Future[JobStanding]:
        raise AssertionError("edits are asked of a real daemon")

    @staticmethod
    def large_job(size: int) -> JobParams:
        """A job that makes every answer about it that large."""
        return JobParams(command="x" * size)

    async def get(self, job_id: int, before: int | None, limit: int, viewer: Viewer) -> Any:
        self.gets += 1
        if self.crash_next:
            raise RuntimeError("a bug of ours")
        if job_id not in self.jobs:
            raise JobNotFound(f"there is no job {job_id}", hint="stoker ls", job=job_id)
        return {"id": job_id, "command": self.jobs[job_id].command}

    async def history(self, job_id: int, after: int, limit: int) -> Any:
        return {"changes": [], "attempts": [], "next": None}

    async def why(self, job_id: int, viewer: Viewer) -> Any:
        return {"id": job_id, "state": "queued", "code": "slot", "message": "no room", "details": {}}

    def waiting(self, token: str | None, wait: Wait) -> AbstractContextManager[None]:
        return nullcontext()

    async def wait(self, job_ids: Sequence[int], *, any_one: bool, timeout_ms: int | None) -> Sequence[JobStanding]:
        self.waits_open += 1
        try:
            if self.follow_forever:
                await asyncio.Event().wait()
        finally:
            self.waits_open -= 1
        return [JobStanding(id=job_id, state=State.SUCCEEDED, exit_code=0) for job_id in job_ids]

    async def logs(self, job_id: int, ordinal: int | None, start: LogStart, *, follow: bool) -> LogFeed:
        if job_id not in self.jobs:
            raise JobNotFound(f"there is no job {job_id}")
        return LogFeed(ordinal or 1, self._chunks(follow))

    async def _chunks(self, follow: bool) -> AsyncGenerator[Chunk, None]:  # noqa: FBT001 - one flag of a fake
        self.feeds_open += 1
        try:
            for chunk in self.log:
                yield chunk
            if follow and self.follow_forever:
                await asyncio.Event().wait()
        finally:
            self.feeds_open -= 1

    async def watch(
        self, after_seq: int | None, history: str | None, job_id: int | None, workflow_id: int | None, viewer: Viewer
    ) -> ChangeFeed:
        return ChangeFeed(after_seq or 0, self._changes(after_seq or 0))

    async def _changes(self, after: int) -> AsyncGenerator[Any, None]:
        self.feeds_open += 1
        try:
            yield [{"seq": after + 1}, {"seq": after + 2}]
            if self.follow_forever:
                await asyncio.Event().wait()
            raise JobNotFound("the source broke")
        finally:
            self.feeds_open -= 1

    async def queues(self) -> Any:
        return {"queues": []}

    def set_queue(self, settings: QueueSettings, peer_uid: int) -> asyncio.Future[Any]:
        return _answered({"name": settings.name})

    def pause_queue(self, name: str, peer_uid: int, note: str | None, *, paused: bool) -> asyncio.Future[Any]:
        return _answered({"name": name, "paused": paused})

    async def resources(self, viewer: Viewer) -> Any:
        return {"resources": []}

    def set_resource(self, name: str, capacity: int, peer_uid: int, note: str | None) -> asyncio.Future[Any]:
        return _answered({"name": name, "capacity": capacity})

    async def status(self, viewer: Viewer) -> Any:
        return {"version": "0.1.0"}

    async def health(self) -> Any:
        return {"ok": True}

    async def settings(self) -> Any:
        return {"file": None, "in_force": {}, "reload": [], "restart": [], "mistakes": []}

    async def reload(self) -> Any:
        return {"changed": [], "restart": []}

    async def drain(self, *, stop: bool) -> Any:
        return {"draining": True, "waits_for": 0, "timeout_ms": 0}

    async def find(self, peer_uid: int, key: str) -> SubmitAnswer:
        if key not in self.keys:
            raise JobNotFound("no job was submitted with this key", hint="stoker ls")
        return SubmitAnswer(self.keys[key], State.QUEUED, existing=True)

    async def list(self, job_filter: JobFilter, viewer: Viewer) -> Any:
        return {"jobs": [{"id": job_id} for job_id in self.jobs][: job_filter.limit], "next": None}


def _answered(value: Reply) -> asyncio.Future[Reply]:
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    answer.set_result(value)
    return answer


class ServerThread:
    """The server in a thread of its own, so that tests can block. `on_loop` runs a function in its loop."""

    def __init__(self, **limits: Any) -> None:
        self._limits = limits
        self._directory = TemporaryDirectory(prefix="stoker-")
        self.path = Path(self._directory.name) / "s.sock"
        self.service = MemoryService()
        self.server: Server
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(READ_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._directory.cleanup()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.server = Server(self.service, bind_socket(self.path), BackgroundTasks(), **self._limits)
        self.server.start()
        self._started.set()
        await self._stop.wait()
        await self.server.stop()

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """Run `function` in the server's loop and give what it returned."""
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(function())
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(READ_TIMEOUT_S)
        return results[0]

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(READ_TIMEOUT_S)

    def connect(self) -> RawClient:
        return RawClient(self.path)


class RawClient:
    """A socket that sends exactly the bytes it is given."""

    def __init__(self, to: Path | socket.socket) -> None:
        """`to`: the path of a server, or a socket that is connected to it."""
        self.socket = to if isinstance(to, socket.socket) else socket.socket(socket.AF_UNIX)
        self.socket.settimeout(READ_TIMEOUT_S)
        if isinstance(to, Path):
            self.socket.connect(str(to))
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, method: str, request_id: int | str = 1, **params: Any) -> Any:
        self.say(request(method, request_id, **params))
        return self.hear()

    def hear(self) -> Any:
        """The next message; None at the end of the stream."""
        line = self._reader.readline()
        return json.loads(line) if line else None

    def hear_all(self) -> list[Any]:
        """Every message until the server hangs up; sends no more."""
        self.socket.shutdown(socket.SHUT_WR)
        return [json.loads(line) for line in self._reader]


def request(method: str, request_id: int | str = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode() + b"\n"
