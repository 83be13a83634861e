"""Slurm's accounts: the ends of runs that left no record, and that the controller has forgotten.

Owns a Slurm with slurmdbd and MariaDB.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.cluster.engine import EngineRefused
from stoker.cluster.shared_directory import SharedDirectory
from stoker.cluster.slurm import Slurm as SlurmCommands
from stoker.core import cluster as decisions
from stoker.core.cluster import EngineJob, Phase
from stoker.core.job.events import Began, Ended
from stoker.core.job.model import OutcomeKind
from stoker.executors import cluster_run
from tests.executors.test_conformance import ClusterBench
from tests.support.facts import until, until_async
from tests.support.instance import LauncherHost
from tests.support.slurm import Slurm, why_not

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NO_ACCOUNTS = why_not(accounts=True)
pytestmark = pytest.mark.skipif(NO_ACCOUNTS is not None, reason=str(NO_ACCOUNTS))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with Slurm(accounts=True) as one:
        yield one


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    for name, value in cluster.environ.items():
        monkeypatch.setenv(name, value)
    return cluster


@pytest.fixture
async def host() -> AsyncIterator[LauncherHost]:
    one = LauncherHost()
    yield one
    await one.end()


def sent(slurm: Slurm, name: str, script: str) -> int:
    return int(slurm.run("sbatch", "--parsable", f"--job-name={name}", "--output=/dev/null", "--wrap", script))


def kill_on_node(shared: SharedDirectory, run_id: str) -> None:
    """Kill the parent of a run first, so that it records nothing, then the run, unless Slurm was faster."""
    parent = shared.claim(run_id).pid
    assert parent is not None
    workers = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(parent, signal.SIGKILL)
    for pid in map(int, workers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_accounts_when_a_job_is_over_then_its_word_is_known(slurm: Slurm) -> None:
    failed, other, goes_on = (
        sent(slurm, name, script)
        for name, script in (("stoker-1", "exit 3"), ("mi|n|e\nx", "exit 3"), ("stoker-3", "sleep 600"))
    )
    runs = {failed: "1.1.aa", other: "2.1.aa", goes_on: "3.1.aa", 99_999: "4.1.aa"}
    expected = EngineJob(failed, "1.1.aa", Phase.OVER, "FAILED", "by its accounts")
    until(lambda: SlurmCommands().accounts(runs) == [expected], why="the end of a job in the accounts")

    slurm.run("scancel", str(goes_on))

    until(lambda: len(SlurmCommands().accounts(runs)) == 2, why="the end of a job that was cancelled")
    assert {job.state for job in SlurmCommands().accounts(runs)} == {"FAILED", "CANCELLED"}


def test_accounts_when_there_are_none_then_they_refuse(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = tmp_path / "slurm.conf"
    kept = (line for line in slurm.settings.read_text().split("\n") if not line.startswith("AccountingStorage"))
    without.write_text("\n".join(kept))
    monkeypatch.setenv("SLURM_CONF", str(without))

    with pytest.raises(EngineRefused, match="accounting"):
        SlurmCommands().accounts({1: "1.1.aa"})


async def test_run_when_the_controller_has_forgotten_it_then_accounts_tell_its_end(
    slurm: Slurm, host: LauncherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ClusterBench(host, slurm)
    await first.begin_all()
    run_id = first.begin("stay")
    await first.report(run_id, Began)
    number = until(lambda: slurm.run("squeue", "--noheader", "--states=RUNNING", "--name=stoker-1", "--format=%i"))
    await first.cluster.close()
    kill_on_node(SharedDirectory(host.home / "shared", host.instance), run_id)
    runs = {int(number): run_id}
    until(lambda: SlurmCommands().accounts(runs), why="the end of the run in the accounts")
    slurm.stop_controller()
    shutil.rmtree(slurm.root / "state")
    (slurm.root / "state").mkdir()
    slurm.start("slurmctld")
    until(lambda: "is UP" in slurm.run("scontrol", "ping", check=False), why="a controller")
    assert SlurmCommands().jobs() == {}
    for module in (decisions, cluster_run):
        monkeypatch.setattr(module, "RECORD_LATE_MS", 500)

    later = ClusterBench(host, slurm)
    later.cluster.begin([run_id])

    (end,) = await until_async(lambda: later.about(run_id, Ended), why="the end of the run")
    await later.cluster.close()
    words = "Slurm: FAILED (by its accounts); its node left no record of the end"
    assert (end.outcome.kind, end.outcome.error) == (OutcomeKind.UNSEEN, words)
