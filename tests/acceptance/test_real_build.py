"""Real work, interrupted again and again: a C library built as a workflow, and a long job that saves its progress.

Each run of a worker writes a line into a ledger, which shows from outside what ran twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.c_build import TESTS, ends, fetch, graph
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import chain, flow_end, send
from tests.support.work import Gate, end_of, kill9, lines, submit

KILLS = 10
SETTINGS = "[daemon]\nmax_running = 2\n[cpu]\nthrottle_threshold = 100\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch("zlib", tmp_path_factory.mktemp("zlib"))


def test_build_when_the_daemon_is_killed_ten_times_then_no_step_is_built_again(
    daemon: DaemonProcess, source: Path, tmp_path: Path
) -> None:
    ledger = daemon.home / "ledger"
    with daemon.client() as client:
        answer = send(client, graph(source, tmp_path, ledger))

    for kill in range(KILLS):
        until(lambda kill=kill: ends(ledger) > 2 * kill, why="two steps more")  # type: ignore[misc]
        daemon.kill_and_start()

    with daemon.client() as client:
        assert flow_end(client, answer["id"], timeout_s=120) == "succeeded"
        attempts = {name: client.history(job)["attempts"] for name, job in answer["steps"].items()}
        kinds = [link["kind"] for link in chain(client, workflow=answer["id"])]
    for name, tried in attempts.items():
        assert [attempt["exit_code"] for attempt in tried].index(0) == len(tried) - 1, name
    begun = [line.split()[1] for line in lines(ledger) if line.startswith("START")]
    assert len(begun) == len(set(begun))
    assert {attempt["run_id"] for tried in attempts.values() for attempt in tried} >= set(begun)
    assert kinds.count("step") == sum(map(len, attempts.values()))
    assert all((tmp_path / program).stat().st_mode & 0o111 for program in TESTS)


# --- one long job -------------------------------------------------------------------------------------------

LONG = """
import json, sys
import stoker
ledger, gate, last = open(sys.argv[1], "a", buffering=1), sys.argv[2], int(sys.argv[3])
state = json.loads(stoker.checkpoint.load() or '{"n": 0, "x": 1}')
print("BEGIN", state["n"], file=ledger)
saves = 0
while state["n"] < last:
    state["n"] += 1
    state["x"] = (state["x"] * 6364136223846793005 + state["n"]) % 2**64
    if state["n"] % 100 == 0:
        stoker.checkpoint.save(state, status=f"{state['n']} of {last}")
        print("SAVED", state["n"], file=ledger)
        saves += 1
        if saves == 3:
            open(gate).read()
print("RESULT", state["x"], file=ledger)
"""


def uninterrupted(last: int) -> int:
    x = 1
    for n in range(1, last + 1):
        x = (x * 6364136223846793005 + n) % 2**64
    return x


def test_long_job_when_it_or_the_daemon_is_killed_ten_times_then_its_result_is_right(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    ledger, last = tmp_path / "ledger", 100 * (3 * KILLS + 10)
    spec = {"command": sys.executable, "args": ["-c", LONG, str(ledger), str(gate.path), str(last)]}
    promises = {"max_attempts": KILLS + 1, "base_delay_ms": 1, "on_orphan": "requeue", "max_orphanings": KILLS + 1}
    with daemon.client() as client:
        job = submit(client, {**spec, **promises, "grace_ms": 500})

    for kill in range(KILLS):
        until(lambda kill=kill: _saved(ledger) >= 3 * (kill + 1), why="three saves more")  # type: ignore[misc]
        if kill % 2:
            daemon.kill_and_start()
        else:
            with daemon.client() as client:
                kill9(until(lambda: client.get(job)["pid"], why="its pid"))
    gate.open()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert len(client.history(job)["attempts"]) == KILLS + 1
        assert client.get(job)["orphanings"] == KILLS // 2
    entries = [line.split() for line in lines(ledger)]
    assert ["RESULT", str(uninterrupted(last))] == entries[-1]
    begun = [int(words[1]) for words in entries if words[0] == "BEGIN"]
    assert begun == [300 * number for number in range(KILLS + 1)]  # each where the last save was: nothing done twice
    assert [int(words[1]) for words in entries if words[0] == "SAVED"] == list(range(100, last + 1, 100))


def _saved(ledger: Path) -> int:
    return sum(line.startswith("SAVED") for line in lines(ledger))
