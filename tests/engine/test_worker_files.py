"""A worker replaces its log by a FIFO or a link: the daemon neither waits for it nor reads its target."""

from __future__ import annotations

import gzip
import json
import os
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import LogUnreadable
from tests.support.facts import until
from tests.support.flows import flow, flow_end, send, workflow_view
from tests.support.work import shell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("put", [fifo, link])
def test_log_when_its_worker_replaced_it_then_it_is_not_read_and_the_archive_is_made(
    daemon: DaemonProcess, gate: Gate, put: Callable[[Path], None]
) -> None:
    with daemon.client() as client:
        script = f"echo here; read _ < {gate.path}; exit 3"
        answer = send(client, flow({"a": shell(script), "b": shell("exit 0")}))
        job = answer["steps"]["a"]
        log = daemon.state_dir / f"logs/{job // 1000}/{job}/1.log"
        until(log.exists, why="the log")
        log.unlink()
        put(log)

        for options in ({}, {"tail_lines": 3}, {"follow": True}):
            with pytest.raises(LogUnreadable, match="not a regular file"):
                list(client.stream("job.logs", {"id": job, **options}))
        gate.open()
        assert flow_end(client, answer["id"]) == "failed"
        archive = until(lambda: workflow_view(client, answer["id"])["archive"], why="the archive")
    with gzip.open(archive) as packed:
        kept = json.load(packed)["logs"]

    assert [(one["step"], one["tail"]) for one in kept if one["step"] == "a"] == [("a", "")]
    assert daemon.stop() == 0
