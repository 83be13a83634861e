"""The exit status and the sentence for each end of a job."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.cli.kit import outcome


def standing(
    state: str, reason: str | None = None, code: int | None = None, signal: int | None = None
) -> dict[str, Any]:
    return {"id": 42, "state": state, "reason": reason, "exit_code": code, "signal": signal}


@pytest.mark.parametrize(
    ("where", "status", "sentence"),
    [
        (standing("succeeded", "exit", 0), 0, "job 42 succeeded"),
        (standing("succeeded", "exit", 3), 3, "job 42 succeeded: exit code 3"),
        (standing("failed", "exit", 7), 7, "job 42 failed: exit code 7"),
        (standing("failed", "exit", 0), 1, "job 42 failed: exit code 0"),
        (standing("failed", "signal", None, 9), 137, "job 42 failed: signal 9 (SIGKILL)"),
        (standing("failed", "oom", None, 9), 137, "job 42 failed: killed because memory ran out"),
        (standing("failed", "timeout", None, 15), 124, "job 42 failed: stopped at its time limit (timeout)"),
        (standing("failed", "deadline", None, 15), 124, "job 42 failed: its deadline passed"),
        (standing("expired", "deadline"), 124, "job 42 expired: its deadline passed"),
        (standing("expired", "ttl"), 124, "job 42 expired: did not start within its time to live (ttl)"),
        (standing("cancelled", "user", None, 15), 1, "job 42 cancelled: by a person"),
        (standing("failed", "orphaned", None, None), 1, "job 42 failed: ran or ended while no daemon was there"),
        (standing("held", "stuck"), 1, "job 42 held: a process may be alive that cannot be proven to belong to it"),
        (standing("failed", "spawn_error"), 1, "job 42 failed: the command could not be executed"),
        (standing("failed", "exit"), 1, "job 42 failed: its handler failed"),
        (standing("skipped", "user", 1), 0, "job 42 skipped: by a person"),
        (standing("superseded", "superseded") | {"superseded_by": 57}, 1, "job 42 superseded: job 57 took its place"),
        (standing("skipped", "dependency"), 1, "job 42 skipped: a job it needs can no longer end as needed"),
    ],
)
def test_exit_status_when_a_job_has_ended_then_it_and_the_sentence_say_how(
    where: dict[str, Any], status: int, sentence: str
) -> None:
    assert outcome.exit_status(where) == status
    assert outcome.sentence(where) == sentence


def test_sentence_when_the_kernel_has_an_error_then_its_words_are_printed() -> None:
    where = standing("failed", "spawn_error") | {"attempts_list": [{"error": None}, {"error": "No such file"}]}

    assert outcome.sentence(where) == "job 42 failed: the command could not be executed: No such file"


@pytest.mark.parametrize(
    ("where", "well"),
    [
        (standing("succeeded", "exit", 3), True),
        (standing("skipped", "user"), True),
        (standing("skipped", "dependency"), False),
        (standing("superseded", "superseded"), False),
        (standing("failed", "exit", 0), False),
    ],
)
def test_well_when_a_job_has_ended_then_it_means_that_what_needs_it_goes_on(
    where: dict[str, Any], *, well: bool
) -> None:
    assert outcome.ended_well(where) is well


def test_result_when_shown_in_a_column_then_it_is_short() -> None:
    assert outcome.result(standing("succeeded", "exit", 0)) == ""
    assert outcome.result(standing("failed", "exit", 7)) == "exit 7"
    assert outcome.result(standing("failed", "signal", None, 9)) == "signal 9"
    assert outcome.result(standing("failed", "exit")) == "exception"
    assert outcome.result(standing("queued")) == ""


def test_ended_when_a_person_must_decide_then_nothing_more_comes_by_itself() -> None:
    assert outcome.ended(standing("held", "poison"))
    assert not outcome.ended(standing("waiting"))
