"""The program on a node of a cluster, run as a batch script would: its claim, its stops, its record of the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cluster.shared_directory import SharedDirectory
from stoker.core.cluster import ClaimedBy
from tests.support.facts import until
from tests.support.work import Gate, alive, lines

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = "7.1.00000000000000aa"
OF_ENGINE = {"SLURM_JOB_ID": "1871", "SLURM_JWT": "of the daemon"}


class Node:
    """A directory with one order for a shell, which appends its pid to `pids`, waits at a gate, and fails if there is
    a file `fails` then.
    """

    def __init__(self, home: Path) -> None:
        self.shared = SharedDirectory(home / "shared", "0123")
        self.shared.prepare()
        self.gate = Gate(home / "gate")
        self.pids = home / "pids"
        self.fails = home / "fails"
        script = f"echo $$ >> {self.pids}; read _ < {self.gate.path}; test ! -e {self.fails}"
        order: dict[str, Any] = {"op": "launch", "epoch": 1, "run_id": RUN, "argv": ["/bin/sh", "-c", script]}
        order |= {"env": {"PATH": "/usr/bin:/bin", "STOKER_INSTANCE": "0123", "STOKER_RUN_ID": RUN}}
        order |= {"working_dir": "/", "log": str(self.shared.path(RUN, "log")), "max_log_bytes": 10_000}
        order |= {"umask": 0o022, "stdin": None, "setup": None, "grace_ms": 60_000}
        self.shared.put_order(RUN, json.dumps(order).encode(), {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        python, code, *rest = self.shared.arguments(sys.executable, RUN)  # without the shell, which unblocks signals
        command = [python, "-I", "-S", f"{code}/launcher/__main__.py", "node", *rest]
        self._process = subprocess.Popen(command, env=OF_ENGINE, stdin=subprocess.DEVNULL)

    def worker(self) -> int:
        return int(until(lambda: lines(self.pids), why="the worker")[0])

    @property
    def record(self) -> Path:
        return self.shared.root / "ends" / RUN

    def end(self) -> dict[str, Any]:
        self.process.wait(60)
        end: dict[str, Any] = json.loads(self.record.read_text())
        return end


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    one = Node(tmp_path)
    yield one
    one.gate.open()
    if one.process.poll() is None:
        one.process.kill()
        one.process.wait()


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_job_when_the_engine_knows_the_daemon_by_a_token_then_it_does_not_get_that(node: Node) -> None:
    node.start()

    names = Path(f"/proc/{node.worker()}/environ").read_bytes()

    assert (b"SLURM_JOB_ID=1871" in names, b"SLURM_JWT" in names) == (True, False)


@pytest.mark.parametrize("is_ours", [True, False])
def test_stop_when_the_worker_dies_with_it_then_the_record_tells_ours_from_others(node: Node, *, is_ours: bool) -> None:
    node.start()
    worker = node.worker()
    if is_ours:
        node.shared.put_stop(RUN, 1_000)

    node.process.send_signal(signal.SIGSTOP)  # both signals wait for it then
    os.kill(worker, signal.SIGTERM)
    until(lambda: is_zombie(worker), why="the death of the worker")
    node.process.send_signal(signal.SIGTERM)
    node.process.send_signal(signal.SIGCONT)

    end = node.end()
    assert (end["signal"], end["shutdown"]) == (signal.SIGTERM, not is_ours)
    assert node.shared.claim(RUN).by is ClaimedBy.NODE


def test_failure_when_the_engine_ends_the_job_with_it_then_it_is_cut_short(node: Node) -> None:
    node.start()
    worker = node.worker()
    node.fails.touch()

    node.process.send_signal(signal.SIGSTOP)  # both wait for it then
    node.gate.open()
    until(lambda: is_zombie(worker), why="the failure of the worker")
    node.process.send_signal(signal.SIGTERM)
    node.process.send_signal(signal.SIGCONT)

    assert (node.end()["exit_code"], node.end()["shutdown"]) == (1, True)


def test_failure_when_no_signal_follows_then_it_is_recorded_a_second_later(node: Node) -> None:
    node.start()
    node.worker()
    node.fails.touch()
    node.gate.open()

    end = node.end()
    assert (end["exit_code"], end["shutdown"]) == (1, False)
    assert node.record.stat().st_mtime * 1_000 - end["at_ms"] > 900


def test_stop_when_it_came_before_the_start_of_the_worker_then_it_is_stopped(node: Node) -> None:
    node.shared.put_stop(RUN, 1_000)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # the program inherits it
    try:
        node.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    node.process.send_signal(signal.SIGTERM)

    end = node.end()

    assert (end["stopped"], end["shutdown"]) == (True, False)
    assert not any(alive(int(pid)) for pid in lines(node.pids))
