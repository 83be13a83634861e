"""Every task and thread that a daemon at work starts has an owner who hears of its failure.

Owns the table of owners, and a programme that makes a real daemon start as many kinds of tasks as it can: jobs, needs,
workflows, checkpoints, streams, handlers, a launcher that dies, an orphan, a stuck launcher, a reload, a drain. A task
or thread that is started anywhere else fails the test. `tests/test_house.py` says the same of the source.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, step
from tests.support.torture import launchers
from tests.support.work import end_of, kill9, running, shell, submit, submit_running
from tests.test_house import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.work import Gate

# Each with the way in which a failure of its task is heard.
OWNERS = {
    "background/tasks.py:start",  # retried, or the end of the daemon
    "daemon.py:live", "daemon.py:_start", "daemon.py:_recover", "daemon.py:_until_done",  # awaited by the daemon's life
    "rpc/calls.py:_future_of", "rpc/calls.py:begin",  # the client is answered with the error
    "service/status.py:_chunks", "process/capture.py:changed",  # awaited by a stream, which gets the error
    "executors/in_process.py:start",  # the outcome of the attempt
    "process/tree.py:_until_ended", "upkeep/drain.py:_until_empty",  # awaited by the task that started it
    "upkeep/health.py:look", "upkeep/health.py:_run",  # the error is the result of the check
    "process/evidence.py:ask_launchers", "service/workers.py:get",  # awaited there
    "rpc/server.py:stop", "upkeep/drain.py:_drain",  # awaited there
    "executors/without_launcher.py:end_without_launcher",  # awaited there
}  # fmt: skip
THREAD_OWNERS = {
    "host/threads.py:start_threads",  # a call that fails gives its error to the future that is awaited
    "host/threads.py:run_apart",
    "telemetry/log_writer.py:_start_thread",  # counts lines that are lost
    "telemetry/exporting.py:close",
    "store/database.py:_opened",  # aiosqlite: as a pool of one thread
}
EXPECTED = {  # what the programme must have met, else it proves little
    "background/tasks.py:start", "daemon.py:_start", "rpc/calls.py:_future_of", "rpc/calls.py:begin",
    "service/status.py:_chunks", "process/capture.py:changed", "executors/in_process.py:start",
    "process/tree.py:_until_ended", "upkeep/health.py:look", "host/threads.py:start_threads",
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
    """A daemon whose starts of tasks and threads are in the file `record` beside its socket."""
    (tmp_path / "naps.py").write_text(HANDLERS)
    settings = '[daemon]\nhandlers = ["naps"]\n[launcher]\nstuck_ms = 1000\n[cpu]\nsample_ms = 100\n'
    daemon = DaemonProcess(settings, {"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    daemon.environ["STOKER_DOOR"] = str(daemon.home / "record")
    programs = daemon.home / "bin"
    programs.mkdir()
    (programs / "stoker").symlink_to(daemon.programs / "stoker")
    (programs / "stokerd").write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.task_door "$@"\n')
    (programs / "stokerd").chmod(0o755)
    daemon.programs = programs
    with daemon:
        yield daemon


def starts(daemon: DaemonProcess, kind: str) -> Counter[str]:
    """Who started how many tasks or threads."""
    lines: list[dict[str, Any]] = list(map(json.loads, (daemon.home / "record").read_text().splitlines()))
    return Counter(line["started_by"] for line in lines if line["kind"] == kind)


def programme(daemon: DaemonProcess, gate: Gate) -> None:
    """A daemon's day."""
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
        environ = {**daemon.environ, "STOKER_SOCKET": str(daemon.socket)}
        following = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
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
