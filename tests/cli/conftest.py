"""The command line against the real server (rpc/) with an engine in memory behind it.

Owns `Desk`: a server whose jobs are those that a test sets, and `stoker` run in this process or as a process of its
own.
"""
# ruff: noqa: ARG002 - the engine's signatures, of which this one needs only a part

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from stoker.cli import main
from stoker.cli.kit import render
from stoker.core.access import Viewer
from stoker.core.answers import JobStanding
from stoker.core.errors import JobNotFound
from stoker.core.job.model import State
from stoker.core.requests import JobFilter, Verb, VerbParams
from stoker.engine.subscriptions import ChangeFeed
from stoker.service.logs import LogFeed, LogStart
from tests.support.rpc import MemoryService, ServerThread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from stoker.process.attempt_logs import Chunk

AT_MS = 1_796_112_000_000
FINAL = {"succeeded", "failed", "cancelled", "expired", "superseded", "skipped", "held"}


@pytest.fixture(autouse=True)
def plain_messages() -> None:
    """A command that another test ran in this process may have asked for JSON, or named a socket."""
    render.messages_as_json(on=False)
    render.hints_name(None)


def view(job: int, state: str = "queued", **fields: Any) -> dict[str, Any]:
    """A JobView as job.get and job.list give it."""
    plain: dict[str, Any] = {
        "id": job, "queue": "default", "name": None, "state": state, "reason": None, "priority": 0,
        "execution_mode": "subprocess", "command": "/bin/echo", "args": ["hi"], "env_vars": {}, "working_dir": "/",
        "pid": None, "attempts": 0, "failures": 0, "orphanings": 0, "max_attempts": 1, "deadline": None,
        "ttl_ms": None, "timeout_ms": None, "grace_ms": 10_000, "on_orphan": "fail", "survive": False, "run_at": None,
        "needs": [], "resources": {}, "limits": {}, "nice": 0, "umask": None, "labels": {}, "rate_key": None,
        "supersede_key": None, "supersede_running": "finish", "debounce_ms": 0, "debounce_max_ms": None,
        "superseded_by": None, "secrets": [],
        "owner_uid": 0, "trace_id": "0" * 32,
        "created_at": AT_MS, "started_at": None, "finished_at": None, "exit_code": None, "signal": None,
        "log": None, "stopping": False,
    }  # fmt: skip
    if state in FINAL - {"held"}:
        plain |= {"attempts": 1, "started_at": AT_MS + 1_000, "finished_at": AT_MS + 3_500, "reason": "exit"}
    return plain | fields


class DeskService(MemoryService):
    """`views` are the jobs; the cancel of one ends it, and the stream of its log."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[int, dict[str, Any]] = {}
        self.seq = 0
        self.changed = asyncio.Event()

    def change(self, job: int, **fields: Any) -> None:
        self.views[job] |= fields
        self.seq += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def get(self, job_id: int, before: int | None, limit: int, viewer: Viewer) -> Any:
        if job_id not in self.views:
            raise JobNotFound(f"there is no job {job_id}", hint="stoker ls")
        return self.views[job_id]

    async def list(self, wanted: JobFilter, viewer: Viewer) -> Any:
        matching = [one for one in reversed(self.views.values()) if not wanted.states or one["state"] in wanted.states]
        matching = [one for one in matching if wanted.before is None or one["id"] < wanted.before]
        if wanted.after is not None:
            matching = [one for one in reversed(matching) if one["id"] > wanted.after]
        cut = matching[: wanted.limit]
        return {"jobs": cut, "next": cut[-1]["id"] if len(matching) > len(cut) else None}

    async def wait(self, job_ids: Sequence[int], *, any_one: bool, timeout_ms: int | None) -> Sequence[JobStanding]:
        views = [await self.get(job, None, 1, Viewer()) for job in job_ids]
        self.waits_open += 1
        while not all(one["state"] in FINAL for one in views):
            await self.changed.wait()
            views = [self.views[job] for job in job_ids]
        keys = ("id", "state", "reason", "exit_code", "signal", "superseded_by")
        return [JobStanding(**{key: one[key] for key in keys}) for one in views]

    def command(self, verb: Verb, sent: VerbParams, peer_uid: int) -> asyncio.Future[JobStanding]:
        if sent.id not in self.views:
            answer: asyncio.Future[JobStanding] = asyncio.get_running_loop().create_future()
            answer.set_exception(JobNotFound(f"there is no job {sent.id}", hint="stoker ls"))
            return answer
        if verb is Verb.CANCEL:
            self.change(sent.id, state=State.CANCELLED, reason="user")
        return super().command(verb, sent, peer_uid)

    async def logs(self, job_id: int, ordinal: int | None, start: LogStart, *, follow: bool) -> LogFeed:
        await self.get(job_id, None, 1, Viewer())
        return LogFeed(ordinal or 1, self._log(job_id, ordinal or 1, follow=follow))

    async def _log(self, job_id: int, ordinal: int, *, follow: bool) -> AsyncGenerator[Chunk, None]:
        self.feeds_open += 1
        try:
            while self.views[job_id]["attempts"] < ordinal:
                if self.views[job_id]["state"] in (*FINAL, State.HELD):
                    return
                await self.changed.wait()
            for chunk in self.log:
                yield chunk
            while follow and self.views[job_id]["state"] == "running":
                await self.changed.wait()
        finally:
            self.feeds_open -= 1

    async def status(self, viewer: Viewer) -> Any:
        return {"version": "0.1.0", "last_seq": self.seq, "history": "0123456789abcdef"}

    async def watch(
        self, after_seq: int | None, history: str | None, job_id: int | None, workflow_id: int | None, viewer: Viewer
    ) -> ChangeFeed:
        after = self.seq if after_seq is None else after_seq
        return ChangeFeed(after, self._watch(after))

    async def _watch(self, after: int) -> AsyncGenerator[Any, None]:
        while True:
            while after == self.seq:
                await self.changed.wait()
            yield [{"seq": seq} for seq in range(after + 1, self.seq + 1)]
            after = self.seq


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Desk:
    """A server, and the command line in front of it."""

    def __init__(self, server: ServerThread, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.server = server
        self.service = DeskService()
        server.service = self.service
        self.socket = str(server.path)

    def has(self, job: int, state: str = "queued", **fields: Any) -> None:
        self.service.views[job] = view(job, state, **fields)

    def stoker(self, *arguments: str) -> Ended:
        """In this process."""
        self._capture.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STOKER_SOCKET", self.socket)
            status = main.guarded(arguments)
        out, err = self._capture.readouterr()
        return Ended(status, out, err)

    def process(self, *arguments: str) -> subprocess.Popen[bytes]:
        """As a process of its own."""
        command = [sys.executable, "-m", "stoker.cli.main", *arguments]
        environ = {**os.environ, "STOKER_SOCKET": self.socket}
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def desk(capfd: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    server = ServerThread()
    desk = Desk(server, capfd)
    with server:
        yield desk
