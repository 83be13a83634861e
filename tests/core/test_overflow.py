"""The overflow of a queue: how many jobs go, and the reasons for which one stays."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.job.model import ExecutionMode, Queue, QueueClass
from stoker.core.overflow import OverflowCause, OverflowRule, QueueLoadNow, Surplus, surplus, why_it_stays
from tests.support import jobs

PRESSURE, DEPTH = OverflowCause


def source(queued: int, **settings: Any) -> QueueLoadNow:
    return QueueLoadNow(Queue(name="bulk", **{"queue_class": QueueClass.LOW, **settings}), queued)


def target(queued: int = 0, running: int = 0, pending: int = 0, **settings: Any) -> QueueLoadNow:
    return QueueLoadNow(Queue(name="hpc", **settings), queued, running, pending)


@pytest.mark.parametrize(
    ("above", "here", "there", "throttled", "expected"),
    [
        (None, source(5), target(), True, Surplus(5, PRESSURE)),
        (None, source(5), target(), False, None),
        (None, source(0), target(), True, None),
        (None, source(5, queue_class=QueueClass.NORMAL), target(), True, None),
        (None, source(5, min_running=1), target(), True, None),
        (3, source(5), target(), True, Surplus(5, PRESSURE)),
        (3, source(5), target(), False, Surplus(2, DEPTH)),
        (3, source(5, queue_class=QueueClass.HIGH), target(), True, Surplus(2, DEPTH)),
        (3, source(3), target(), False, None),
        (0, source(1), target(), False, Surplus(1, DEPTH)),
        (0, source(5, paused=True), target(), True, None),
        (0, source(5), target(paused=True), True, None),
        (0, source(5), target(queued=1, running=2, max_running=6), False, Surplus(3, DEPTH)),
        (0, source(5), target(queued=4, running=2, max_running=6), False, None),
        (0, source(5), target(pending=8, max_queued=10), False, Surplus(2, DEPTH)),
        (0, source(5), target(pending=11, max_queued=10), False, None),
    ],
)
def test_surplus_when_a_queue_has_jobs_then_as_many_go_as_can_start_there(
    above: int | None, here: QueueLoadNow, there: QueueLoadNow, expected: Surplus | None, *, throttled: bool
) -> None:
    assert surplus(OverflowRule("hpc", above), here, there, throttled=throttled) == expected


@pytest.mark.parametrize(
    ("asked", "moved", "reason"),
    [
        ({}, False, None),
        ({"rate_key": "web"}, False, None),
        ({}, True, "it was moved between queues before, and a job overflows once"),
        ({"execution_mode": ExecutionMode.IN_PROCESS}, False, "it is a handler, which runs inside the daemon"),
        ({"survive": True}, False, "survive: a job on a cluster always outlives the daemon"),
        ({"notify": True}, False, "notify: a node of a cluster cannot reach the daemon's socket"),
        ({"heartbeat_ms": 1_000}, False, "heartbeat_ms: a node of a cluster cannot reach the daemon's socket"),
        ({"secrets": ("TOKEN",)}, False, "secrets: a secret does not leave this host"),
        ({"resources": {"gpu": 1}}, False, "it needs resources of this host"),
        ({"sources": ("a.c",)}, False, "its sources and products are files of this host"),
        ({"produces": ("a.o",)}, False, "its sources and products are files of this host"),
    ],
)
def test_job_when_its_queue_overflows_then_it_stays_if_it_needs_this_host(
    asked: dict[str, Any], reason: str | None, *, moved: bool
) -> None:
    assert why_it_stays(jobs.spec(**asked), moved=moved) == reason
