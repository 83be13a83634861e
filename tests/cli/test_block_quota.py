"""`--block` waits for the limits of its user that pass by themselves, and for no others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from stoker.cli.kit.error_words import as_typed
from stoker.cli.submit import submit as submit_command
from stoker.core.errors import QuotaReached
from stoker.core.quotas import Quota
from tests.cli.test_block import begin, end
from tests.support.facts import scales, until
from tests.support.work import shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = f"""
[quotas.users.{os.getuid()}]
max_queued = 2
max_workflows = 1
[queues.stopped]
paused = true
[queues.other]
paused = true
"""


def used(client: stoker.Client, name: str) -> int:
    """How much of a limit its user has in use."""
    (number,) = (one["used"] for one in client.call("system.limits", {})["limits"] if one["name"] == name)
    return int(number)


def fill(daemon: DaemonProcess) -> list[int]:
    """Jobs that take all places of the user, in a queue that starts none."""
    with daemon.client() as client:
        for queue in ("stopped", "other"):
            for job in client.list(states=["queued"], queue=queue)["jobs"]:
                client.call("job.cancel", {"id": job["id"]})
        until(lambda: used(client, "max_queued") == 0, why="the end of other jobs")
        return [submit(client, shell("true", queue="stopped")) for _ in range(2)]


def test_block_when_the_user_has_its_limit_then_a_job_is_stored_after_an_end(shared: DaemonProcess) -> None:
    """In another queue, which has room."""
    job, _ = fill(shared)
    waiting = begin(shared, "--queue", "other", "--", "true")

    shared.cli("cancel", str(job))

    status, (stored,) = end(waiting)
    with shared.client() as client:
        assert (status, client.get(stored)["queue"]) == (0, "other")


def test_block_when_a_batch_is_larger_than_the_limit_then_all_of_it_is_stored(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    jobs = fill(shared)
    lines = tmp_path / "jobs.ndjson"
    lines.write_text("".join(json.dumps({"command": "true", "name": f"n{n}"}) + "\n" for n in range(5)))
    waiting = begin(shared, "--batch", str(lines))

    for job in jobs:
        shared.cli("cancel", str(job))

    status, ids = end(waiting)
    assert (status, len(set(ids))) == (0, 5)


def test_block_when_a_workflow_must_wait_for_its_user_then_it_is_stored(shared: DaemonProcess, tmp_path: Path) -> None:
    for job in fill(shared):
        shared.cli("cancel", str(job))
    path = tmp_path / "flow.json"
    path.write_text(json.dumps({"name": "x", "steps": {"a": {"command": "true", "queue": "stopped"}}}))
    first = int(shared.cli("workflow", "submit", str(path)).stdout)
    waiting = begin(shared, str(path), name="workflow submit")

    shared.cli("workflow", "cancel", str(first))

    status, (second,) = end(waiting)
    assert status == 0
    shared.cli("workflow", "cancel", str(second))


def test_block_when_patience_is_over_then_the_limit_is_named(shared: DaemonProcess) -> None:
    fill(shared)

    done = shared.cli("submit", "--block", "--patience", "50ms", "--", "true")

    assert done.returncode == 75
    assert "at most 2 jobs that are waiting, queued or held (max_queued in [quotas]); gave up" in done.stderr


def test_block_when_submits_are_too_fast_then_each_is_stored_in_time(daemon: DaemonProcess) -> None:
    """A batch takes the seconds that it is larger than the limit."""
    daemon.config.write_text(f"[quotas.users.{os.getuid()}]\nmax_submits_per_s = 4\n")
    daemon.cli("config", "reload")
    with daemon.client() as client:
        for jobs in scales(8):
            until(lambda: used(client, "max_submits_per_s") == 0, why="payment for earlier jobs")
            client.submit_many([{"command": "/bin/true"}] * jobs)
            done = daemon.cli("submit", "--block", "--", "true")
            if "4 jobs a second (max_submits_per_s in [quotas]); waiting for room" in done.stderr:
                break

    assert done.returncode == 0


def test_block_when_only_a_removal_makes_room_then_it_does_not_wait(daemon: DaemonProcess) -> None:
    daemon.config.write_text(f"[quotas.users.{os.getuid()}]\nmax_stored_bytes = 1\n")
    daemon.cli("config", "reload")
    daemon.cli("submit", "--", "true")

    done = daemon.cli("submit", "--block", "--", "true")

    assert (done.returncode, "max_stored_bytes in [quotas]" in done.stderr) == (75, True)


def test_refusal_when_a_limit_has_the_name_of_an_option_then_the_setting_is_named() -> None:
    given = submit_command.parse(["--", "true"])
    with pytest.raises(QuotaReached) as refused:
        Quota(max_log_bytes=4).check("max_log_bytes", 7, 6)

    shown = as_typed(refused.value, submit_command, given)

    assert shown.message == "uid 7 has 6 of at most 4 bytes of logs (max_log_bytes in [quotas])"
