"""Recoveries that cannot be trusted: the daemon stays up, answers, changes nothing, and says what to do.

Owns the three ways into safe mode at a start (a plan that is not valid, a limit that passed, a witness that cannot be
read), the way under a living daemon, and the way out, which is another start.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import EX_TEMPFAIL, StokerError
from stoker.paths import with_state_dir
from tests.support import past
from tests.support.batches import tables_of
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow, step
from tests.support.work import alive, end_of, job_view, kill9, running, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.work import Gate

HURRIED = "[recovery]\ntimeout_ms = 1000\n"
KEPT = ("jobs", "attempts", "changes", "needs", "queues")
CHANGING: dict[str, dict[str, Any]] = {
    "job.submit": shell("exit 0"),
    "job.cancel": {"id": 1},
    "job.edit": {"id": 1, "priority": 5},
    "workflow.submit": {"flow": flow({"a": step("exit 0")})},
    "workflow.pause": {"id": 1},
    "checkpoint.save": {"token": "1.1.0:0", "data": ""},
    "queue.pause": {"name": "default"},
}


def pids(client: stoker.Client, *jobs: int) -> list[int]:
    running(client, *jobs)
    return [job_view(client, job)["pid"] for job in jobs]


def launchers(client: stoker.Client) -> list[dict[str, Any]]:
    return list(client.call("system.status")["launchers"])


def two_claim_one_process(daemon: DaemonProcess, gate: Gate) -> tuple[list[int], list[int]]:
    """Two jobs without a launcher whose rows name the same process, and the pids of their workers."""
    with daemon.client() as client:
        jobs = [submit(client, gate.spec(name="one")), submit(client, gate.spec(name="two"))]
        workers = pids(client, *jobs)
        (launcher,) = launchers(client)
    daemon.kill9()
    kill9(launcher["pid"])
    past.claim(daemon.state_dir / "stoker.db", jobs, workers[0])
    return jobs, workers


def refusal(client: stoker.Client, method: str, **params: Any) -> StokerError:
    """The refusal of a request that changes something."""
    with pytest.raises(StokerError) as refused:
        client.call(method, params)
    return refused.value


def assert_safe(daemon: DaemonProcess, why: str, then: str) -> None:
    """Check how safe mode shows to people and programs."""
    shown = daemon.cli("status")
    with daemon.client() as client:
        status = client.status()
        assert client.call("system.health")["ok"], "the watchdog must not end what stays up on purpose"
        refusals = [refusal(client, method, **params) for method, params in CHANGING.items()]
    sent = daemon.cli("submit", "true")
    assert status["mode"] == "safe"
    assert why in str(status["safe_mode"])
    assert then in str(status["safe_mode_next"])
    assert "safe mode" in shown.stdout
    assert with_state_dir(then, str(daemon.state_dir), daemon.environ, os.geteuid()) in shown.stdout
    assert {(refused.code, refused.transient) for refused in refusals} == {("safe_mode", True)}
    message = f"the daemon is in safe mode and changes nothing: {status['safe_mode']}"
    assert {refused.message for refused in refusals} == {message}
    assert sent.returncode == EX_TEMPFAIL
    assert "hint: stoker status" in sent.stderr
    assert daemon.logged("safe_mode_entered")


def test_plan_when_two_attempts_claim_one_process_then_the_daemon_only_answers_reads(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        done = submit(client, shell("echo said"))
        assert end_of(client, done) == ("succeeded", "exit")
    jobs, workers = two_claim_one_process(daemon, gate)
    before = tables_of(daemon.state_dir / "stoker.db", KEPT)

    daemon.start()

    assert_safe(daemon, f"claimed by {jobs[0]}.1.", "stoker recover --dry-run")
    reads = [("ls",), ("show", str(jobs[0])), ("logs", str(done)), ("why", str(jobs[0])), ("history", str(jobs[1])),
             ("queue",), ("resource",), ("status", "--json")]  # fmt: skip
    for read in reads:
        answer = daemon.cli(*read)
        assert (answer.returncode, answer.stderr) == (0, ""), read
    for verb in (("cancel", str(jobs[0])), ("queue", "pause", "default"), ("resource", "set", "gpu=1")):
        assert daemon.cli(*verb).returncode == EX_TEMPFAIL, verb
    assert daemon.cli("drain").stderr == "stoker: draining: no job starts; the daemon exits\n"
    assert daemon.wait() == 0
    assert tables_of(daemon.state_dir / "stoker.db", KEPT) == before
    assert all(alive(pid) for pid in workers)


def test_row_when_a_queued_job_has_an_open_attempt_then_safe_mode_names_it(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec())
        (pid,) = pids(client, job)
    daemon.kill9()
    past.forget_start(daemon.state_dir / "stoker.db", job)
    before = tables_of(daemon.state_dir / "stoker.db", KEPT)
    message = f"job {job} is queued, but its attempt 1 (run {job}.1."

    preview = daemon.cli("recover", "--dry-run", "--state-dir", str(daemon.state_dir))
    daemon.start()

    assert (preview.returncode, preview.stderr) == (1, "")
    assert message in preview.stdout
    assert f"next: stop the daemon, then: stoker restore --state-dir {daemon.state_dir} --from" in preview.stdout
    assert_safe(daemon, message, "stoker restore --from-backup latest")
    shown = daemon.cli("status").stdout
    assert "given up, unfinished attempts are unchanged" in shown
    assert "no unfinished attempts" not in shown
    assert "recorded as running and left alone" in shown
    with daemon.client() as client:
        assert client.status()["disk"]["free_bytes"] > 0
    assert daemon.stop() == 0
    assert tables_of(daemon.state_dir / "stoker.db", KEPT) == before
    assert alive(pid)


def test_safe_mode_when_its_cause_is_gone_then_the_next_start_recovers(daemon: DaemonProcess, gate: Gate) -> None:
    jobs, workers = two_claim_one_process(daemon, gate)
    daemon.start()
    daemon.stop()

    kill9(workers[0])
    daemon.start()

    with daemon.client() as client:
        assert client.status()["safe_mode"] is None
        assert [end_of(client, job) for job in jobs] == [("failed", "orphaned")] * 2
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")


def test_limit_when_recovery_takes_longer_then_nothing_is_done_until_the_next_start(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec("exit 5"), survive=True)
        (pid,) = pids(client, job)
        (launcher,) = launchers(client)
    daemon.kill9()
    before = tables_of(daemon.state_dir / "stoker.db", KEPT)
    os.kill(launcher["pid"], signal.SIGSTOP)

    daemon.config.write_text(HURRIED)
    daemon.start()

    assert_safe(daemon, "not over within 1000 ms", "raise timeout_ms in [recovery]")
    assert daemon.stop() == 0
    assert tables_of(daemon.state_dir / "stoker.db", KEPT) == before
    os.kill(launcher["pid"], signal.SIGCONT)
    daemon.config.write_text("")
    daemon.start()
    with daemon.client() as client:
        assert job_view(client, job)["pid"] == pid
        gate.open()
        assert end_of(client, job) == ("failed", "exit")
        assert job_view(client, job)["exit_code"] == 5


def test_witness_when_it_cannot_be_read_then_its_file_and_a_remedy_are_named(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec())
        (pid,) = pids(client, job)
        (launcher,) = launchers(client)
    daemon.kill9()
    damaged = damage_outcomes(daemon, launcher["id"])

    daemon.start()

    assert_safe(daemon, str(damaged), "move the file aside")
    assert alive(pid)
    assert daemon.stop() == 0
    assert damaged.read_bytes() == b"no outcome\n"
    damaged.unlink()
    daemon.start()
    with daemon.client() as client:
        assert end_of(client, job) == ("failed", "orphaned")


def test_witness_when_it_cannot_be_read_then_jobs_of_other_launchers_are_settled(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit(client, gate.spec("exit 0"))
        other = submit(client, gate.spec("exit 3"))
        (pid, _) = pids(client, job, other)
        (launcher,) = launchers(client)
    damage_outcomes(daemon, launcher["id"])

    kill9(launcher["pid"])

    with daemon.client() as client:
        until(lambda: client.status()["safe_mode"], why="safe mode")
    assert_safe(daemon, "not an outcome", "move the file aside")
    assert alive(pid)
    assert daemon.stop() == 0


def damage_outcomes(daemon: DaemonProcess, launcher: str) -> Path:
    log = daemon.state_dir / "outcomes" / f"{launcher}.log"
    log.write_bytes(b"no outcome\n")
    return log
