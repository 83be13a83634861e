"""Stoker under a real systemd: started, killed, hung, stopped, restarted and reached through its socket unit.

Owns the actions that only a service manager can take. Each test names the jobs that survive, and the exit code; the
container is shared, the service is as new for each.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from stoker.telemetry.journald import message_id
from tests.support import container, event_page
from tests.support.facts import until
from tests.support.service import STATE
from tests.support.work import end_of, job_view, running, shell, submit, submit_running

if TYPE_CHECKING:
    from tests.support.service import Service
    from tests.support.work import Gate
WHY_NOT = container.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

RECIPE = re.compile(r"^# (journalctl .+)$", re.MULTILINE)
# Sends the form that starts the doctor, as a browser would.
EXAMINE = """
import re, sys
from urllib.request import Request, urlopen
base = "http://127.0.0.1:8600"
headers = {"Authorization": "Bearer " + sys.argv[1], "Origin": base}
form = urlopen(Request(base + "/doctor/run", headers=headers)).read().decode()
hidden = re.search('name="csrf" value="([0-9a-f]+)"', form)[1]
urlopen(Request(base + "/doctor/run", headers=headers, data=("csrf=" + hidden).encode()))
"""
HURRIED = "[daemon]\ndrain_timeout_ms = 200\n"


def test_service_when_started_then_it_is_ready_private_and_its_journal_is_json(service: Service) -> None:
    service.configure()
    service.start()

    with service.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
        assert client.status()["pid"] == service.pid
    assert service.show("ActiveState") == "active"
    assert service.show("StatusText").endswith(" running, 0 queued")
    assert service.mode(STATE) == ("700", "stoker")
    assert service.mode("/run/stoker") == ("755", "stoker")
    assert service.mode("/run/stoker/stoker.sock") == ("600", "stoker")
    events = [json.loads(line) for line in service.journal()]
    assert [event["event"] for event in events][:1] == ["daemon_starting"]
    assert all({"event", "level", "ts"} <= event.keys() for event in events)


def test_journal_when_a_job_fails_then_it_can_be_asked_for_its_fields(service: Service) -> None:
    service.configure()
    service.start()
    with service.client() as client:
        job = submit(client, shell("exit 3"))
        end_of(client, job)

    (entry,) = until(lambda: service.container.run("journalctl", "STOKER_EVENT=task_failed", "-o", "json").splitlines())

    fields = json.loads(entry)
    assert fields["MESSAGE_ID"] == message_id("task_failed")
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["_TRANSPORT"]) == ("4", "stokerd", "journal")
    assert (fields["STOKER_JOB"], fields["STOKER_QUEUE"]) == (str(job), "default")
    assert json.loads(fields["MESSAGE"])["job"] == job
    recipes = RECIPE.findall(event_page.page())
    assert len(recipes) > 5
    for recipe in recipes:
        assert service.container.run("sh", "-c", recipe.replace("STOKER_JOB=1", f"STOKER_JOB={job}"))


def test_service_when_the_daemon_is_killed_then_survivors_keep_their_exit_codes(
    service: Service, shared_gate: Gate
) -> None:
    service.configure("RestartSec=300ms")
    first = service.start().pid
    with service.client() as client:
        survivor = submit(client, shared_gate.spec("exit 7"), survive=True)
        meanwhile = submit(client, shell(f"until [ ! -d /proc/{first} ]; do sleep 0.05; done; exit 8"), survive=True)
        unsafe = submit(client, shared_gate.spec())
        running(client, survivor, meanwhile, unsafe)
        worker = job_view(client, survivor)["pid"]

    service.kill(first, "KILL")
    service.restarted(first)

    with service.client() as client:
        # At READY the recovery is complete: earlier attempts are adopted, or their stop is committed.
        recovery = client.call("system.status")["recovery"]
        assert (recovery["stopped"], recovery["adopted"] + recovery["settled"]) == (1, 2)
        assert end_of(client, unsafe) == ("failed", "orphaned")
        assert end_of(client, meanwhile) == ("failed", "exit")
        assert job_view(client, meanwhile)["exit_code"] == 8
        assert job_view(client, survivor)["pid"] == worker
        shared_gate.open()
        assert end_of(client, survivor) == ("failed", "exit")
        assert job_view(client, survivor)["exit_code"] == 7
    assert service.show("NRestarts") == "1"


def test_service_when_the_daemon_hangs_then_the_watchdog_has_it_restarted(service: Service, shared_gate: Gate) -> None:
    service.configure("WatchdogSec=4\nRestartSec=100ms")
    first = service.start().pid
    with service.client() as client:
        survivor = submit_running(client, shared_gate.spec("exit 7"), survive=True)

    service.kill(first, "STOP")
    service.restarted(first)

    assert "Watchdog timeout" in service.container.run("journalctl", "--unit=stoker.service", "-o", "cat")
    with service.client() as client:
        shared_gate.open()
        assert end_of(client, survivor) == ("failed", "exit")
        assert job_view(client, survivor)["exit_code"] == 7


def test_launcher_when_it_hangs_for_ever_then_another_works_and_the_daemon_lives(
    service: Service, shared_gate: Gate
) -> None:
    service.configure("WatchdogSec=8", "[launcher]\nstuck_ms = 1_000\n")
    first = service.start().pid
    with service.client() as client:
        stuck = submit_running(client, shared_gate.spec())
        (launcher,) = client.call("system.status")["launchers"]

        service.kill(launcher["pid"], "STOP")
        until(lambda: service.events("daemon_well"), why="the daemon is well again, with another launcher")

        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
        assert job_view(client, stuck)["state"] == "running"
        service.kill(launcher["pid"], "CONT")
        shared_gate.open()
        assert end_of(client, stuck) == ("succeeded", "exit")
    assert (service.pid, service.show("NRestarts")) == (first, "0")


def test_web_page_when_it_is_a_service_then_it_answers_with_the_token_of_its_file(service: Service) -> None:
    token = "f00d" * 16
    ask = (
        "from urllib.request import Request, urlopen; import sys; print(urlopen(Request('http://127.0.0.1:8600/jobs', "
        "headers={'Authorization': 'Bearer ' + sys.argv[1]})).read().decode())"
    )
    service.configure()
    service.start()
    service.container.write("/etc/stoker/web-token", token)
    service.container.run("chmod", "600", "/etc/stoker/web-token")
    with service.client() as client:
        job = submit(client, {**shell("exit 3"), "name": "seen-from-the-page"})
        end_of(client, job)

    service.systemctl("start", "stoker-web.service")

    journal = ("journalctl", "-u", "stoker-web.service", "-o", "cat", "--grep", "http://127.0.0.1:8600/")
    until(lambda: service.container.run(*journal, check=False), why="an address in the journal")
    assert "seen-from-the-page" in service.container.run("python3", "-c", ask, token)
    assert "HTTP Error 401" in service.container.run("sh", "-c", 'python3 -c "$0" wrong 2>&1; :', ask)
    assert token not in service.container.run("journalctl", "-u", "stoker-web.service")
    service.container.run("python3", "-c", EXAMINE, token)
    ask_doctor = ("python3", "-c", ask.replace("jobs", "doctor"), token)
    found = until(lambda: re.findall(r"\d+ errors", service.container.run(*ask_doctor)))
    assert found == ["0 errors"]
    service.systemctl("stop", "stoker-web.service")
    assert service.show("Result", "stoker-web.service") == "success"


def test_socket_when_a_client_comes_first_then_the_service_is_started_and_answers(service: Service) -> None:
    service.configure()
    service.systemctl("start", "stoker.socket")
    assert service.show("ActiveState") == "inactive"

    with service.client() as client:
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")

    assert service.show("ActiveState") == "active"
    assert service.mode("/run/stoker/stoker.sock") == ("600", "stoker")


def test_socket_when_the_service_restarts_then_a_submit_waits_instead_of_failing(
    service: Service,
) -> None:
    service.configure("RestartSec=1")
    service.systemctl("start", "stoker.socket", "stoker.service")
    first = service.pid

    service.kill(first, "KILL")
    with service.client() as client:
        job = submit(client, shell("exit 0"))
        assert end_of(client, job) == ("succeeded", "exit")

    assert service.pid not in (0, first)


def test_stop_when_jobs_run_then_survivors_go_on_and_the_others_end_by_policy(
    service: Service, shared_gate: Gate
) -> None:
    service.configure(settings=HURRIED)
    service.start()
    with service.client() as client:
        survivor = submit(client, shared_gate.spec("exit 7"), survive=True)
        unsafe, held = submit(client, shared_gate.spec()), submit(client, shared_gate.spec(), on_orphan="hold")
        safe = submit(client, shared_gate.spec(), on_orphan="requeue")
        running(client, survivor, unsafe, held, safe)
        workers = {job: job_view(client, job)["pid"] for job in (survivor, unsafe, held, safe)}

    service.systemctl("stop", "stoker.service")

    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    assert (service.show("ExecMainCode"), service.show("ExecMainStatus")) == ("1", "0")
    assert [job for job, pid in workers.items() if service.alive(pid)] == [survivor]
    shared_gate.open()
    until(lambda: not service.processes(), why="the end of the survivor and of its launcher")
    service.start()
    with service.client() as client:
        assert end_of(client, unsafe) == ("failed", "shutdown")
        assert end_of(client, held) == ("held", "shutdown")
        assert end_of(client, safe) == ("succeeded", "exit")
        assert (job_view(client, safe)["attempts"], job_view(client, safe)["orphanings"]) == (2, 0)
        assert job_view(client, survivor)["exit_code"] == 7


def test_restart_when_jobs_survive_then_they_go_on_under_the_next_daemon(service: Service, shared_gate: Gate) -> None:
    service.configure(settings=HURRIED)
    first = service.start().pid
    with service.client() as client:
        survivors = [submit(client, shared_gate.spec(f"exit {code}"), survive=True) for code in (0, 7)]
        running(client, *survivors)
        workers = [job_view(client, job)["pid"] for job in survivors]

    service.systemctl("restart", "stoker.service")

    assert service.pid not in (0, first)
    with service.client() as client:
        assert [job_view(client, job)["pid"] for job in survivors] == workers
        shared_gate.open()
        assert [end_of(client, job)[0] for job in survivors] == ["succeeded", "failed"]
        assert [job_view(client, job)["exit_code"] for job in survivors] == [0, 7]


def test_stop_when_a_drain_outlasts_the_limit_of_the_unit_then_the_job_has_its_time(
    service: Service,
) -> None:
    service.configure("TimeoutStopSec=1", "[daemon]\ndrain_timeout_ms = 60_000\n")
    service.start()
    with service.client() as client:
        job = submit_running(client, shell("sleep 3; exit 7"))

    service.systemctl("stop", "stoker.service")

    assert service.show("Result") == "success"
    service.start()
    with service.client() as client:
        assert (end_of(client, job), job_view(client, job)["exit_code"]) == (("failed", "exit"), 7)


def test_start_when_recovery_outlasts_the_limit_of_the_unit_then_systemd_waits(
    service: Service, shared_gate: Gate
) -> None:
    service.configure("Restart=no")
    began_s = time.monotonic()
    first = service.start().pid
    limit_s = 1 + int(2 * (time.monotonic() - began_s))  # enough for a start, however busy the machine is
    with service.client() as client:
        survivor = submit_running(client, shared_gate.spec("exit 7"), survive=True)
        (launcher,) = client.call("system.status")["launchers"]
    service.kill(launcher["pid"], "STOP")  # recovery waits five seconds for its answer
    service.kill(first, "KILL")
    until(lambda: service.show("ActiveState") == "failed", why="the end of the first life")
    service.configure(f"TimeoutStartSec={limit_s}\nRestart=no")

    service.systemctl("start", "--no-block", "stoker.service")
    # The daemon asks for more time before it says this.
    until(lambda: service.show("StatusText").startswith("recovering"), why="the recovery")
    service.kill(service.pid, "STOP")
    end_us = int(service.show("ExecMainStartTimestampMonotonic")) + (limit_s + 1) * 1_000_000
    until(lambda: time.monotonic() * 1_000_000 > end_us, why="the end of the limit")
    assert service.show("ActiveState") == "activating"
    service.kill(service.pid, "CONT")
    until(lambda: service.show("ActiveState") != "activating", why="the end of the start")

    assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")
    with service.client() as client:
        assert client.status()["running"] == 1
        service.kill(launcher["pid"], "CONT")
        shared_gate.open()
        assert end_of(client, survivor) == ("failed", "exit")


def test_service_when_a_job_hides_its_children_then_its_own_cgroup_ends_them(
    service: Service, shared_gate: Gate
) -> None:
    service.configure()
    service.start()
    with service.client() as client:
        job = submit_running(client, shell(f"setsid env -i sleep 1000 & read _ < {shared_gate.path}; exit 0"))
        run_id = client.history(job)["attempts"][0]["run_id"]
        leaf = service.cgroup / f"run-{run_id}"
        until(lambda: len((leaf / "cgroup.procs").read_text().split()) >= 2, why="both processes in the leaf")

        shared_gate.open()
        assert end_of(client, job) == ("succeeded", "exit")

        until(lambda: not leaf.exists(), why="the end of the leaf")


def test_service_when_its_state_is_refused_then_it_is_not_started_again_and_again(service: Service) -> None:
    service.configure("RestartSec=100ms")
    service.start()
    with service.client() as client:
        end_of(client, submit(client, shell("exit 0")))
    service.systemctl("stop", "stoker.service")
    service.container.run("truncate", "--size=0", f"{STATE}/stoker.db")

    service.systemctl("start", "stoker.service", check=False)

    assert (service.show("ActiveState"), service.show("ExecMainStatus")) == ("failed", "78")
    assert service.show("NRestarts") == "0"
