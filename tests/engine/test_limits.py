"""Limits in time: ttl, deadline, timeout, the warning before them, and `run_at`.

Owns the times at which a job may start, may no longer start, or must stop. Whole trees are stopped, also those that
ignore SIGTERM.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from stoker.core.clock import wall_ms
from stoker.core.errors import InvalidParams
from tests.support.facts import scales, until
from tests.support.work import Gate, alive, attempts_of, changes, end_of, job_view, lines, shell, state, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n[queues.stopped]\npaused = true\n[queues.once]\n"
OK = shell("exit 0")
HOUR_MS = 3_600_000


def stubborn(gate: Gate, ledger: Path) -> str:
    """A script that ignores SIGTERM, as its child in another session does; both write their pids."""
    wait = f"while :; do read _ < {gate.path}; done"
    return f"trap '' TERM; echo $$ >> {ledger}; setsid sh -c 'echo $$ >> {ledger}; {wait}' & {wait}"


# --- ttl ----------------------------------------------------------------------------------------------------


def test_ttl_when_the_job_has_not_started_in_time_then_it_expires(client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped", ttl_ms=100)

    assert end_of(client, job) == ("expired", "ttl")

    view = job_view(client, job)
    assert view["finished_at"] - view["created_at"] >= 99  # times of the wall clock, a limit of the steady one
    assert view["attempts"] == 0


def test_ttl_when_the_job_has_started_then_it_is_no_limit_any_more(client: stoker.Client, gate: Gate) -> None:
    for ttl_ms in scales(200):
        job = submit(client, gate.spec(), ttl_ms=ttl_ms)
        end_of(client, submit(client, OK, queue="stopped", ttl_ms=ttl_ms))
        if state(client, job) != "expired":
            break

    assert state(client, job) == "running"


def test_ttl_when_the_job_waits_for_a_need_then_it_counts_from_the_end_of_the_need(
    client: stoker.Client, gate: Gate
) -> None:
    needed = submit(client, gate.spec())
    job = submit(client, OK, queue="stopped", needs=[needed], ttl_ms=150)
    measure = submit(client, OK, queue="stopped", ttl_ms=300)
    end_of(client, measure)
    assert state(client, job) == "waiting"

    gate.open()

    assert end_of(client, job) == ("expired", "ttl")
    assert job_view(client, job)["finished_at"] - job_view(client, needed)["finished_at"] >= 150


def test_ttl_when_there_is_a_run_at_then_it_counts_from_there(client: stoker.Client) -> None:
    run_at = wall_ms() + 300
    job = submit(client, OK, queue="stopped", run_at=run_at, ttl_ms=100)

    assert end_of(client, job) == ("expired", "ttl")

    assert job_view(client, job)["finished_at"] >= run_at + 100 - 1


def test_ttl_when_it_passes_while_no_daemon_runs_then_the_next_start_expires_the_job(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, OK, ttl_ms=50)
    daemon.kill_and_start()

    with daemon.client() as client:
        assert end_of(client, job) == ("expired", "ttl")


# --- deadline -----------------------------------------------------------------------------------------------


def test_deadline_when_the_job_has_not_started_then_it_expires(client: stoker.Client) -> None:
    for in_ms in scales(150):
        deadline = wall_ms() + in_ms
        with contextlib.suppress(InvalidParams):  # it has passed already
            job = submit(client, OK, queue="stopped", deadline=deadline)
            break

    assert end_of(client, job) == ("expired", "deadline")
    assert job_view(client, job)["finished_at"] >= deadline


def test_deadline_when_the_job_runs_then_it_is_stopped_and_fails_without_a_retry(
    client: stoker.Client, gate: Gate
) -> None:
    for in_ms in scales(300):
        deadline = wall_ms() + in_ms
        with contextlib.suppress(InvalidParams):  # it has passed already
            job = submit(client, gate.spec(), deadline=deadline, max_attempts=5, base_delay_ms=1)
            end = end_of(client, job)
            if job_view(client, job)["attempts"]:
                break

    assert end == ("failed", "deadline")
    (attempt,) = attempts_of(client, job)
    assert (attempt["stop_reason"], attempt["signal"], attempt["stopped"]) == ("deadline", 15, True)
    assert attempt["ended_at"] >= deadline


def test_deadline_when_it_comes_between_two_attempts_then_there_is_no_second(
    client: stoker.Client, tmp_path: Path
) -> None:
    for in_ms in scales(1_000):
        gate = Gate(tmp_path / str(in_ms))
        options = {"max_attempts": 2, "base_delay_ms": 1, "queue": "once"}
        with contextlib.suppress(InvalidParams):  # it has passed already
            job = submit(client, gate.spec("exit 1"), deadline=wall_ms() + in_ms, **options)
            until(
                lambda: job_view(client, job)["pid"] or job_view(client, job)["finished_at"],  # noqa: B023
                why="its start, or its deadline",
            )
            client.call("queue.pause", {"name": "once"})
            gate.open()
            end = end_of(client, job)
            if end[0] == "expired" and job_view(client, job)["attempts"]:
                break  # else the deadline came before its start, or during its run
            client.call("queue.resume", {"name": "once"})

    assert end == ("expired", "deadline")
    assert (job_view(client, job)["attempts"], job_view(client, job)["failures"]) == (1, 1)


def test_deadline_when_it_has_passed_then_the_submit_is_refused(client: stoker.Client) -> None:
    with pytest.raises(InvalidParams) as refused:
        submit(client, OK, deadline=wall_ms() - 1_000)

    assert refused.value.details["path"] == "deadline"


# --- timeout ------------------------------------------------------------------------------------------------


def test_timeout_when_an_attempt_runs_too_long_then_it_is_a_failure_that_is_retried(
    client: stoker.Client, gate: Gate
) -> None:
    job = submit(client, gate.spec(), timeout_ms=150, max_attempts=2, base_delay_ms=1)

    assert end_of(client, job) == ("failed", "timeout")

    attempts = attempts_of(client, job)
    assert [attempt["stop_reason"] for attempt in attempts] == ["timeout", "timeout"]
    assert all(attempt["ended_at"] - attempt["started_at"] >= 150 - 2 for attempt in attempts)


def test_timeout_when_the_tree_ignores_sigterm_then_all_is_killed_after_the_grace(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    for timeout_ms in scales(400):
        ledger = tmp_path / str(timeout_ms)
        job = submit(client, shell(stubborn(gate, ledger)), timeout_ms=timeout_ms, grace_ms=200)
        end = end_of(client, job)
        if len(lines(ledger)) == 2:
            break

    (attempt,) = attempts_of(client, job)
    assert (end, attempt["signal"]) == (("failed", "timeout"), 9)
    assert attempt["ended_at"] - attempt["started_at"] >= timeout_ms + 200 - 2
    assert [pid for pid in lines(ledger) if alive(int(pid))] == []


def test_timeout_when_the_worker_cleans_up_in_its_grace_then_it_is_left_to(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    for timeout_ms in scales(150):
        ledger = tmp_path / str(timeout_ms)
        cleaning = (
            f"trap 'echo cleaned >> {ledger}; exit 3' TERM; echo up > {ledger}; while :; do read _ < {gate.path}; done"
        )
        job = submit(client, shell(cleaning), timeout_ms=timeout_ms)
        end = end_of(client, job)
        if lines(ledger)[:1] == ["up"]:
            break

    assert end == ("failed", "timeout")
    assert lines(ledger) == ["up", "cleaned"]
    assert job_view(client, job)["exit_code"] == 3


def test_timeout_when_the_worker_floods_and_leaves_daemons_then_all_of_it_is_gone(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    for timeout_ms in scales(500):
        ledger = tmp_path / str(timeout_ms)
        script = f"setsid sh -c 'echo $$ > {ledger}; read _ < {gate.path}' & yes"
        job = submit(client, shell(script), timeout_ms=timeout_ms, max_log_bytes=65_536)
        end = end_of(client, job)
        if lines(ledger):
            break

    assert end == ("failed", "timeout")
    assert not alive(int(lines(ledger)[0]))
    assert client.call("system.health")["ok"]


def test_leftovers_when_the_main_process_ends_then_they_stop_and_its_code_counts(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "said"
    job = submit(client, shell(f"setsid sh -c 'echo $$ > {ledger}; read _ < {gate.path}' & "
                               f"while ! [ -s {ledger} ]; do :; done; exit 4"))  # fmt: skip

    (end,) = client.wait(job)

    assert (end["state"], end["exit_code"]) == ("failed", 4)
    assert not alive(int(lines(ledger)[0]))


# --- the warning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["timeout_ms", "deadline"])
def test_warning_when_a_limit_comes_near_then_the_signal_comes_before_sigterm(
    client: stoker.Client, gate: Gate, tmp_path: Path, limit: str
) -> None:
    for in_ms in scales(700):
        ledger = tmp_path / str(in_ms)
        script = (
            f"trap 'echo usr1 >> {ledger}' USR1; trap 'echo term >> {ledger}; exit 0' TERM; echo ready >> {ledger};"
            f" while :; do read _ < {gate.path}; done"
        )
        limits = {limit: in_ms if limit == "timeout_ms" else wall_ms() + in_ms}
        with contextlib.suppress(InvalidParams):  # the deadline has passed already
            job = submit(client, shell(script), warn_signal=10, warn_before_ms=in_ms // 2, **limits)
            end = end_of(client, job)
        if lines(ledger)[:1] == ["ready"]:
            break

    assert end[0] == "failed"
    assert lines(ledger) == ["ready", "usr1", "term"]


def test_warning_when_the_worker_ends_itself_on_it_then_that_is_an_ordinary_exit(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    for warned_ms in scales(300):
        ledger = tmp_path / str(warned_ms)
        script = f"trap 'exit 0' USR1; echo ready > {ledger}; while :; do read _ < {gate.path}; done"
        job = submit(client, shell(script), warn_signal=10, warn_before_ms=HOUR_MS - warned_ms, timeout_ms=HOUR_MS)
        end = end_of(client, job)
        if lines(ledger):
            break

    assert end == ("succeeded", "exit")


def test_warning_when_there_is_no_limit_then_the_submit_is_refused(client: stoker.Client) -> None:
    with pytest.raises(InvalidParams) as refused:
        submit(client, OK, warn_signal=10)

    assert refused.value.details["path"] == "warn_signal"


# --- run_at -------------------------------------------------------------------------------------------------


def test_run_at_when_it_is_in_the_future_then_the_job_waits_and_why_names_the_time(client: stoker.Client) -> None:
    later = submit(client, OK, run_at=wall_ms() + HOUR_MS)
    run_at = wall_ms() + 400
    job = submit(client, OK, run_at=run_at)

    assert state(client, later) == "waiting"
    assert client.why(later)["code"] == "run_at"
    assert end_of(client, job) == ("succeeded", "exit")
    (start,) = changes(client, job, "dispatched")
    assert start["at"] >= run_at


def test_run_at_when_it_has_passed_then_the_job_starts_at_once(client: stoker.Client) -> None:
    job = submit(client, OK, run_at=wall_ms() - HOUR_MS)

    assert end_of(client, job) == ("succeeded", "exit")


def test_run_at_when_it_passes_while_no_daemon_runs_then_the_next_start_runs_the_job(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        run_at = wall_ms() + 300
        job = submit(client, OK, run_at=run_at)
    daemon.kill9()
    until(lambda: wall_ms() > run_at, why="the time to start")

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")


def test_run_at_when_it_is_not_before_the_deadline_then_the_submit_is_refused(client: stoker.Client) -> None:
    at = wall_ms() + HOUR_MS

    with pytest.raises(InvalidParams) as refused:
        submit(client, OK, run_at=at, deadline=at)

    assert refused.value.details["path"] == "run_at"
