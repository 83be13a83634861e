"""Jobs that wait for named events and for ends: which they get, once each, also through kills.

Owns the promises of a running daemon. The trees themselves are in tests/core.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import (
    FlowInvalid,
    IdempotencyConflict,
    InvalidParams,
    JobNotFound,
    TooManyEvents,
    WorkflowNotFound,
)
from stoker.core.named_events import KEPT_OF_A_NAME, KEPT_OF_A_USER
from stoker.store.loading import DEPENDENTS_LIMIT
from tests.support.facts import until
from tests.support.flows import sent_flow, settled, step, step_states
from tests.support.rpc import RawClient, request
from tests.support.work import attempts_of, changes, end_of, job_view, shell, state, submit, submit_many

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

TRUE = shell("exit 0")
MANY = DEPENDENTS_LIMIT + 50


def emit(client: stoker.Client, name: str, **fields: Any) -> dict[str, Any]:
    return dict(client.call("event.emit", {"name": name, **fields}))


def awaiting(client: stoker.Client, tree: Any, script: str = "exit 0", **options: Any) -> int:
    return submit(client, shell(script, wait_for=tree, **options))


def event_file(out: Path) -> str:
    """A script that leaves its STOKER_EVENT_FILE at a path, all at once."""
    return f"cp $STOKER_EVENT_FILE {out}.new && mv {out}.new {out}"


def test_event_when_jobs_wait_for_it_then_they_start_with_its_data(client: stoker.Client, tmp_path: Path) -> None:
    first = awaiting(client, "event:go", event_file(tmp_path / "first"))
    other = awaiting(client, "event:other")
    data = {"version": "1.4.2", "list": [1, "ü"]}

    answer = emit(client, "go", data=data)

    assert (answer["reached"], answer["more"], answer["existing"]) == (1, False, False)
    assert end_of(client, first) == ("succeeded", "exit")
    got = json.loads((tmp_path / "first").read_text())["go"]
    assert (got["id"], got["data"]) == (answer["id"], data)
    assert state(client, other) == "waiting"
    (met,) = changes(client, first, "condition_met")
    assert met["note"] == f"event:go, event {answer['id']}"
    client.cancel(other)


def test_event_when_it_is_emitted_before_a_submit_then_only_a_kept_one_reaches_it(client: stoker.Client) -> None:
    emit(client, "past")
    late = awaiting(client, "event:past")
    emit(client, "stays", keep_ms=3_600_000)

    early = [awaiting(client, "event:stays"), awaiting(client, "event:stays")]

    assert [end_of(client, job)[0] for job in early] == ["succeeded", "succeeded"]
    assert state(client, late) == "waiting"
    (event,) = client.call("event.list", {"name": "stays"})["events"]
    assert (event["kept"], event["reached"]) == (True, 2)
    client.cancel(late)


def kept(client: stoker.Client, name: str) -> list[bool]:
    return [event["kept"] for event in client.call("event.list", {"name": name})["events"]]


def test_event_when_a_newer_one_is_kept_as_long_then_that_takes_its_place(client: stoker.Client) -> None:
    for keep_ms in (1_000_000, 5_000_000, 2_000_000):
        emit(client, "chain", keep_ms=keep_ms)
    emit(client, "chain", keep_ms=3_000_000, one=True)
    emit(client, "chain")

    assert kept(client, "chain") == [False, True, True, True, False]
    emit(client, "chain", keep_ms=9_000_000)
    assert kept(client, "chain") == [True, False, True, False, False, False]


def emit_kept(daemon: DaemonProcess, name: str, number: int) -> list[str]:
    """The errors of that many events for one job each."""
    with RawClient(daemon.socket) as raw:
        raw.say(b"".join(request("event.emit", n, name=name, one=True, keep_ms=9_999_999) for n in range(number)))
        answers = [raw.hear() for _ in range(number)]
    return [answer["error"]["message"] for answer in answers if "error" in answer]


def test_event_when_too_many_are_kept_then_another_one_is_refused(daemon: DaemonProcess) -> None:
    assert emit_kept(daemon, "tokens", KEPT_OF_A_NAME) == []
    for number in range(KEPT_OF_A_USER // KEPT_OF_A_NAME - 1):
        assert emit_kept(daemon, f"other{number}", KEPT_OF_A_NAME) == []

    with daemon.client() as client:
        with pytest.raises(TooManyEvents, match="name: 1000 events 'tokens' of yours are kept"):
            emit(client, "tokens", keep_ms=1)
        with pytest.raises(TooManyEvents, match="keep_ms: 10000 events of yours are kept"):
            emit(client, "more", keep_ms=1)
        assert emit(client, "tokens")["reached"] == 0
        job = awaiting(client, "event:tokens")
        assert end_of(client, job) == ("succeeded", "exit")
        assert emit(client, "more", keep_ms=9_999_999)["reached"] == 0
        page = client.call("event.list", {"limit": 1})
    assert (page["kept"], page["most_kept"]) == (KEPT_OF_A_USER, KEPT_OF_A_USER)
    assert "10000 of at most 10000 events of yours are kept" in daemon.cli("event", "ls", "more").stderr


def test_event_when_its_time_is_over_then_it_reaches_no_later_job(client: stoker.Client) -> None:
    emit(client, "brief", keep_ms=1)
    until(lambda: not client.call("event.list", {"name": "brief"})["events"][0]["kept"])

    job = awaiting(client, "event:brief")

    assert state(client, job) == "waiting"
    client.cancel(job)


def test_event_when_it_is_for_one_then_the_job_that_waits_longest_gets_it(client: stoker.Client) -> None:
    first, second = awaiting(client, "event:token"), awaiting(client, "event:token")

    assert emit(client, "token", one=True)["reached"] == 1

    assert end_of(client, first) == ("succeeded", "exit")
    assert state(client, second) == "waiting"
    assert emit(client, "token", one=True)["reached"] == 1
    assert end_of(client, second) == ("succeeded", "exit")


def test_event_when_it_is_kept_for_one_then_one_later_job_gets_it(client: stoker.Client) -> None:
    emit(client, "ticket", one=True, keep_ms=3_600_000)

    answers = submit_many(client, [shell("exit 0", wait_for="event:ticket") for _ in range(3)])

    assert [answer["state"] for answer in answers] == ["queued", "waiting", "waiting"]
    for answer in answers[1:]:
        client.cancel(answer["id"])


def test_event_when_several_of_one_turn_are_for_one_then_each_reaches_another_job(
    client: stoker.Client, shared: DaemonProcess
) -> None:
    jobs = [answer["id"] for answer in submit_many(client, [shell("exit 0", wait_for="event:each")] * 4)]

    with RawClient(shared.socket) as raw:
        raw.say(b"".join(request("event.emit", number, name="each", one=True) for number in range(3)))
        answers = [raw.hear()["result"] for _ in range(3)]

    assert [answer["reached"] for answer in answers] == [1, 1, 1]
    assert [end_of(client, job)[0] for job in jobs[:3]] == ["succeeded"] * 3
    assert state(client, jobs[3]) == "waiting"
    client.cancel(jobs[3])


def test_event_when_more_jobs_wait_than_a_turn_serves_then_all_get_it_once(client: stoker.Client) -> None:
    jobs = [answer["id"] for answer in submit_many(client, [shell("exit 0", wait_for="event:all")] * MANY)]

    answer = emit(client, "all", data=1)
    late = awaiting(client, "event:all")

    assert (answer["reached"], answer["more"]) == (DEPENDENTS_LIMIT, True)
    assert {standing["state"] for standing in client.wait(*jobs, timeout_s=120)} == {"succeeded"}
    assert client.call("event.list", {"name": "all"})["events"][0]["reached"] == MANY
    assert state(client, late) == "waiting"
    client.cancel(late)


def test_event_when_a_job_is_held_then_the_condition_is_met_and_it_stays_held(client: stoker.Client) -> None:
    job = awaiting(client, "event:later")
    client.call("job.hold", {"id": job})

    emit(client, "later")

    assert (state(client, job), job_view(client, job)["conditions_open"]) == ("held", [])
    client.call("job.release", {"id": job})
    assert end_of(client, job) == ("succeeded", "exit")


def test_event_when_a_job_was_cancelled_then_it_waits_for_the_next_after_a_retry(client: stoker.Client) -> None:
    job = awaiting(client, "event:again")
    client.cancel(job)
    assert emit(client, "again")["reached"] == 0

    client.retry(job)
    assert state(client, job) == "waiting"

    emit(client, "again")
    assert end_of(client, job) == ("succeeded", "exit")


def test_event_when_its_job_is_retried_then_it_runs_again_with_the_same_data(
    client: stoker.Client, tmp_path: Path
) -> None:
    job = awaiting(client, "event:twice", event_file(tmp_path / "out") + "; exit 3")
    emit(client, "twice", data="first")
    assert end_of(client, job) == ("failed", "exit")
    (tmp_path / "out").unlink()

    client.retry(job)

    until(lambda: len(attempts_of(client, job)) == 2 and end_of(client, job) == ("failed", "exit"))
    assert json.loads((tmp_path / "out").read_text())["twice"]["data"] == "first"


def test_event_when_its_key_was_used_then_it_is_emitted_once(client: stoker.Client) -> None:
    first = emit(client, "keyed", data=1, keep_ms=60_000, idempotency_key="k")

    again = emit(client, "keyed", data=1, keep_ms=60_000, idempotency_key="k")

    assert again == {**first, "existing": True}
    with pytest.raises(IdempotencyConflict, match=rf"event {first['id']}"):
        emit(client, "keyed", data=2, idempotency_key="k")


def test_ttl_when_no_event_comes_then_the_job_expires(client: stoker.Client) -> None:
    job = awaiting(client, "event:never", ttl_ms=50)

    assert end_of(client, job) == ("expired", "ttl")


def test_ttl_when_no_event_comes_after_its_start_time_then_the_job_expires(client: stoker.Client) -> None:
    job = awaiting(client, "event:never", ttl_ms=50, run_at=time.time_ns() // 1_000_000 + 200)

    assert end_of(client, job) == ("expired", "ttl")


def test_event_when_all_or_any_are_asked_then_the_job_starts_with_the_last_or_first(
    client: stoker.Client, tmp_path: Path
) -> None:
    every = awaiting(client, {"all": ["event:x", "event:y"]}, event_file(tmp_path / "every"))
    either = awaiting(client, {"any": ["event:x", "event:y"]}, event_file(tmp_path / "either"))

    emit(client, "y", data="of y")
    assert end_of(client, either) == ("succeeded", "exit")
    assert client.why(every)["details"]["conditions"] == ["event:x"]
    emit(client, "x", data="of x")

    assert end_of(client, every) == ("succeeded", "exit")
    files = {name: json.loads((tmp_path / name).read_text()) for name in ("every", "either")}
    data = {name: {key: got["data"] for key, got in events.items()} for name, events in files.items()}
    assert data == {"every": {"x": "of x", "y": "of y"}, "either": {"y": "of y"}}


# --- ends of jobs and workflows -----------------------------------------------------------------------------


def test_end_when_a_job_fails_then_the_job_that_waits_for_it_starts(client: stoker.Client, gate: Gate) -> None:
    first = submit(client, gate.spec("exit 3"))
    job = awaiting(client, f"job:{first}")
    assert client.why(job)["hint"] == f"stoker why {first}"

    gate.open()

    assert end_of(client, job) == ("succeeded", "exit")
    assert end_of(client, first) == ("failed", "exit")


def test_end_when_it_came_before_the_submit_then_the_job_starts_at_once(client: stoker.Client) -> None:
    first = submit(client, TRUE)
    end_of(client, first)
    workflow = sent_flow(client, {"a": step("exit 1")})
    settled(client, workflow)

    job = awaiting(client, {"all": [f"job:{first}", f"workflow:{workflow}"]})

    assert end_of(client, job) == ("succeeded", "exit")


def test_end_when_a_workflow_ends_then_the_job_that_waits_for_it_starts(client: stoker.Client, gate: Gate) -> None:
    workflow = sent_flow(client, {"a": step(f"read _ < {gate.path}"), "b": step("exit 1", "a")})
    job = awaiting(client, f"workflow:{workflow}")
    assert client.why(job)["hint"] == f"stoker workflow show {workflow}"

    gate.open()

    assert end_of(client, job) == ("succeeded", "exit")
    assert client.workflow(workflow)["state"] == "failed"


def test_end_when_the_waiting_job_was_cancelled_then_a_retry_need_not_wait_for_it(
    client: stoker.Client, gate: Gate
) -> None:
    first = submit(client, gate.spec())
    job = awaiting(client, f"job:{first}")
    client.cancel(job)
    gate.open()
    end_of(client, first)
    until(lambda: job_view(client, job)["conditions_open"] == [])

    client.retry(job)

    assert end_of(client, job) == ("succeeded", "exit")


def test_step_when_it_waits_for_an_event_then_its_workflow_goes_on_with_it(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"a": {**step("exit 0"), "wait_for": "event:approved"}, "b": step("exit 0", "a")})
    until(lambda: step_states(client, workflow)["a"] == "waiting")
    assert [step["conditions_open"] for step in client.workflow(workflow)["steps"]] == [["event:approved"], []]

    emit(client, "approved")

    assert settled(client, workflow) == "succeeded"


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "error", "words"),
    [
        ("job:999999", JobNotFound, "there is no job 999999 of yours"),
        ("workflow:999999", WorkflowNotFound, "there is no workflow 999999 of yours"),
        ("deploy", InvalidParams, "is not a condition"),
        (["event:a"], InvalidParams, "wait_for"),
        ({"all": []}, InvalidParams, "either `all` or `any`"),
        ({"all": ["event:a"], "none": 1}, InvalidParams, "wait_for"),
        (7, InvalidParams, "wait_for"),
    ],
)
def test_submit_when_a_condition_is_wrong_then_it_is_refused_and_nothing_changes(
    client: stoker.Client, tree: Any, error: type[Exception], words: str
) -> None:
    before = client.status()["last_seq"]

    with pytest.raises(error, match=words):
        awaiting(client, tree)

    assert client.status()["last_seq"] == before


def test_flow_when_a_condition_of_a_step_is_wrong_then_the_step_is_named(client: stoker.Client) -> None:
    with pytest.raises(FlowInvalid, match=r"there is no job 999999 of yours"):
        sent_flow(client, {"a": {**step("exit 0"), "wait_for": "job:999999"}})


@pytest.mark.parametrize(
    "fields", [{"name": "a b"}, {"name": ""}, {"name": "a", "data": "x" * 70_000}, {"name": "a", "keep_ms": 0}]
)
def test_emit_when_a_value_is_wrong_then_it_is_refused_and_nothing_changes(
    client: stoker.Client, fields: dict[str, Any]
) -> None:
    before = client.status()["last_seq"]

    with pytest.raises(InvalidParams):
        client.call("event.emit", fields)

    assert client.status()["last_seq"] == before


# --- through kills ------------------------------------------------------------------------------------------


def test_event_when_the_daemon_is_killed_after_its_answer_then_all_get_it_once(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        jobs = [answer["id"] for answer in submit_many(client, [shell("exit 0", wait_for="event:go")] * MANY)]
        answer = emit(client, "go", idempotency_key="k")
        assert answer["more"]
    daemon.kill_and_start()

    with daemon.client() as client:
        assert emit(client, "go", idempotency_key="k")["existing"]
        until(lambda: all(not job["conditions_open"] for job in client.list(limit=1000)["jobs"]))
        assert [len(changes(client, job, "condition_met")) for job in jobs] == [1] * MANY
        (event,) = client.call("event.list", {"name": "go"})["events"]
        assert event["reached"] == MANY


def test_conditions_when_the_daemon_starts_again_then_met_ones_stay_met(daemon: DaemonProcess, tmp_path: Path) -> None:
    with daemon.client() as client:
        job = awaiting(client, {"all": ["event:one", "event:two"]}, event_file(tmp_path / "out"))
        emit(client, "one", data=1)
    daemon.kill_and_start()

    with daemon.client() as client:
        assert job_view(client, job)["conditions_open"] == ["event:two"]
        emit(client, "two", data=2)
        assert end_of(client, job) == ("succeeded", "exit")
    got = json.loads((tmp_path / "out").read_text())
    assert {name: event["data"] for name, event in got.items()} == {"one": 1, "two": 2}
