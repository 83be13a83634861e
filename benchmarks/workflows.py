"""Workflows: the cost of a step, of a checkpoint and of a large submit, and the time to rebuild and to resume many.

The same program runs as plain jobs and as steps of chains, in turns, in one daemon. The yardstick of a checkpoint is
SQLite alone committing the same row with the same promise (WAL, synchronous=FULL). The second step of an interrupted
workflow ran when the daemon was killed; the workflow is back when that step starts again.
"""

from __future__ import annotations

import base64
import sqlite3
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import TRUE, RawConnection, Scale, daemon, request, result, workshop
from benchmarks.submits import RawStore
from benchmarks.table import Row
from stoker.store.checkpoints import COLUMNS
from tests.support.facts import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.daemon import DaemonProcess

STEPS = 10
LARGE = 5  # of the jobs of a scale: 10,000 steps, the most that a workflow may have
PAUSE_S = 0.005
SLEEP = {"command": "/bin/sleep", "args": ["600"], "on_orphan": "requeue", "grace_ms": 1_000}
INTERRUPTED = {"a": TRUE, "b": {**SLEEP, "needs": ["a"]}, "c": {**TRUE, "needs": ["b"]}}
KILOBYTE = b"0123456789abcdef" * 64


def rows(scale: Scale) -> Iterator[Row]:
    yield _overhead(scale)
    yield from _large(scale)
    yield _checkpoint(scale)
    yield _rebuild(scale)
    yield _resume(scale)


def _flow(steps: dict[str, Any]) -> dict[str, Any]:
    return {"flow": {"name": "bench", "steps": steps}}


def _chain(steps: int, spec: dict[str, Any] = TRUE) -> dict[str, Any]:
    """A workflow in which each step needs the one before."""
    return _flow({f"s{n}": {**spec, "needs": [f"s{n - 1}"]} if n else spec for n in range(steps)})


def _submit(connection: RawConnection, flows: Sequence[dict[str, Any]]) -> list[dict[str, int]]:
    """The jobs of each workflow, by step."""
    lines = [request("workflow.submit", each) for each in flows]
    return [result(answer)["steps"] for answer in connection.pipeline(lines, window=20)]


