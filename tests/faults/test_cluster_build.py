"""A C library built by a workflow, half of its steps on a real Slurm, while the daemon and Slurm are killed.

Owns the faults and their order, which the seed draws: `make torture-cluster` has more of them. Slurm's controller is
restarted, not killed: a killed one forgets jobs and kills their runs, which are then held until a person decides. The
build must give the binaries of one without Stoker.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.c_build import binaries, ends, fetch, graph
from tests.support.cluster_faults import QUEUE, SETTINGS
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow_end, send
from tests.support.slurm import Slurm, why_not
from tests.support.work import lines

if TYPE_CHECKING:
    from pathlib import Path

AT_LENGTH = "STOKER_CLUSTER_JOBS" in os.environ
FAULTS = ["daemon"] * 10 + ["controller"] * 2 + ["node daemon"] if AT_LENGTH else ["daemon"] * 3 + ["controller"]
STEP_S = 240  # a job that finds no slurmd begins two minutes later

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def strike(fault: str, daemon: DaemonProcess, slurm: Slurm) -> None:
    match fault:
        case "daemon":
            daemon.kill_and_start()
        case "controller":
            slurm.stop_controller()
            slurm.start("slurmctld")
        case "node daemon":
            slurm.kill("slurmd")
            slurm.start("slurmd")


def build(steps: dict[str, dict[str, Any]], out: Path) -> dict[str, str]:
    """Run the commands of the steps one after the other; give the digests of the binaries."""
    out.mkdir()
    for step in steps.values():
        subprocess.run([step["command"], *step["args"]], cwd=out, check=True, capture_output=True)
    return binaries(out)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_build_when_slurm_and_the_daemon_are_killed_then_its_binaries_are_right(seed: int, tmp_path: Path) -> None:
    (tmp_path / "zlib").mkdir()
    source = fetch("zlib", tmp_path / "zlib")
    expected = build(graph(source, tmp_path, tmp_path / "other-ledger")["steps"], tmp_path / "expected")
    ledger, out = tmp_path / "ledger", tmp_path / "out"
    out.mkdir()
    flow = graph(source, out, ledger)
    there = list(flow["steps"])[::2]
    for name in there:
        flow["steps"][name]["queue"] = QUEUE
    faults = random.Random(f"build {seed}").sample(FAULTS, len(FAULTS))
    sys.stderr.write(f"\nSTOKER_SEED={seed} {faults}\n")

    with Slurm() as slurm:
        daemon = DaemonProcess(environ=slurm.environ)
        daemon.config.write_text(SETTINGS.format(home=daemon.home))
        with daemon:
            with daemon.client() as client:
                answer = send(client, flow)
            for number, fault in enumerate(faults):
                until(lambda number=number: ends(ledger) > number, STEP_S, why="one step more")  # type: ignore[misc]
                strike(fault, daemon, slurm)

            with daemon.client() as client:
                end = flow_end(client, answer["id"], timeout_s=300)
                attempts = {name: client.history(job)["attempts"] for name, job in answer["steps"].items()}

    assert end == "succeeded", [
        (one["run_id"], one["outcome"], one["error"]) for tried in attempts.values() for one in tried
    ]
    assert binaries(out) == expected
    for name, tried in attempts.items():
        assert [attempt["exit_code"] for attempt in tried].index(0) == len(tried) - 1, name
    begun = [line.split()[1] for line in lines(ledger) if line.startswith("START")]
    assert len(begun) == len(set(begun))
    assert {attempt["run_id"] for tried in attempts.values() for attempt in tried} >= set(begun)
    assert {name for name, tried in attempts.items() if tried[-1]["launcher"] == "cluster"} == set(there)
