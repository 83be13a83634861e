"""The probe against the real /proc, and against directories that say what a kernel without PSI says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stoker.files import free_bytes
from stoker.host import probe as probe_module
from stoker.host.probe import SHORTEST_S, Probe
from tests.support.facts import until

BOTH = "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=3.25 avg60=9.00 avg300=0.00 total=1\n"


def busy_until(deadline: float) -> None:
    while time.monotonic() < deadline:
        pass


def test_sample_when_taken_at_once_then_cpu_is_unknown_and_memory_is_not() -> None:
    sample = Probe().sample()
    assert sample.cpu is None
    assert sample.memory is not None
    assert 0 < sample.memory <= 100


def test_sample_when_this_process_burns_a_cpu_then_it_shows() -> None:
    probe = Probe()
    busy_until(time.monotonic() + 6 * SHORTEST_S)
    cpu = probe.sample().cpu
    assert cpu is not None
    assert 100 / (2 * (os.cpu_count() or 1)) < cpu <= 100


def test_sample_when_taken_again_too_soon_then_cpu_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe()
    busy_until(time.monotonic() + 2 * SHORTEST_S)
    first = probe.sample().cpu
    assert first is not None
    monkeypatch.setattr(probe_module, "SHORTEST_S", 3_600)  # a busy machine may need longer for two samples
    assert probe.sample().cpu == first


def test_sample_when_the_kernel_tells_its_stalls_then_they_are_read(tmp_path: Path) -> None:
    for name in ("cpu", "io", "memory"):
        (tmp_path / name).write_text(BOTH)
    sample = Probe(tmp_path).sample()
    assert (sample.cpu_some, sample.io_full, sample.memory_full) == (12.5, 3.25, 3.25)


def test_sample_when_the_kernel_does_not_tell_then_they_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "io").write_text("some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n")
    sample = Probe(tmp_path).sample()
    assert (sample.cpu_some, sample.io_full, sample.memory_full) == (None, None, None)


def test_free_bytes_when_asked_then_it_is_what_the_file_system_says(tmp_path: Path) -> None:
    def said() -> int:
        answer = os.statvfs(tmp_path)
        return answer.f_bavail * answer.f_frsize

    until(lambda: free_bytes(tmp_path) == said(), why="the same answer, while others write to the disk")
    with pytest.raises(FileNotFoundError):
        free_bytes(tmp_path / "gone")
