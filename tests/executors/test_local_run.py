"""One run of a subprocess: which of its ends are stops of ours.

Owns no launcher: the worker is a child of the test that shows the marks of a run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from stoker.executors.local_run import LocalRun

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTANCE = "an instance of this test"
RUN = "1.1.0123456789abcdef"


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    marks = {"STOKER_INSTANCE": INSTANCE, "STOKER_RUN_ID": RUN}
    with subprocess.Popen(["/bin/sleep", "600"], env={**os.environ, **marks}) as process:
        yield process
        process.kill()


async def test_stop_past_the_launcher_when_it_still_searches_then_an_end_is_no_stop(
    worker: subprocess.Popen[bytes],
) -> None:
    run = LocalRun(RUN)
    stop = asyncio.ensure_future(run.sweep_of(INSTANCE, None).stop(10_000))
    run.past_launcher.append(stop)

    stopped_before = run.stopped_past_launcher()
    await stop

    assert not stopped_before
    assert run.stopped_past_launcher()
    assert worker.wait() < 0
    run.close()
