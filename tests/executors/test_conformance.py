"""The contract of executors/base.py, tested with every executor: `LocalExecutor` with a real launcher,
`InProcessExecutor`, and `ClusterExecutor` with a real Slurm. A new executor gets a `Bench` and passes the same tests.

Owns the one list of promises that the engine relies on.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stoker.background.tasks import BackgroundTasks
from stoker.cluster.shared_directory import SharedDirectory
from stoker.cluster.slurm import Slurm as SlurmCommands
from stoker.core.cluster import ClusterOptions
from stoker.core.job.events import Began, Delivered, Ended
from stoker.core.job.model import Attempt, ExecutionMode, OutcomeKind, State
from stoker.core.tokens import Tokens
from stoker.executors.attempt_cgroups import AttemptCgroups
from stoker.executors.base import Executor, Report, Start
from stoker.executors.cluster import ClusterExecutor
from stoker.executors.environment import WorkerContext
from stoker.executors.handlers import HANDLERS, Call, Registered
from stoker.executors.in_process import InProcessExecutor
from stoker.executors.local import LocalExecutor
from stoker.host.threads import start_threads
from stoker.process.messages import RunState
from stoker.process.work_files import WorkFiles
from stoker.telemetry.otel import Telemetry
from tests.support import jobs
from tests.support.facts import until_async
from tests.support.instance import LauncherHost
from tests.support.slurm import Slurm, why_not

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

GRACE_MS = 2_000
PATH = {"PATH": "/usr/bin:/bin"}


class Bench:
    """An executor, its orders, and all its reports."""

    mode: ExecutionMode
    works: dict[str, dict[str, Any]]  # the spec for each kind of work: ok, fail, stay
    many = 50  # attempts at once

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.executor: Executor
        self._jobs = 0

    def hear(self, reports: Sequence[Report]) -> None:
        self.reports += reports

    def order(self, work: str, launcher: str | None = None) -> Start:
        """The first attempt of a new job, as the dispatcher would open it."""
        self._jobs += 1
        spec = jobs.spec(execution_mode=self.mode, grace_ms=GRACE_MS, env=PATH, **self.works[work])
        job = jobs.job(State.RUNNING, asked=spec, id=self._jobs, attempts=1)
        named = launcher or self.executor.launcher_for(job)
        assert named is not None
        run_id = f"{job.id}.1.{secrets.token_hex(8)}"
        return Start(job, Attempt(run_id=run_id, job_id=job.id, ordinal=1, launcher=named, created_at=1))

    def begin(self, work: str) -> str:
        start = self.order(work)
        self.executor.start([start])
        return start.attempt.run_id

    def about(self, run_id: str, kind: type[Any]) -> list[Any]:
        return [report.event for report in self.reports if report.run_id == run_id and isinstance(report.event, kind)]

    async def report(self, run_id: str, kind: type[Any]) -> Any:
        """Wait for the first report of that kind about this run."""
        return (await until_async(lambda: self.about(run_id, kind), why=f"{kind.__name__} of {run_id}"))[0]

    async def settled(self) -> None:
        """Run another job to its end: all earlier reports have arrived then."""
        await self.report(self.begin("ok"), Ended)


def context_of(host: LauncherHost) -> WorkerContext:
    return WorkerContext(
        state_dir=host.state_dir,
        socket="/nowhere",
        instance=host.instance,
        epoch=1,
        base=PATH,
        umask=0o022,
        telemetry=Telemetry(),
        cgroups=AttemptCgroups(),
        tokens=Tokens("00" * 32),
        work_files=WorkFiles(host.state_dir),
    )


class LocalBench(Bench):
    mode = ExecutionMode.SUBPROCESS

    def __init__(self, host: LauncherHost) -> None:
        super().__init__()
        self.works = {
            "ok": {"command": "/bin/true"},
            "fail": {"command": "/bin/false"},
            "stay": {"command": "/bin/sh", "args": ("-c", f"read _ < {host.never}")},
        }
        context = context_of(host)
        self.local = LocalExecutor(context, self.hear, lambda: None, BackgroundTasks(), stuck_ms=5_000)
        self.executor = self.local


class InProcessBench(Bench):
    mode = ExecutionMode.IN_PROCESS
    works = {name: {"command": f"conformance.{name}"} for name in ("ok", "fail", "stay")}  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        super().__init__()
        self.executor = InProcessExecutor(self.hear)


class ClusterBench(Bench):
    mode = ExecutionMode.CLUSTER
    many = 12  # more than are handed over at a time; each costs its node two programs

    def __init__(self, host: LauncherHost, slurm: Slurm) -> None:
        super().__init__()
        self.works = {
            "ok": {"command": "/bin/true"},
            "fail": {"command": "/bin/false"},
            "stay": {"command": "/bin/sh", "args": ("-c", f"read _ < {host.never}")},
        }
        self.background = BackgroundTasks()
        self.cluster = ClusterExecutor(
            SharedDirectory(host.home / "shared", host.instance),
            SlurmCommands(),
            context_of(host),
            lambda _queue: ClusterOptions(),
            self.hear,
            lambda: None,
            self._keep,
            start_threads(4, "cluster"),
            self.background,
            python=sys.executable,
            window_ms=300_000,
        )
        self.executor = self.cluster
        self._slurm = slurm

    async def _keep(self, run_id: str, _packed: object, _status: str) -> None:
        raise AssertionError(f"{run_id} saved a checkpoint")

    async def begin_all(self) -> None:
        self.cluster.begin([])
        await until_async(lambda: self.cluster.away is None, why="an answer of Slurm")

    async def end(self) -> None:
        await self.cluster.close()
        self._slurm.run("scancel", "--user", "root", check=False)


async def ok(_call: Call) -> None:
    await asyncio.sleep(0)


async def fail(_call: Call) -> None:
    raise ValueError("on purpose")


async def stay(_call: Call) -> None:
    await asyncio.Event().wait()


NO_SLURM = why_not()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with Slurm() as one:
        yield one


@pytest.fixture(
    params=[
        "local",
        "in_process",
        pytest.param("cluster", marks=pytest.mark.skipif(NO_SLURM is not None, reason=str(NO_SLURM))),
    ]
)
async def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    if request.param == "cluster":
        slurm = request.getfixturevalue("slurm")
        for name, value in slurm.environ.items():
            monkeypatch.setenv(name, value)
        host = LauncherHost()
        outside = ClusterBench(host, slurm)
        await outside.begin_all()
        yield outside
        await outside.end()
        await host.end()
        return
    if request.param == "in_process":
        for handler in (ok, fail, stay):
            monkeypatch.setitem(HANDLERS, f"conformance.{handler.__name__}", Registered(handler))
        inside = InProcessBench()
        yield inside
        await inside.executor.close()  # type: ignore[attr-defined]
        return
    async with _local() as bench:
        yield bench


@pytest.fixture
async def local() -> AsyncIterator[LocalBench]:
    async with _local() as bench:
        yield bench


class _local:  # noqa: N801 - used as a function
    """A launcher for the test, ended with everything that it started."""

    async def __aenter__(self) -> LocalBench:
        self._host = LauncherHost()
        self._bench = LocalBench(self._host)
        await self._bench.local.begin()
        return self._bench

    async def __aexit__(self, *_: object) -> None:
        await self._bench.local.close()
        await self._host.end()


async def test_start_when_the_work_is_done_then_it_began_and_ended_once_in_that_order(bench: Bench) -> None:
    run = bench.begin("ok")

    ended = await bench.report(run, Ended)

    assert (ended.outcome.kind, ended.outcome.exit_code, ended.outcome.stopped) == (OutcomeKind.EXIT, 0, False)
    assert ended.outcome.ended_at > 0
    await bench.settled()
    assert [type(report.event) for report in bench.reports if report.run_id == run] == [Began, Ended]


async def test_start_when_the_work_fails_then_the_outcome_is_no_success(bench: Bench) -> None:
    ended = await bench.report(bench.begin("fail"), Ended)

    assert ended.outcome.exit_code != 0
    assert ended.outcome.kind in (OutcomeKind.EXIT, OutcomeKind.EXCEPTION)
    assert not ended.outcome.stopped


async def test_start_when_many_come_at_once_then_each_ends_exactly_once(bench: Bench) -> None:
    starts = [bench.order("ok") for _ in range(bench.many)]

    bench.executor.start(starts)

    for start in starts:
        await bench.report(start.attempt.run_id, Ended)
    await bench.settled()
    assert all(len(bench.about(start.attempt.run_id, Ended)) == 1 for start in starts)


async def test_stop_when_the_work_goes_on_then_it_is_delivered_and_the_end_says_stopped(bench: Bench) -> None:
    run = bench.begin("stay")
    await bench.report(run, Began)

    bench.executor.stop(run, GRACE_MS)

    assert (await bench.report(run, Ended)).outcome.stopped
    await bench.settled()
    assert {report.delivered for report in bench.about(run, Delivered)} <= {True}
    assert len(bench.about(run, Ended)) == 1


async def test_stop_when_it_comes_at_once_after_the_start_then_the_work_still_ends_once(bench: Bench) -> None:
    run = bench.begin("stay")

    bench.executor.stop(run, GRACE_MS)

    await bench.report(run, Ended)
    await bench.settled()
    assert len(bench.about(run, Ended)) == 1


async def test_stop_when_asked_twice_then_there_is_one_end(bench: Bench) -> None:
    run = bench.begin("stay")
    await bench.report(run, Began)

    bench.executor.stop(run, GRACE_MS)
    bench.executor.stop(run, GRACE_MS)

    await bench.report(run, Ended)
    await bench.settled()
    assert len(bench.about(run, Ended)) == 1


async def test_stop_when_the_work_has_ended_then_the_exit_stands_and_nothing_was_delivered(bench: Bench) -> None:
    run = bench.begin("ok")
    ended = await bench.report(run, Ended)

    bench.executor.stop(run, GRACE_MS)

    await bench.settled()
    assert not ended.outcome.stopped
    assert bench.about(run, Ended) == [ended]
    assert not any(report.delivered for report in bench.about(run, Delivered))


async def test_stop_when_one_of_two_is_meant_then_the_other_goes_on(bench: Bench) -> None:
    one, other = bench.begin("stay"), bench.begin("stay")
    await bench.report(one, Began)
    await bench.report(other, Began)

    bench.executor.stop(one, GRACE_MS)

    await bench.report(one, Ended)
    await bench.settled()
    assert not bench.about(other, Ended)


@pytest.mark.parametrize("call", ["stop", "signal", "acknowledge"])
async def test_unknown_run_when_anything_is_asked_of_it_then_nothing_happens_to_others(bench: Bench, call: str) -> None:
    run = bench.begin("stay")
    await bench.report(run, Began)
    unknown = "4711.1.0123456789abcdef"

    match call:
        case "stop":
            bench.executor.stop(unknown, GRACE_MS)
        case "signal":
            bench.executor.signal(unknown, 15)
        case _:
            bench.executor.acknowledge([unknown])

    await bench.settled()
    assert not bench.about(run, Ended)
    assert not any(report.delivered for report in bench.about(unknown, Delivered))
    assert not bench.about(unknown, Ended)


async def test_acknowledge_when_repeated_then_it_is_harmless(bench: Bench) -> None:
    run = bench.begin("ok")
    await bench.report(run, Ended)

    bench.executor.acknowledge([run])
    bench.executor.acknowledge([run, run])

    await bench.settled()
    assert len(bench.about(run, Ended)) == 1


async def test_launcher_when_asked_then_attempts_can_name_one(bench: Bench) -> None:
    assert bench.executor.launcher_for(jobs.job(State.QUEUED))


# --- where outcomes are kept: the launcher ------------------------------------------------------------------


async def test_outcome_when_not_acknowledged_then_it_is_kept_and_afterwards_forgotten(local: LocalBench) -> None:
    run = local.begin("fail")
    await local.report(run, Ended)
    (client,) = local.local.launchers

    kept = {held.run_id: held.state for held in await client.list_runs([run])}
    local.executor.acknowledge([run])
    forgotten = {held.run_id: held.state for held in await client.list_runs([run])}

    assert kept == {run: RunState.ENDED}
    assert forgotten == {run: RunState.UNKNOWN}


async def test_start_when_the_launcher_it_names_is_not_there_then_it_never_started(local: LocalBench) -> None:
    start = local.order("ok", launcher="1-00000000")

    local.executor.start([start])

    ended = await local.report(start.attempt.run_id, Ended)
    assert ended.outcome.kind is OutcomeKind.NEVER_STARTED
    assert not local.about(start.attempt.run_id, Began)


async def test_start_when_its_order_is_larger_than_a_frame_then_it_alone_is_refused(local: LocalBench) -> None:
    """A job of an older version may be that large; today its submit would be refused."""
    other = local.begin("stay")
    await local.report(other, Began)
    local.works["large"] = {**local.works["ok"], "stdin": "\x01" * 3_000_000}
    run = local.begin("large")

    ended = await local.report(run, Ended)

    assert (ended.outcome.kind, ended.outcome.transient) == (OutcomeKind.SPAWN_ERROR, False)
    assert "18" in ended.outcome.error
    assert "bytes; a launcher takes" in ended.outcome.error
    (client,) = local.local.launchers
    assert [held.run_id for held in await client.list_runs()] == [other]
