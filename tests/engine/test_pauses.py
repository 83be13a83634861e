"""Steps that become queued while their workflow may not start any, beside other jobs of the same queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import flows, work

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

SETTINGS = "[daemon]\nmax_running = 2\n[queues.default]\nmax_running = 1\n[queues.other]\n"


def read_to_the_end(daemon: DaemonProcess, gate: Gate) -> int:
    """A job behind the one that `default` may run, of which queue this daemon has read all jobs."""
    daemon.start()
    with daemon.client() as client:
        work.submit_running(client, gate.spec(), survive=True)
        job = work.submit(client, work.shell("exit 0"))
    daemon.kill_and_start()
    return job


def start_all(client: stoker.Client, gate: Gate, *jobs: int) -> None:
    gate.open()
    for job in jobs:
        assert work.end_of(client, job) == ("succeeded", "exit")


def test_step_when_it_is_queued_in_a_pause_of_a_full_host_then_it_starts_later(
    stopped_daemon: DaemonProcess, gate: Gate
) -> None:
    before = read_to_the_end(stopped_daemon, gate)
    with stopped_daemon.client() as client:
        work.submit_running(client, gate.spec(), queue="other")
        workflow = flows.sent_flow(client, {"a": flows.step("exit 0")})
        step = flows.job_of(client, workflow, "a")
        client.call("job.hold", {"id": step})
        client.call("workflow.pause", {"id": workflow})
        client.call("job.release", {"id": step})
        client.call("workflow.resume", {"id": workflow})

        start_all(client, gate, before, step)


def test_step_when_a_retry_takes_back_the_cancel_of_its_workflow_then_it_starts(
    stopped_daemon: DaemonProcess, gate: Gate
) -> None:
    before = read_to_the_end(stopped_daemon, gate)
    with stopped_daemon.client() as client:
        workflow = flows.sent_flow(client, {"a": flows.step("exit 0")})
        step = flows.job_of(client, workflow, "a")
        client.call("workflow.cancel", {"id": workflow})
        assert flows.flow_end(client, workflow) == "cancelled"
        between = work.submit(client, work.shell("exit 0"))
        client.call("job.retry", {"id": step})

        start_all(client, gate, before, between, step)
