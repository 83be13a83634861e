"""Slurm takes no more jobs of a user: the runs wait, and none fails.

Owns a Slurm, and an sbatch that refuses in Slurm's words as long as a file is there: a real limit needs an account.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from stoker.core.job.events import Ended
from tests.executors.test_conformance import ClusterBench
from tests.support.facts import until_async
from tests.support.instance import LauncherHost
from tests.support.slurm import Slurm, why_not

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

SBATCH = """#!/bin/sh
[ -e {full} ] || exec {sbatch} "$@"
echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size" \
"and/or time limits)" >&2
exit 1
"""


@pytest.fixture
async def host() -> AsyncIterator[LauncherHost]:
    one = LauncherHost()
    yield one
    await one.end()


async def test_run_when_slurm_takes_no_more_of_its_user_then_it_waits_for_room(
    host: LauncherHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    program = tmp_path / "sbatch"
    program.write_text(SBATCH.format(full=full, sbatch=shutil.which("sbatch")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Slurm() as slurm:
        monkeypatch.setenv("SLURM_CONF", slurm.environ["SLURM_CONF"])
        bench = ClusterBench(host, slurm)
        await bench.begin_all()
        full.touch()
        kept, stopped = bench.begin("fail"), bench.begin("ok")
        shown = await until_async(lambda: dict(bench.cluster.full), why="a full queue")
        bench.cluster.stop(stopped, 100)
        await bench.report(stopped, Ended)

        full.unlink()

        assert (await bench.report(kept, Ended)).outcome.exit_code == 1
        assert [queue.why for queue in shown.values()] == ["sbatch: AssocMaxSubmitJobLimit"]
        assert bench.cluster.full == {}
        await bench.end()
