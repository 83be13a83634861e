"""Retries of seen failures: when, how often, and for which ends not at all.

Owns the budget and the delays as the log of changes shows them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.work import attempts_of, changes, end_of, job_view, lines, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

JITTER = 0.1
ROUNDING_MS = 2


def delays(client: stoker.Client, job: int) -> list[int]:
    """The delay between each failure and the time of the next try. (Steady time runs with the wall clock here.)"""
    return [
        change["details"]["wake_at"] - change["at"]
        for change in changes(client, job, "ended")
        if change["details"].get("wake_at")
    ]


def assert_near(measured: list[int], expected: list[float]) -> None:
    assert len(measured) == len(expected)
    for delay, ideal in zip(measured, expected, strict=True):
        assert ideal * (1 - JITTER) - ROUNDING_MS <= delay <= ideal * (1 + JITTER) + ROUNDING_MS, (measured, expected)


def test_retry_when_attempts_fail_then_delays_grow_until_the_budget_is_spent(
    client: stoker.Client, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    job = submit(client, shell(f"echo $STOKER_ATTEMPT >> {ledger}; exit 9"), max_attempts=4, base_delay_ms=50,
                 backoff_factor=2)  # fmt: skip

    assert end_of(client, job) == ("failed", "exit")

    assert lines(ledger) == ["1", "2", "3", "4"]
    assert_near(delays(client, job), [50, 100, 200])
    view = job_view(client, job)
    assert (view["attempts"], view["failures"], view["exit_code"]) == (4, 4, 9)


def test_retry_when_due_then_the_next_attempt_starts_and_not_before(client: stoker.Client) -> None:
    job = submit(client, shell("exit 1"), max_attempts=3, base_delay_ms=150, backoff_factor=1)
    end_of(client, job)

    starts = [change["at"] for change in changes(client, job, "dispatched")][1:]
    due = [change["details"]["wake_at"] for change in changes(client, job, "ended")[:-1]]

    assert all(start - at >= -ROUNDING_MS for start, at in zip(starts, due, strict=True)), (starts, due)


def test_retry_when_the_delay_would_pass_its_cap_then_the_cap_holds(client: stoker.Client) -> None:
    job = submit(client, shell("exit 1"), max_attempts=4, base_delay_ms=20, backoff_factor=100, max_delay_ms=60)

    end_of(client, job)

    assert_near(delays(client, job), [20, 60, 60])


def test_retry_when_many_jobs_fail_together_then_their_delays_differ(client: stoker.Client) -> None:
    jobs = [submit(client, shell("exit 1"), max_attempts=2, base_delay_ms=1_000) for _ in range(12)]
    client.wait(*jobs)

    first_delays = [delays(client, job)[0] for job in jobs]

    assert len(set(first_delays)) > 4, first_delays
    assert_near(first_delays, [1_000] * 12)


def test_retry_when_an_attempt_succeeds_then_no_more_are_made(client: stoker.Client) -> None:
    job = submit(client, shell('[ "$STOKER_ATTEMPT" = 3 ]'), max_attempts=10, base_delay_ms=1)

    assert end_of(client, job) == ("succeeded", "exit")

    view = job_view(client, job)
    assert (view["attempts"], view["failures"], view["exit_code"]) == (3, 2, 0)
    assert [attempt["exit_code"] for attempt in attempts_of(client, job)] == [1, 1, 0]


def test_retry_when_the_exit_code_is_permanent_then_the_job_is_not_retried(client: stoker.Client) -> None:
    job = submit(client, shell("exit 65"), max_attempts=5, base_delay_ms=1, no_retry_exit_codes=[64, 65])

    assert end_of(client, job) == ("failed", "exit")

    assert job_view(client, job)["attempts"] == 1


def test_retry_when_the_exit_code_counts_as_success_then_the_job_has_succeeded(client: stoker.Client) -> None:
    good = submit(client, shell("exit 3"), success_exit_codes=[0, 3])
    bad = submit(client, shell("exit 0"), success_exit_codes=[3])

    assert end_of(client, good) == ("succeeded", "exit")
    assert end_of(client, bad) == ("failed", "exit")


def test_retry_when_the_worker_dies_by_a_signal_then_it_is_retried_and_that_is_named(
    client: stoker.Client,
) -> None:
    job = submit(client, shell("kill -SEGV $$"), max_attempts=2, base_delay_ms=1)

    assert end_of(client, job) == ("failed", "signal")

    view = job_view(client, job)
    assert (view["attempts"], view["signal"], view["exit_code"]) == (2, 11, None)


def test_retry_when_the_command_cannot_be_executed_then_the_job_is_not_retried(
    client: stoker.Client, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nowhere/interpreter\n")
    script.chmod(0o700)
    job = submit(client, {"command": str(script)}, max_attempts=5, base_delay_ms=1)

    assert end_of(client, job) == ("failed", "spawn_error")

    (attempt,) = attempts_of(client, job)
    assert attempt["outcome"] == "spawn_error"
    assert "No such file" in attempt["error"]


def test_retry_when_the_working_directory_is_gone_by_then_then_it_is_a_spawn_error(
    client: stoker.Client, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    client.call("queue.set", {"name": "later"})
    client.call("queue.pause", {"name": "later"})
    job = submit(client, shell("exit 0"), working_dir=str(place), queue="later", max_attempts=3)
    place.rmdir()

    client.call("queue.resume", {"name": "later"})

    assert end_of(client, job) == ("failed", "spawn_error")
    assert job_view(client, job)["attempts"] == 1


def test_retry_when_the_deadline_comes_before_it_then_the_job_fails_at_once(client: stoker.Client) -> None:
    deadline = int(time.time() * 1000) + 30_000
    job = submit(client, shell("exit 1"), max_attempts=5, base_delay_ms=60_000, deadline=deadline)

    assert end_of(client, job) == ("failed", "exit")


@pytest.mark.parametrize("by", ["settings", "environment"])
def test_retry_when_settings_say_the_delay_then_jobs_that_do_not_say_have_it(
    stopped_daemon: DaemonProcess, by: str
) -> None:
    stopped_daemon.config.write_text("[retry]\nbase_delay_ms = 30\nbackoff_factor = 3.0\nmax_delay_ms = 50\n")
    if by == "environment":
        stopped_daemon.environ |= {"STOKER_RETRY_BASE_DELAY_MS": "40"}
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        job = submit(client, shell("exit 1"), max_attempts=3)
        end_of(client, job)

        assert_near(delays(client, job), [30 if by == "settings" else 40, 50])
