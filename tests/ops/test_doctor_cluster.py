"""The checks of a cluster by the doctor: its commands, the shared directory and the clocks of its nodes."""

from __future__ import annotations

import json
import os
import resource
import time
from typing import TYPE_CHECKING

import pytest

from stoker.cluster.shared_directory import SharedDirectory
from stoker.ops.doctor import cluster, cluster_probe
from stoker.ops.doctor.examination import Host, Symptom, examining
from stoker.store.directory import StateDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOUR_MS = 3_600_000


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    root = tmp_path / "shared"
    SharedDirectory(root, "0123").prepare()
    return root


@pytest.fixture
def symptoms(tmp_path: Path, shared: Path) -> Callable[[str], list[Symptom | str]]:
    """The symptoms that a check finds, on a host without any program."""
    settings = tmp_path / "stoker.toml"
    settings.write_text(f'[cluster]\ndirectory = "{shared}"\n[queues.hpc]\nbackend = "slurm"\n')
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    host = Host({"PATH": str(tmp_path)}, settings, tmp_path / "sock", ())

    def look(name: str) -> list[Symptom | str]:
        (check,) = (check for check in (*cluster.CHECKS, *cluster_probe.PROBES) if check.name == name)
        with examining(StateDirectory(state), host, lambda *_: None) as examination:
            return list(check.find(examination))

    return look


@pytest.fixture
def found(symptoms: Callable[[str], list[Symptom | str]]) -> Callable[[str], list[str]]:
    """The findings alone."""
    return lambda name: [one if isinstance(one, str) else one.message for one in symptoms(name)]


def test_commands_when_they_are_not_installed_then_each_is_named(found: Callable[[str], list[str]]) -> None:
    names = ("sbatch", "squeue", "scancel")

    assert found("commands of Slurm") == [f"{name} is not installed" for name in names]


def test_command_when_it_cannot_be_run_then_its_words_are_shown(
    found: Callable[[str], list[str]], tmp_path: Path
) -> None:
    for name in ("squeue", "scancel"):
        (tmp_path / name).symlink_to("/bin/true")
    (tmp_path / "sbatch").symlink_to("/bin/false")

    assert found("commands of Slurm") == ["sbatch --version: exit status 1"]


def test_shared_directory_when_others_can_enter_it_then_that_is_found(
    found: Callable[[str], list[str]], shared: Path
) -> None:
    assert found("shared directory") == []

    shared.chmod(0o755)

    (symptom,) = found("shared directory")
    assert symptom.startswith(f"others can enter {shared} (mode 755): they can read logs, and run jobs")


def test_clocks_when_a_node_is_an_hour_behind_then_it_is_named(found: Callable[[str], list[str]], shared: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    for run_id, host, at_ms in (("1.1.aa", "fine", now_ms), ("2.1.aa", "late", now_ms - HOUR_MS - 30_000)):
        claim = {"by": "node", "host": host, "at_ms": at_ms}
        (shared / "claims" / run_id).write_text(json.dumps(claim))
    (shared / "claims" / "3.1.aa").write_text('{"by":"daemon"}')

    (message,) = found("clocks of nodes")

    assert message.startswith("the clock of node late is 1h")
    assert message.endswith(f"behind that of {shared}")


def test_files_when_those_of_an_ended_run_were_left_then_they_are_named(
    found: Callable[[str], list[str]], shared: Path
) -> None:
    for name in ("1.1.aa", "2.1.aa"):
        (shared / "left" / name).touch()
    (shared / "runs" / "1.1.aa").mkdir()  # the other one is gone by now

    (message,) = found("files of ended runs")

    assert message == f"{shared}/runs/1.1.aa is of a run that has ended, and could not be removed"


def test_probe_when_no_queue_is_of_a_cluster_then_nothing_is_started(
    symptoms: Callable[[str], list[Symptom | str]], tmp_path: Path
) -> None:
    (tmp_path / "stoker.toml").write_text("")

    (symptom,) = symptoms("probe jobs")

    assert isinstance(symptom, Symptom)
    assert symptom.message == "no queue of the settings hands its jobs to a cluster, so there is nothing to probe"
    assert "--config FILE" in (symptom.remedy or "")


def test_probe_when_the_shared_directory_is_not_there_then_that_is_found(
    found: Callable[[str], list[str]], shared: Path
) -> None:
    shared.rename(shared.with_name("elsewhere"))

    assert found("probe jobs") == [f"{shared}: No such file or directory"]


def test_probe_when_its_files_cannot_be_written_then_none_is_left(
    found: Callable[[str], list[str]], shared: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        messages = found("probe jobs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert messages == [f"{shared}: File too large"]
    assert "probes" not in {path.name for path in shared.iterdir()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_probe_when_another_user_asks_for_it_then_it_is_not_made(
    found: Callable[[str], list[str]], shared: Path
) -> None:
    os.chown(shared, 1, 1)

    (message,) = found("probe jobs")

    assert message.startswith(f"{shared} belongs to ")
    assert "probes" not in {path.name for path in shared.iterdir()}
