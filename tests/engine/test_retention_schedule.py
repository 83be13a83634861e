"""Retention by schedule, with times of a second, and purges that a kill cuts off between two pieces."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import DaemonUnreachable, JobNotFound, WorkflowNotFound
from tests.support import flows
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.purges import gone, log_of, purge
from tests.support.work import end_of, shell, state, submit

if TYPE_CHECKING:
    from collections.abc import Callable


HELLO = shell("echo hello")
HOT = """
[retention]
keep = "1s"
keep_failed = "1s"
keep_last = 0
keep_changes = "1s"
keep_archives = "1s"
keep_keys = "1s"
every_ms = 200
"""


# --- in pieces ----------------------------------------------------------------------------------------------

MANY = 20_000
ATTEMPTS = f"""
WITH RECURSIVE further(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM further WHERE n < {MANY})
INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at, ended_at, outcome)
SELECT printf('%d.%d.%016x', job_id, n, n), job_id, n, launcher, 0, 1, 'exit' FROM further, attempts
WHERE job_id = ? AND ordinal = 1
"""


def killed_in_a_purge(daemon: DaemonProcess) -> tuple[int, int]:
    """A job and a workflow that were purged, with most of the rows of their jobs left; the daemon is killed."""
    with daemon.client() as client:
        flow = flows.sent_flow(client, {"a": HELLO, "b": flows.step("exit 0", "a")})
        flows.flow_end(client, flow)
        step = flows.job_of(client, flow, "b")
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection, connection:
        connection.execute(ATTEMPTS, (step,))
    daemon.start()

    def purge_until_killed() -> None:
        with suppress(DaemonUnreachable), daemon.client() as client:
            purge(client)

    purging = threading.Thread(target=purge_until_killed)
    purging.start()
    until(lambda: 0 < daemon.rows("SELECT count(*) FROM attempts")[0][0] < MANY, why="the first piece")
    daemon.kill9()
    purging.join()
    assert 0 < daemon.rows("SELECT count(*) FROM attempts")[0][0] < MANY
    return flow, step


def test_purge_when_killed_between_two_pieces_then_all_of_it_is_gone_for_all(daemon: DaemonProcess) -> None:
    flow, step = killed_in_a_purge(daemon)

    daemon.start()  # its first pass begins a minute later

    with daemon.client() as client:
        assert gone(client, step)
        with pytest.raises(WorkflowNotFound, match="any more"):
            flows.workflow_view(client, flow)
        for method, ident in (("job.retry", step), ("job.history", step), ("workflow.retry", flow)):
            with pytest.raises((JobNotFound, WorkflowNotFound)):
                client.call(method, {"id": ident})
        assert client.list()["jobs"] == []
        assert daemon.rows("SELECT id FROM jobs WHERE id NOT IN (SELECT id FROM purging_jobs)") == []
        assert daemon.rows("SELECT count(*) FROM attempts")[0][0] > 0

        purge(client)

    for table in ("jobs", "attempts", "needs", "purging_jobs", "purged_jobs"):
        assert daemon.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    assert (daemon.stop(), daemon.restart_quietly()) == (0, 0)


def test_purge_when_killed_between_two_pieces_then_the_next_daemon_goes_on(daemon: DaemonProcess) -> None:
    _, step = killed_in_a_purge(daemon)
    daemon.config.write_text(HOT)

    daemon.start()

    until(lambda: daemon.rows("SELECT count(*) FROM attempts") == [(0,)], why="the end of its rows")
    until(lambda: not log_of(daemon, step).exists(), why="the end of its logs")


# --- by itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def hot(stopped_daemon: DaemonProcess) -> Callable[[str], DaemonProcess]:
    """Starts a daemon that keeps things for a second, or as the settings say."""

    def started(more: str = "") -> DaemonProcess:
        stopped_daemon.config.write_text(HOT + more)
        return stopped_daemon.start()

    return started


def test_schedule_when_all_has_ended_long_ago_then_nothing_of_it_is_left(hot: Callable[..., DaemonProcess]) -> None:
    daemon = hot()
    with daemon.client() as client:
        jobs = [submit(client, HELLO, idempotency_key=f"k{number}") for number in range(40)]
        flow = flows.sent_flow(client, {"a": shell("exit 1"), "b": flows.step("exit 0", "a")})

        until(lambda: not client.list(limit=1)["jobs"], why="the end of every job")
        tables = ("workflows", "attempts", "idempotency", "checkpoints", "checkpoint_purges", "purged_jobs")
        until(lambda: not any(daemon.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables), why="rows")
        until(lambda: not list((daemon.state_dir / "archive").iterdir()), why="the end of the archive")

        assert not list(daemon.state_dir.glob("logs/*/*"))
        assert submit(client, HELLO) > max(jobs)
        assert flows.sent_flow(client, {"a": HELLO}) > flow
        assert daemon.events("retention_failed") == []
    assert daemon.stop() == 0


def test_schedule_when_it_has_nothing_to_remove_then_it_records_nothing(hot: Callable[..., DaemonProcess]) -> None:
    daemon = hot()
    with daemon.client() as client:
        first = client.status()["usage"]["measured_at"]
        end_of(client, submit(client, HELLO))
        until(lambda: not client.list(limit=1)["jobs"], why="the end of the job")
        quiet = client.status()["last_seq"]

        measured = until(lambda: client.status()["usage"]["measured_at"], why="a pass")
        until(lambda: client.status()["usage"]["measured_at"] not in (first, measured), why="another pass")

        assert client.status()["last_seq"] == quiet


def test_schedule_when_queues_and_workflows_have_times_of_their_own_then_these_count(
    hot: Callable[..., DaemonProcess],
) -> None:
    daemon = hot(
        '[queues.slow]\n[retention.queues.slow]\nkeep = "forever"\n[retention.workflows.nightly]\nkeep_last = 1\n'
        '[queues.some]\n[retention.queues.some]\nkeep_failed = "forever"\n'
    )
    with daemon.client() as client:
        kept = submit(client, HELLO, queue="slow")
        failed = submit(client, shell("exit 1"), queue="some")
        others = [submit(client, HELLO), submit(client, HELLO, queue="some")]
        older = flows.sent_flow(client, {"a": HELLO}, name="nightly")
        flows.flow_end(client, older)
        newer = flows.sent_flow(client, {"a": HELLO}, name="nightly")

        until(lambda: all(gone(client, job) for job in others), why="the end of the others")
        until(lambda: daemon.rows("SELECT id FROM workflows") == [(newer,)], why="the end of the older workflow")

        assert (state(client, kept), state(client, failed)) == ("succeeded", "failed")


def test_schedule_when_a_daemon_died_behind_the_commit_then_the_next_removes_logs(
    stopped_daemon: DaemonProcess,
) -> None:
    daemon = stopped_daemon.start()
    with daemon.client() as client:
        job = submit(client, HELLO)
        end_of(client, job)
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection, connection:
        connection.execute("INSERT INTO purged_jobs VALUES (?)", (job,))
        connection.execute("DELETE FROM attempts")
        connection.execute("DELETE FROM jobs")
    assert log_of(daemon, job).is_dir()

    daemon.config.write_text(HOT)
    daemon.start()

    until(lambda: not log_of(daemon, job).exists(), why="the end of its log")
    until(lambda: daemon.rows("SELECT count(*) FROM purged_jobs") == [(0,)], why="the end of the list")


def test_reload_when_retention_gets_shorter_then_it_counts_at_once(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon.start()
    with daemon.client() as client:
        job = submit(client, HELLO)
        end_of(client, job)
        daemon.config.write_text(HOT + '[retention.queues.default]\nkeep = "1s"\n')

        answer = client.call("system.reload")

        assert {"retention.keep", "retention.queues"} <= set(answer["changed"])
        assert answer["restart"] == []
        until(lambda: gone(client, job), why="the end of the job")
