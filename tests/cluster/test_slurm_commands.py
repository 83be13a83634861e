"""The commands of Slurm when they do not come to their end: that is no answer of the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.cluster.engine import EngineAway
from stoker.cluster.slurm import Slurm
from stoker.core.cluster import ClusterOptions

if TYPE_CHECKING:
    from pathlib import Path


def test_sbatch_when_it_is_killed_then_it_may_have_submitted_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sbatch"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(EngineAway, match="sbatch was ended by signal 9"):
        Slurm().submit("1.1.aa", "one", tmp_path / "script", [], tmp_path / "errors", ClusterOptions())
