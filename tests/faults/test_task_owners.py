"""Every task and thread of a working daemon has an owner that notices its failure.

Owns the table of owners, and a programme that makes a real daemon start as many kinds of tasks as it can: jobs, needs,
workflows, checkpoints, streams, handlers, a launcher that dies, an orphan, a stuck launcher, a reload, a drain. A task
or thread that is started anywhere else fails the test. `tests/test_house.py` checks the same in the source.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, step
from tests.support.task_door import add_door, starts
from tests.support.torture import launchers
from tests.support.work import end_of, kill9, running, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.work import Gate

# The modules that start tasks, each with the way in which a failure of its task is noticed.
OWNERS = {
    "background/tasks.py",  # retried, or the end of the daemon
    "daemon.py",  # awaited by the daemon's life
    "rpc/calls.py",  # the client is answered with the error
    "service/logs.py", "process/attempt_logs.py",  # awaited by a stream, which gets the error
    "executors/in_process.py",  # the outcome of the attempt
    "process/stopping.py", "process/evidence.py", "service/workers.py",  # awaited there
    "executors/without_launcher.py", "upkeep/drain.py", "upkeep/health.py", "rpc/server.py",  # awaited there
}  # fmt: skip
THREAD_OWNERS = {
    "host/threads.py",  # a call that fails gives its error to the future that is awaited
    "telemetry/log_writer.py",  # counts lines that are lost
    "telemetry/otel_sdk.py",  # awaited there
    "store/database.py",  # aiosqlite: as a pool of one thread
    "process/hanging_reads.py",  # the thread that waits for it raises the error of a read
}
EXPECTED = {  # the tasks that the load must have started, else the test proves little
    "background/tasks.py", "rpc/calls.py", "service/logs.py", "process/attempt_logs.py",
    "executors/in_process.py", "process/stopping.py", "upkeep/health.py", "host/threads.py",
}  # fmt: skip
HANDLERS = """
import asyncio
import stoker
@stoker.handler("nap")
async def nap(call):
    await asyncio.sleep(0)
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon whose starts of tasks and threads are recorded."""
    (tmp_path / "naps.py").write_text(HANDLERS)
    settings = '[daemon]\nhandlers = ["naps"]\n[launcher]\nstuck_ms = 1000\n[cpu]\nsample_ms = 100\n'
    daemon = DaemonProcess(settings, {"PYTHONPATH": str(tmp_path)})
    add_door(daemon, record=True)
    with daemon:
        yield daemon


def programme(daemon: DaemonProcess, gate: Gate) -> None:
    """A load that makes the daemon start tasks of many kinds."""
    with daemon.client() as client:
        first = submit_running(client, gate.spec("exit 1"), survive=True)
        second = submit(client, shell("exit 0"), needs=[{"job": first, "on": "any"}])
        lost = submit_running(client, gate.spec(), on_orphan="requeue")
        napping = submit(client, {"command": "nap", "execution_mode": "in_process"})
        assert end_of(client, napping)[0] == "succeeded"
        assert flow_end(client, sent_flow(client, {"a": step("exit 0"), "b": step("exit 1", "a")})) == "failed"
        client.call("job.submit", shell(":", env={"PADDING": "x" * 60_000}))
        (launcher,) = launchers(daemon.state_dir).values()
        kill9(launcher)
        until(lambda: client.get(lost)["attempts"] == 2, why="the second attempt")
        running(client, lost)
        stopped = submit_running(client, shell("exec sleep 600"))
        b"".join(client.logs(napping))
        for pid in launchers(daemon.state_dir).values():
            os.kill(pid, signal.SIGSTOP)
        client.cancel(stopped)
        until(lambda: daemon.events("launcher_stuck"), why="a stuck launcher")
        for pid in launchers(daemon.state_dir).values():
            os.kill(pid, signal.SIGCONT)
        assert end_of(client, stopped)[0] == "cancelled"
        command = [str(daemon.programs / "stoker"), "logs", "-f", str(lost)]
        following = subprocess.Popen(command, env=daemon.client_environ, stdout=subprocess.DEVNULL)
        gate.open()
        assert end_of(client, second)[0] == "succeeded"
        assert end_of(client, lost)[0] == "succeeded"
        following.wait()
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.events("config_reloaded"), why="a reload")
    assert daemon.stop() == 0


@pytest.mark.timeout(200)
def test_tasks_when_a_daemon_does_all_it_can_then_each_has_an_owner(recorded: DaemonProcess, gate: Gate) -> None:
    programme(recorded, gate)

    tasks, threads = starts(recorded, "task"), starts(recorded, "thread")
    sys.stderr.write(f"\n{dict(tasks)} {dict(threads)}\n")
    assert set(tasks) - OWNERS == set()
    assert set(threads) - THREAD_OWNERS == set()
    assert EXPECTED - set(tasks) - set(threads) == set()
