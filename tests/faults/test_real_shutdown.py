"""A shutdown: systemd ends every process, and the jobs at the next boot.

Owns ends that come from outside: a poweroff of the machine (a container, with its own boot id) and a stop that hits
workers too. These are not failures of the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import container
from tests.support.work import end_of, running, shell, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.service import Service
    from tests.support.work import Gate

WHY_NOT = container.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

HURRIED = "[daemon]\ndrain_timeout_ms = 200\n"


def charged(client: stoker.Client, job: int) -> tuple[int, int]:
    view = client.get(job)
    return view["failures"], view["orphanings"]


def test_poweroff_when_jobs_run_then_each_ends_by_policy_without_a_failure(service: Service, shared_gate: Gate) -> None:
    service.configure(settings=HURRIED)
    service.start()
    with service.client() as client:
        unsafe, surviving = submit(client, shared_gate.spec()), submit(client, shared_gate.spec(), survive=True)
        tidy = submit(client, shell(f"trap 'exit 3' TERM; read _ < {shared_gate.path}"), survive=True)
        again = submit(client, shared_gate.spec(), survive=True, on_orphan="requeue", max_orphanings=1)
        running(client, unsafe, surviving, tidy, again)
        before = client.history(surviving)["attempts"][0]

    service.container.power_off()
    shared_gate.open()
    service.container.boot()

    service.configure(settings=HURRIED)
    service.start()
    with service.client() as client:
        # They end before the next daemon adopts them: only the daemon stopped each, with its grace.
        for job in (unsafe, surviving, tidy):
            assert (end_of(client, job), charged(client, job)) == (("failed", "shutdown"), (0, 0))
        assert (end_of(client, again), charged(client, again)) == (("succeeded", "exit"), (0, 0))
        assert client.history(again)["attempts"][0]["stop_reason"] == "shutdown"
        assert before["run_id"] == client.history(surviving)["attempts"][0]["run_id"]


def test_poweroff_when_the_daemon_had_left_then_the_launcher_reports_the_shutdown(
    service: Service, shared_gate: Gate
) -> None:
    service.configure(settings=HURRIED)
    service.start()
    with service.client() as client:
        surviving = submit(client, shared_gate.spec(), survive=True)
        again = submit(client, shared_gate.spec(), survive=True, on_orphan="requeue", max_orphanings=1)
        running(client, surviving, again)
    service.systemctl("stop", "stoker.service")

    service.container.power_off()
    shared_gate.open()
    service.container.boot()

    service.configure(settings=HURRIED)
    service.start()
    with service.client() as client:
        assert (end_of(client, surviving), charged(client, surviving)) == (("failed", "shutdown"), (0, 0))
        assert (end_of(client, again), charged(client, again)) == (("succeeded", "exit"), (0, 0))
        assert [run["signal"] for run in client.history(again)["attempts"]] == [15, None]


def test_stop_when_every_process_of_the_unit_is_signalled_then_no_job_has_failed(
    service: Service, shared_gate: Gate
) -> None:
    service.configure("KillMode=control-group")
    service.start()
    with service.client() as client:
        unsafe, held = submit(client, shared_gate.spec()), submit(client, shared_gate.spec(), on_orphan="hold")
        again = submit(client, shared_gate.spec(), on_orphan="requeue", max_orphanings=1, survive=True)
        running(client, unsafe, held, again)

    service.systemctl("stop", "stoker.service")
    shared_gate.open()

    assert (service.show("ActiveState"), service.processes()) == ("inactive", [])
    service.start()
    with service.client() as client:
        assert (end_of(client, unsafe), charged(client, unsafe)) == (("failed", "shutdown"), (0, 0))
        assert (end_of(client, held), charged(client, held)) == (("held", "shutdown"), (0, 0))
        assert (end_of(client, again), charged(client, again)) == (("succeeded", "exit"), (0, 0))
