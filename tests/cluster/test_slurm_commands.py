"""The commands of Slurm: the meaning of their ends, and the variables that they get.

Owns programs in their place, which end in ways that a real Slurm has only now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.cluster.engine import EngineAway, EngineFull, EngineRefused
from stoker.cluster.slurm import Slurm
from stoker.core.cluster import ClusterOptions

if TYPE_CHECKING:
    from pathlib import Path


def in_place_of_sbatch(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "sbatch"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def submitted(directory: Path) -> int:
    return Slurm().submit("1.1.aa", "one", directory / "script", [], directory / "errors", ClusterOptions())


def test_sbatch_when_it_is_killed_then_it_may_have_submitted_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place_of_sbatch(tmp_path, "kill -9 $$", monkeypatch)

    with pytest.raises(EngineAway, match="sbatch was ended by signal 9"):
        submitted(tmp_path)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("AssocMaxSubmitJobLimit", EngineFull),
        ("AssocGrpSubmitJobsLimit", EngineFull),
        ("QOSMaxSubmitJobPerUserLimit", EngineFull),
        ("QOSMaxSubmitJobPerAccountLimit", EngineFull),
        ("QOSGrpSubmitJobsLimit", EngineFull),
        ("AssocMaxWallDurationPerJobLimit", EngineRefused),
    ],
)
def test_sbatch_when_a_limit_is_reached_then_only_one_of_submits_is_passing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception]
) -> None:
    in_place_of_sbatch(tmp_path, f'printf "sbatch: error: {said}\\nsbatch: error: failed\\n" >&2; exit 1', monkeypatch)

    with pytest.raises(EngineRefused, match=said) as raised:
        submitted(tmp_path)

    assert type(raised.value) is error


def test_sbatch_when_the_daemon_has_variables_of_a_job_then_it_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_ARRAY_TASK_ID", "SBATCH_WAIT"):
        monkeypatch.setenv(name, "1")
    in_place_of_sbatch(tmp_path, f"env > {tmp_path}/environ; echo 7", monkeypatch)

    assert submitted(tmp_path) == 7
    names = {line.partition("=")[0] for line in (tmp_path / "environ").read_text().splitlines()}
    assert {name for name in names if name.startswith(("SLURM_", "SBATCH_"))} == {"SLURM_CONF", "SLURM_JWT"}
