"""The sections [cpu], [memory], [psi] and [throttle]: when a busy host holds queues back, and how.

As in settings.py the annotations are evaluated (no `from __future__`).
"""

from typing import Annotated

from msgspec import Meta

from stoker.config.section import Section, between, says
from stoker.core.requests import MAX_DURATION_MS


class CpuSettings(Section, frozen=True):
    """When a busy CPU pauses queues of class low."""

    throttle_threshold: Annotated[
        float, between(0, 100, "percent above which queues of class low pause; 100 = never")
    ] = 90.0
    resume_threshold: Annotated[float, between(0, 100, "percent below which they start jobs again")] = 80.0
    sample_ms: Annotated[int, between(100, 60_000, "how often CPU, memory and pressure are sampled")] = 1_000
    smoothing: Annotated[
        float, Meta(gt=0, le=1, description="weight of the newest sample of CPU and memory; 1 = no smoothing")
    ] = 0.4


class MemorySettings(Section, frozen=True):
    """When scarce memory pauses queues of class low."""

    throttle_threshold: Annotated[
        float, between(0, 100, "percent in use above which queues of class low pause; 100 = never")
    ] = 95.0
    resume_threshold: Annotated[float, between(0, 100, "percent below which they start jobs again")] = 90.0


class PsiSettings(Section, frozen=True):
    """When PSI, the kernel's measure of stalls (/proc/pressure, averages of 10 s), pauses queues of class low."""

    cpu_some: Annotated[float, between(0, 100, "percent of time in which some task waits for a CPU; 0 = off")] = 0.0
    io_full: Annotated[float, between(0, 100, "percent of time in which all tasks wait for I/O; 0 = off")] = 0.0
    memory_full: Annotated[float, between(0, 100, "percent of time in which all tasks wait for memory; 0 = off")] = 0.0


class ThrottleSettings(Section, frozen=True):
    """The effects of throttling on jobs that already run, and on queues with a floor (`min_running`)."""

    freeze_running: Annotated[bool, says("also freeze running jobs of class low; needs a delegated cgroup")] = False
    step_ms: Annotated[
        int, between(0, MAX_DURATION_MS, "shortest time between two changes of the limit of a queue with a floor")
    ] = 5_000
