"""Starts that fail because the host lacks something: no job is charged, dispatch backs off, shows it, and goes on."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.shortage import BASE_PAUSE_MS, MAX_DELAY_MS, delay_ms
from tests.support.daemon import DaemonProcess
from tests.support.descriptors import count_fds
from tests.support.facts import until
from tests.support.rpc import RawClient, request
from tests.support.strace import Attached, injected, why_not
from tests.support.torture import launchers
from tests.support.work import Gate, attempts_of, changes, end_of, kill9, shell, submit, submit_many

if TYPE_CHECKING:
    import stoker

SETTINGS = "[daemon]\nmax_running = 4\n"
JOBS = 40
RUNS = 7

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def waits(client: stoker.Client, job: int) -> Any:
    view = client.get(job)
    return view if view["state"] == "waiting" else None


def delays_ms(client: stoker.Client, job: int) -> list[int]:
    """How long the job waited after each start that failed because the host lacked something."""
    ended = [(change["at"], change["details"].get("wake_at") or 0) for change in changes(client, job, "ended")]
    return [round((wake_at - at) / 100) * 100 for at, wake_at in ended if wake_at - at > BASE_PAUSE_MS // 2]


def shortage(client: stoker.Client) -> Any:
    return client.status()["host_shortage"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("clone3,clone,vfork:error=EAGAIN", "Resource temporarily unavailable"),
        ("clone3,clone,vfork:error=ENOMEM", "Cannot allocate memory"),
        ("pipe2:error=EMFILE", "Too many open files"),
        ("pipe2:error=ENFILE", "Too many open files in system"),
        ("access:error=EROFS", "Permission denied"),
        ("execve:error=ETXTBSY", "Text file busy"),
        ("execve:error=EIO", "Input/output error"),
    ],
)
def test_queue_when_the_host_starts_nothing_then_no_job_is_charged_and_all_run_later(
    daemon: DaemonProcess, fault: str, message: str
) -> None:
    trace = daemon.home / "launcher.trace"
    with daemon.client() as client:
        assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")
        (launcher,) = launchers(daemon.state_dir).values()
        strace = Attached(launcher, trace, f"inject={fault}")

        jobs = [answer["id"] for answer in submit_many(client, [shell(":")] * JOBS)]
        until(lambda: shortage(client), why="a shortage in the status")
        standing = {client.get(job)["state"] for job in jobs}
        blockers = {client.why(job)["code"] for job in jobs}
        health = client.call("system.health")
        answer = daemon.cli("status").stdout
        assert injected(trace) > 0
        strace.detach()

        assert {end_of(client, job) for job in jobs} == {("succeeded", "exit")}
        assert standing <= {"queued", "waiting", "running"}
        assert "host" in blockers
        assert not health["ok"]
        assert message in health["checks"]["starts"]
        assert "the host cannot start a process" in answer
        assert {client.get(job)["failures"] for job in jobs} == {0}
        assert shortage(client) is None
        assert client.call("system.health")["ok"]
    (begun,) = daemon.logged("host_shortage")
    assert message in begun["error"]
    assert daemon.logged("host_shortage_over")


def test_daemon_when_no_thread_can_be_started_any_more_then_it_answers_anyway(daemon: DaemonProcess) -> None:
    trace = daemon.home / "daemon.trace"
    with daemon.client() as client:
        strace = Attached(daemon.pid, trace, "inject=clone3,clone,vfork:error=EAGAIN")

        specs = [shell(":", env={"PADDING": "x" * 10_000}) for _ in range(JOBS)]  # a frame that a thread reads
        jobs = [answer["id"] for answer in submit_many(client, specs)]
        ends = {end_of(client, job) for job in jobs}
        read = b"".join(client.logs(jobs[0]))
        job = submit(client, shell("exec sleep 600"))
        until(lambda: client.get(job)["pid"], why="a worker")
        seen = client.call("worker.get", {"job": job})
        kill9(launchers(daemon.state_dir).popitem()[1])
        until(lambda: injected(trace), why="a launcher that could not be started")
        waiting = submit(client, shell(":"))
        strace.detach()
        assert end_of(client, waiting) == ("succeeded", "exit")

    assert (ends, read) == ({("succeeded", "exit")}, b"")
    assert seen
    assert not daemon.events("library_message")


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM"])
def test_client_when_it_cannot_be_accepted_then_it_waits_and_the_daemon_rests(
    daemon: DaemonProcess, error: str
) -> None:
    trace = daemon.home / "daemon.trace"
    with daemon.client() as client:
        client.call("system.health")
        strace = Attached(daemon.pid, trace, "trace=accept4", f"inject=accept4:error={error}")
        began = time.monotonic()

        with RawClient(daemon.socket) as waiting:
            waiting.say(request("system.health", 1))
            until(lambda: injected(trace), why="a connection that is not accepted")
            for _ in range(50):  # an iteration of its loop each
                client.call("system.health")
            tries, seconds = injected(trace), time.monotonic() - began
            retrying = client.status()["retrying"]
            strace.detach()

            assert waiting.hear()["result"]
            assert tries <= 1 + seconds
            assert list(retrying) == ["accepting clients"]
            until(lambda: not client.status()["retrying"], why="the end of the shortage")
    assert [event["task"] for event in daemon.logged("background_retried")] == ["accepting clients"]


def test_clients_when_no_descriptor_is_left_then_they_wait_until_there_are_some(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("system.health")
        soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (count_fds(daemon.pid), hard))

        clients = [RawClient(daemon.socket) for _ in range(20)]
        for waiting in clients:
            waiting.say(request("system.health", 1))
        until(lambda: client.status()["retrying"], why="a connection that is not accepted")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))

        assert all(waiting.hear()["result"] for waiting in clients)
    for waiting in clients:
        waiting.close()
    assert "Too many open files" in daemon.logged("background_retried")[0]["error"]


def test_job_when_its_own_file_is_busy_then_others_start_and_it_does_once_it_is_free(daemon: DaemonProcess) -> None:
    program = daemon.home / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    with daemon.client() as client:
        with program.open("r+b"):
            busy = submit(client, {"command": str(program)})
            until(lambda: client.why(busy)["code"] == "host", why="a failed start")  # the next try is soon
            assert client.get(busy)["attempts"] > 0
            assert end_of(client, submit(client, shell(":"))) == ("succeeded", "exit")

        assert end_of(client, busy) == ("succeeded", "exit")
        assert client.get(busy)["failures"] == 0


def test_delay_when_a_job_ran_often_then_its_first_failed_start_waits_the_shortest(
    daemon: DaemonProcess, gate: Gate
) -> None:
    program = daemon.home / "program"
    program.write_text(f"#!/bin/sh\n[ $STOKER_ATTEMPT -lt {RUNS} ] || read _ < {gate.path}\nexit 75\n")
    program.chmod(0o755)
    with daemon.client() as client:
        job = submit(client, {"command": str(program), "checkpoint_exit_code": 75, "base_delay_ms": 0})
        until(lambda: (client.get(job)["attempts"], client.get(job)["pid"] is None) == (RUNS, False), why="a last run")
        with program.open("r+b"):  # no program that is open for writing can be started
            gate.open()
            waiting = until(lambda: waits(client, job), why="a failed start")
            failed = attempts_of(client, job)[-1]
            client.cancel(job)

    assert waiting["wake_at"] - failed["ended_at"] < MAX_DELAY_MS // 4


def test_delay_when_a_start_succeeded_then_failed_ones_are_counted_anew(daemon: DaemonProcess, gate: Gate) -> None:
    program = daemon.home / "program"
    program.write_text(f"#!/bin/sh\nread _ < {gate.path}\nexit 75\n")
    program.chmod(0o755)
    with daemon.client() as client:
        with program.open("r+b"):  # no program that is open for writing can be started
            job = submit(client, {"command": str(program), "checkpoint_exit_code": 75, "base_delay_ms": 0})
            until(lambda: len(delays_ms(client, job)) >= 2, why="two failed starts in a row")
        until(lambda: client.get(job)["pid"], why="a start that succeeds")
        before = len(delays_ms(client, job))
        with program.open("r+b"):
            gate.open()
            after = until(lambda: delays_ms(client, job)[before:], why="the next failed start")
            client.cancel(job)
        in_a_row = delays_ms(client, job)[:before]

    assert in_a_row == [delay_ms(number + 1) for number in range(before)]
    assert after[0] == delay_ms(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/no/such/interpreter -x\n", "wants the interpreter /no/such/interpreter, which does not exist"),
        ("#!/bin/sh\r\necho\r\n", "ends with a carriage return"),
        ("echo hello\n", "does not begin with #!; to have a shell run it: sh "),
    ],
    ids=["no interpreter", "carriage return", "no first line"],
)
@pytest.mark.parametrize("nice", [0, 1], ids=["plain", "prepared"])
def test_script_when_the_kernel_cannot_run_it_then_the_reason_is_named(
    daemon: DaemonProcess, text: str, message: str, nice: int
) -> None:
    script = daemon.home / "script"
    script.write_bytes(text.encode())
    script.chmod(0o755)
    with daemon.client() as client:
        job = submit(client, {"command": str(script), "nice": nice})

        assert end_of(client, job) == ("failed", "spawn_error")
        assert message in client.why(job)["message"]
