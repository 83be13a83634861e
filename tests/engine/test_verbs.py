"""Hold, release, skip, retry, restart, in the states that allow them.

Owns the verbs but cancel. That each verb is refused in every other state is the table's (tests/core); here is what a
client sees of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from stoker.core.clock import wall_ms
from stoker.core.errors import AlreadyFinished, ConfirmationNeeded, InvalidParams, JobNotFound, NotAllowed
from tests.support.facts import scales, until
from tests.support.work import changes, end_of, lines, running, shell, state, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.work import Gate

SETTINGS = "[daemon]\nmax_running = 8\n[queues.stopped]\npaused = true\n"
OK, FAILS = shell("exit 0"), shell("exit 1")
HOUR_MS = 3_600_000


def verb(client: stoker.Client, name: str, job: int, **options: object) -> str:
    after: str = client.call(f"job.{name}", {"id": job, **options})["state"]
    return after


def test_hold_when_released_then_the_job_goes_on_where_it_was(client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped")

    assert verb(client, "hold", job, reason="let me look") == "held"
    assert end_of(client, job) == ("held", "user")
    assert client.why(job)["code"] == "held"
    assert verb(client, "release", job) == "queued"
    assert [change["note"] for change in changes(client, job, "hold")] == ["let me look"]


def test_release_when_something_still_blocks_the_job_then_it_waits_again(client: stoker.Client) -> None:
    job = submit(client, OK, run_at=wall_ms() + HOUR_MS)
    verb(client, "hold", job)

    assert verb(client, "release", job) == "waiting"


@pytest.mark.parametrize("name", ["hold", "release", "skip", "retry"])
def test_verb_when_the_job_runs_then_it_is_refused_and_the_job_goes_on(
    client: stoker.Client, gate: Gate, running_job: int, name: str
) -> None:
    with pytest.raises(NotAllowed):
        verb(client, name, running_job)

    gate.open()
    assert end_of(client, running_job) == ("succeeded", "exit")


@pytest.mark.parametrize("name", ["hold", "release", "skip", "cancel"])
def test_verb_when_the_job_has_succeeded_then_it_has_already_finished(client: stoker.Client, name: str) -> None:
    job = submit(client, OK)
    end_of(client, job)

    with pytest.raises(AlreadyFinished):
        verb(client, name, job)


@pytest.mark.parametrize("name", ["cancel", "hold", "release", "skip", "retry", "restart"])
def test_verb_when_there_is_no_such_job_then_it_is_job_not_found(client: stoker.Client, name: str) -> None:
    with pytest.raises(JobNotFound):
        verb(client, name, 987_654)


def test_skip_when_the_job_has_failed_then_it_is_skipped_with_the_reason_kept(client: stoker.Client) -> None:
    job = submit(client, FAILS)
    end_of(client, job)

    assert verb(client, "skip", job, reason="known bad") == "skipped"
    assert end_of(client, job) == ("skipped", "user")
    (change,) = changes(client, job, "skip")
    assert (change["from"], change["to"], change["note"]) == ("failed", "skipped", "known bad")


def test_retry_when_the_job_has_failed_then_its_budget_starts_afresh(client: stoker.Client, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    job = submit(client, shell(f"echo run >> {ledger}; exit 1"), max_attempts=2, base_delay_ms=1)
    end_of(client, job)

    verb(client, "retry", job)

    assert end_of(client, job) == ("failed", "exit")
    assert len(lines(ledger)) == 4
    view = client.get(job)
    assert (view["attempts"], view["failures"]) == (4, 2)


def test_retry_when_a_new_timeout_is_given_then_the_next_attempt_has_it(client: stoker.Client, gate: Gate) -> None:
    job = submit(client, gate.spec(), timeout_ms=50)
    assert end_of(client, job) == ("failed", "timeout")

    verb(client, "retry", job, timeout_ms=60_000)
    running(client, job)

    assert client.get(job)["timeout_ms"] == 60_000
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_retry_when_the_deadline_has_passed_then_a_new_one_is_asked_for(client: stoker.Client) -> None:
    for in_ms in scales(100):
        with contextlib.suppress(InvalidParams):  # it has passed already
            job = submit(client, OK, queue="stopped", deadline=wall_ms() + in_ms)
            break
    assert end_of(client, job) == ("expired", "deadline")

    with pytest.raises(InvalidParams) as refused:
        verb(client, "retry", job)

    assert refused.value.details["path"] == "deadline"
    assert verb(client, "retry", job, deadline=wall_ms() + HOUR_MS) == "queued"


def test_retry_when_the_job_had_succeeded_then_it_runs_once_more(client: stoker.Client) -> None:
    job = submit(client, OK)
    end_of(client, job)

    verb(client, "retry", job)

    assert end_of(client, job) == ("succeeded", "exit")
    assert len(client.history(job)["attempts"]) == 2


def test_restart_when_the_job_is_unsafe_then_it_wants_yes(client: stoker.Client, gate: Gate) -> None:
    job = submit_running(client, gate.spec(), grace_ms=100)

    with pytest.raises(ConfirmationNeeded) as refused:
        verb(client, "restart", job)

    assert "--yes" in str(refused.value.hint)
    assert state(client, job) == "running"
    assert client.get(job)["stopping"] is False


@pytest.mark.parametrize(("safe", "options"), [(False, {"yes": True}), (True, {})])
def test_restart_when_the_job_runs_then_it_is_stopped_and_starts_anew_uncharged(
    client: stoker.Client, gate: Gate, *, safe: bool, options: dict[str, bool]
) -> None:
    job = submit_running(client, gate.spec(), grace_ms=100, on_orphan="requeue" if safe else "fail")

    verb(client, "restart", job, **options)

    until(lambda: client.get(job)["attempts"] == 2, why="the second attempt")
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")
    view = client.get(job)
    assert (view["failures"], view["orphanings"]) == (0, 0)


def test_restart_when_the_job_has_finished_then_it_runs_again(client: stoker.Client) -> None:
    job = submit(client, OK)
    end_of(client, job)

    verb(client, "restart", job, yes=True)

    assert end_of(client, job) == ("succeeded", "exit")
    assert client.get(job)["attempts"] == 2
