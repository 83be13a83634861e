"""The nouns and the closed lists, written out once more: names that clients, logs and the database depend on."""

from __future__ import annotations

import gc

import msgspec
import pytest
from msgspec.structs import replace

from stoker.core.job.admission import QueuedJob
from stoker.core.job.limits import NO_LIMITS, Limits
from stoker.core.job.model import FINAL, Need, OnOrphan, Reason, Spec, State
from stoker.core.job.run_id import RunId
from stoker.core.rate import KEY_PREFIX
from stoker.core.workflow.state import Edge, Step
from tests.support.jobs import NOW, attempt, exited, job, spec


def test_states_when_listed_then_they_are_those_of_the_design() -> None:
    assert " ".join(State) == "waiting queued running held succeeded failed cancelled expired superseded skipped"
    assert " ".join(state for state in State if state in FINAL) == (
        "succeeded failed cancelled expired superseded skipped"
    )


def test_reasons_when_listed_then_they_are_those_of_the_design() -> None:
    assert " ".join(Reason) == (
        "exit signal timeout deadline ttl oom unresponsive orphaned lost stuck poison spawn_error user superseded "
        "aborted dependency not_needed output condition shutdown restored damaged reused secrets"
    )


@pytest.mark.parametrize(
    "value",
    [
        job(),
        spec(),
        attempt(),
        exited(),
        Need(1),
        QueuedJob(1, 1, "default"),
        Step(name="a", job_id=1, needs=(Edge("b"),)),
        Edge("a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_when_thousands_are_in_memory_then_the_collector_skips_them(value: object) -> None:
    assert not gc.is_tracked(value)


def test_spec_when_only_a_command_is_given_then_the_rest_has_the_promised_defaults() -> None:
    asked = Spec(command="true", working_dir="/")

    promised = {
        "max_attempts": 1, "max_orphanings": 3, "base_delay_ms": 1_000, "backoff_factor": 2.0,
        "max_delay_ms": 3_600_000, "grace_ms": 10_000, "on_orphan": OnOrphan.FAIL, "survive": False,
        "success_exit_codes": (0,), "queue": "default", "priority": 0,
    }  # fmt: skip
    assert {name: getattr(asked, name) for name in promised} == promised


def test_spec_when_its_worker_is_to_report_then_it_gets_a_socket() -> None:
    asked = Spec(command="true", working_dir="/")

    assert not asked.has_notify_socket
    assert replace(asked, notify=True).has_notify_socket
    assert replace(asked, heartbeat_ms=1_000).has_notify_socket


@pytest.mark.parametrize("on_orphan", OnOrphan)
def test_safe_when_on_orphan_is_anything_but_requeue_then_it_is_false(on_orphan: OnOrphan) -> None:
    assert spec(on_orphan=on_orphan).safe is (on_orphan is OnOrphan.REQUEUE)


@pytest.mark.parametrize("state", State)
def test_final_when_a_job_is_in_a_state_then_it_says_whether_that_is_an_end(state: State) -> None:
    assert job(state).final is (state in FINAL)


def test_attempt_when_it_has_an_end_then_it_is_not_open() -> None:
    assert attempt().open
    assert not attempt(ended_at=0, outcome=exited()).open


def test_limits_when_no_limit_is_requested_then_there_is_nothing_to_set_up() -> None:
    assert not Limits()
    assert not NO_LIMITS
    assert Limits(processes=0)
    assert msgspec.json.encode(Limits(processes=4)) == b'{"processes":4}'


def test_spec_when_it_exists_then_it_cannot_be_changed() -> None:
    asked = spec()

    with pytest.raises(AttributeError):
        asked.command = "rm"  # type: ignore[misc]
    assert NOW.wall != NOW.steady


def test_run_id_when_parsed_then_it_is_written_again_and_anything_else_is_refused() -> None:
    assert RunId.parse("42.1.00ff00ff00ff00ff") == RunId(42, 1, "00ff00ff00ff00ff")
    assert str(RunId(42, 1, "00ff00ff00ff00ff")) == "42.1.00ff00ff00ff00ff"
    assert RunId.parse("42.1.00ff00ff00ff00ff.1000") == RunId(42, 1, "00ff00ff00ff00ff", 1000)
    assert str(RunId(42, 1, "00ff00ff00ff00ff", 1000)) == "42.1.00ff00ff00ff00ff.1000"
    for text in ("", "42", "42.1", "42.one.ff", "4.2.1.ff", "4.2.1.0.0"):
        with pytest.raises(ValueError, match=r"unpack|invalid literal"):
            RunId.parse(text)


def test_supersedes_when_jobs_have_the_same_owner_and_key_then_it_is_the_same() -> None:
    asked = spec(supersede_key="site")

    assert job(asked=asked).supersedes == job(id=8, asked=asked).supersedes
    assert job(asked=asked).supersedes != job(asked=asked, owner_uid=1).supersedes
    assert job().supersedes is None


def test_demands_when_a_job_has_a_rate_key_then_it_needs_a_token_and_its_resources() -> None:
    assert spec(resources={"gpu": 2}, rate_key="api").demands == {"gpu": 2, f"{KEY_PREFIX}api": 1}
    assert spec(resources={"gpu": 2}).demands == {"gpu": 2}