def _overhead(scale: Scale) -> Row:
    """The cost of a step, as a multiple of that of a plain job."""
    flows = scale.jobs // 2
    plain, steps = [], []
    with daemon() as process, RawConnection(process.socket) as connection:
        connection.wait(connection.submit(scale.jobs // 10, TRUE))
        for _ in range(max(2, scale.rounds // 2)):
            begin = time.perf_counter()
            connection.wait(connection.submit(flows * STEPS, TRUE))
            plain.append((time.perf_counter() - begin) / flows / STEPS)
            begin = time.perf_counter()
            made = _submit(connection, [_chain(STEPS)] * flows)
            connection.wait([jobs[f"s{STEPS - 1}"] for jobs in made])
            steps.append((time.perf_counter() - begin) / flows / STEPS)
    figures = f"{1 / statistics.median(steps):,.0f} steps/s; {1 / statistics.median(plain):,.0f} plain jobs/s"
    ratios = [step / job for step, job in zip(steps, plain, strict=True)]
    return Row(f"{flows:,} workflows of {STEPS} steps at once: a step against a plain job", ratios, 1.15, 1.1, figures,
               unit="x")  # fmt: skip


def _large(scale: Scale) -> Iterator[Row]:
    """One submit of many steps, and what other clients notice of it: no turn is needed for their question."""
    steps = LARGE * scale.jobs
    line = request("workflow.submit", _layers(steps))
    took: list[float] = []
    waited: list[float] = []
    with daemon() as process, RawConnection(process.socket) as connection, RawConnection(process.socket) as other:
        connection.call("queue.pause", name="default")
        for _ in range(scale.rounds):
            with ThreadPoolExecutor(1) as thread:
                submit = thread.submit(_timed_ms, connection, line)
                answers = [_timed_ms(other, request("queue.list", {}))]
                while not submit.done():
                    time.sleep(PAUSE_S)
                    answers.append(_timed_ms(other, request("queue.list", {})))
            took.append(submit.result() / 1e3)
            waited.append(max(answers))
    figures, asked = f"{steps / statistics.median(took):,.0f} steps/s", f"asked every {PAUSE_S * 1e3:.0f} ms"
    yield Row(f"submit of one workflow of {steps:,} steps", took, 2, 1, figures, unit=" s")
    yield Row("the longest answer to another client meanwhile", waited, 100, 50, asked, unit=" ms")


def _layers(steps: int) -> dict[str, Any]:
    """A workflow in which each step but the first hundred needs two of the layer before."""
    needs = {n: [f"s{n // 100 * 100 - k}" for k in (1, 2)] for n in range(100, steps)}
    return _flow({f"s{n}": {**TRUE, "args": [str(n)], "needs": needs.get(n, [])} for n in range(steps)})


def _checkpoint(scale: Scale) -> Row:
    """One save after the other, from inside one job."""
    many = scale.jobs // 5
    ours: list[float] = []
    theirs: list[float] = []
    with daemon() as process, workshop() as folder, RawConnection(process.socket) as connection:
        token = _token(connection, Path(folder) / "token")
        line = request("checkpoint.save", {"token": token, "data": base64.b64encode(KILOBYTE).decode()})
        result(connection.ask(line))
        with closing(RawStore(Path(folder) / "raw.db")) as raw:
            row = _row(process)
            for _ in range(scale.rounds):
                theirs.append(_median_s(lambda seq: _commit(raw.connection, row, seq), many, len(theirs)))
                ours.append(_median_s(lambda _: connection.ask(line), many, len(ours)))
    figures = f"{statistics.median(ours) * 1e3:.2f} ms; bare commit {statistics.median(theirs) * 1e3:.2f} ms"
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Row("checkpoint of 1 KB, one at a time, against one bare commit", ratios, 2, 1.5, figures, unit="x")


def _token(connection: RawConnection, path: Path) -> str:
    script = f"echo $STOKER_TOKEN > {path}.part; mv {path}.part {path}; exec sleep 600"
    connection.call("job.submit", command="/bin/sh", args=["-c", script])
    until(path.exists, why="the token of the job")
    return path.read_text().strip()


def _row(process: DaemonProcess) -> tuple[Any, ...]:
    """The row that one save leaves, without id and seq."""
    with closing(sqlite3.connect(f"file:{process.state_dir}/stoker.db?mode=ro", uri=True)) as reader:
        found = reader.execute(f"SELECT {COLUMNS} FROM checkpoints WHERE kind = 'progress'").fetchone()
    return tuple(found)


def _commit(connection: sqlite3.Connection, row: tuple[Any, ...], seq: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        f"INSERT INTO checkpoints ({COLUMNS}) VALUES ({','.join('?' * len(row))})", (None, row[1], seq, *row[3:])
    )
    connection.execute("COMMIT")


def _median_s(action: Callable[[int], object], times: int, earlier: int) -> float:
    found = []
    for number in range(times):
        begin = time.perf_counter()
        action(earlier * times + number + 1)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def _rebuild(scale: Scale) -> Row:
    """At the checkpoint that has the most to be laid over: the last before the chain is consolidated."""
    with daemon() as process, RawConnection(process.socket) as connection:
        (made,) = _submit(connection, [_chain(60)])
        connection.wait([made["s59"]])
        links = connection.call("checkpoint.list", workflow=1, limit=1000)["checkpoints"][::-1]
        second = [place for place, link in enumerate(links) if link["kind"] == "context"][1]
        laid = sum(link["kind"] == "transition" for link in links[:second])
        line = request("checkpoint.get", {"id": links[second - 1]["id"], "context": True})
        rounds = [_p90([_timed_ms(connection, line) for _ in range(100)]) for _ in range(scale.rounds)]
    figures = f"{laid} transitions over a whole context of 60 steps"
    return Row("context rebuilt along a chain of 100, p90", rounds, 50, 10, figures, unit=" ms")


def _timed_ms(connection: RawConnection, line: bytes) -> float:
    begin = time.perf_counter()
    result(connection.ask(line))
    return (time.perf_counter() - begin) * 1e3


def _resume(scale: Scale) -> Row:
    flows = scale.jobs // 2
    with daemon(max_running=flows) as process:
        with RawConnection(process.socket) as connection:
            made = _submit(connection, [_flow(INTERRUPTED)] * flows)
            until(lambda: _running(connection) == flows, timeout_s=120, why="the second step of every workflow")
            launcher = connection.call("system.status")["launchers"][-1]["pid"]
            until(lambda: len(_children(launcher)) == flows, timeout_s=120, why="a worker for each of them")
        process.kill9()
        begin = time.time()
        process.start(timeout_s=120)
        ready_s = time.time() - begin
        second = {jobs["b"] for jobs in made}
        back = until(lambda: _back(process, begin, second), timeout_s=120, why="every workflow to go on")
        waited = [at / 1e3 - begin for at in back]
    figures = f"the last after {max(waited):.2f} s, READY after {ready_s:.2f} s"
    return Row(f"{flows:,} interrupted workflows: from start to their next step, p90", [_p90(waited)], 5, 2.5, figures,
               unit=" s")  # fmt: skip


def _running(connection: RawConnection) -> int:
    return int(sum(queue["running"] for queue in connection.call("system.status")["queues"]))


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _back(process: DaemonProcess, begin: float, jobs: set[int]) -> list[int]:
    """When each of these jobs was started again (UTC ms) since `begin`; empty until all of them were."""
    with closing(sqlite3.connect(f"file:{process.state_dir}/stoker.db?mode=ro", uri=True)) as reader:
        found = dict(
            reader.execute(
                "SELECT job_id, at FROM changes WHERE at >= ? AND cause = 'dispatched' ORDER BY seq DESC",
                (begin * 1e3,),
            ).fetchall()
        )
    return [found[job] for job in jobs] if jobs <= found.keys() else []


def _p90(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10)[-1]
