"""Accepting jobs: idempotency keys, batches, and mistakes that are found before anything is stored.

Owns the answers to submits and that an error stores nothing. tests/bad_input has malformed requests.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from stoker.core.errors import IdempotencyConflict, InvalidParams, QueueNotFound, StokerError
from stoker.core.requests import JobParams
from stoker.engine.submit import key_digest
from tests.support.rpc import RawClient, request
from tests.support.work import end_of, job_view, lines, shell, submit, submit_many

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

OK = shell("exit 0")


def stored(client: stoker.Client) -> int:
    """The id of the newest job, which shows whether an error has stored one."""
    return max((int(job["id"]) for job in client.list(limit=1)["jobs"]), default=0)


def test_submit_when_answered_then_the_job_has_everything_that_was_asked(client: stoker.Client, tmp_path: Path) -> None:
    asked = {
        "command": "/bin/cat", "args": ["-"], "env": {"COLOUR": "blue"}, "working_dir": str(tmp_path), "stdin": "hello",
        "name": "greeting", "labels": {"team": "blue"}, "priority": 5, "max_attempts": 3, "backoff_factor": 1.5,
        "ttl_ms": 60_000, "timeout_ms": 30_000, "grace_ms": 500, "on_orphan": "hold", "survive": True, "nice": 3,
        "success_exit_codes": [0, 7], "limits": {"open_files": 64},
    }  # fmt: skip
    job = submit(client, asked)
    end_of(client, job)

    view = job_view(client, job)

    for name in set(asked) - {"env", "limits"}:
        assert view[name] == asked[name], name
    assert view["env_vars"] == {"COLOUR": "blue"}
    assert view["limits"]["open_files"] == 64
    assert b"".join(client.logs(job)) == b"hello"


def test_submit_when_the_worker_runs_then_it_has_its_own_and_allowed_variables_only(
    daemon: DaemonProcess,
) -> None:
    daemon.stop()
    daemon.environ |= {"SECRET_TOKEN": "hush", "TZ": "UTC"}
    daemon.start()
    with daemon.client() as client:
        job = submit(client, {"command": "env", "env": {"COLOUR": "blue", "PATH": "/usr/bin:/bin"}})
        end_of(client, job)
        seen = dict(line.split("=", 1) for line in b"".join(client.logs(job)).decode().splitlines())

    assert "SECRET_TOKEN" not in seen
    assert "NOTIFY_SOCKET" not in seen
    assert (seen["COLOUR"], seen["TZ"], seen["PATH"]) == ("blue", "UTC", "/usr/bin:/bin")
    assert (seen["STOKER_JOB_ID"], seen["STOKER_ATTEMPT"]) == (str(job), "1")
    assert seen["STOKER_SOCKET"] == str(daemon.socket)
    assert seen["TRACEPARENT"].startswith("00-")


def test_key_when_sent_twice_then_the_same_job_is_answered_as_existing(client: stoker.Client, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    spec = shell(f"echo run >> {ledger}", idempotency_key="nightly/1")

    first, second = client.call("job.submit", spec), client.call("job.submit", spec)

    assert second["id"] == first["id"]
    assert (first["existing"], second["existing"]) == (False, True)
    end_of(client, first["id"])
    assert client.call("job.submit", spec)["state"] == "succeeded"
    assert lines(ledger) == ["run"]


@pytest.mark.parametrize("change", [{"args": ["-c", "exit 1"]}, {"priority": 1}, {"queue": "default"}, {"env": {}}])
def test_key_when_the_spec_differs_then_it_is_a_conflict_that_names_the_job(
    client: stoker.Client, request: pytest.FixtureRequest, change: dict[str, object]
) -> None:
    key = request.node.name
    job = submit(client, OK, idempotency_key=key)
    before = client.list()["jobs"][0]["id"]

    with pytest.raises(IdempotencyConflict) as refused:
        submit(client, {**OK, **change}, idempotency_key=key)

    assert refused.value.details["id"] == job
    assert client.list()["jobs"][0]["id"] == before


def test_key_when_used_for_another_spec_then_the_error_names_the_fields_that_differ(
    client: stoker.Client,
) -> None:
    sent = shell("exit 0", idempotency_key="differs/1", working_dir="/", env={"TOKEN": "old"}, timeout_ms=5_000)
    job = submit(client, sent)
    others = {"working_dir": "/usr", "env": {"TOKEN": "new"}, "timeout_ms": 90_000, "name": "x", "args": ["y" * 100]}

    with pytest.raises(IdempotencyConflict) as refused:
        submit(client, {**sent, **others})

    assert refused.value.message == (
        f"idempotency_key: 'differs/1' was used for job {job} with another spec: working_dir is '/usr' and was '/';"
        " args differs; env differs; name is 'x' and was not set; timeout_ms is 90s and was 5s"
    )


def test_key_when_the_daemon_was_killed_meanwhile_then_it_is_remembered(daemon: DaemonProcess) -> None:
    spec = shell("exit 0", idempotency_key="once")
    with daemon.client() as client:
        job = submit(client, spec)
    daemon.kill_and_start()

    with daemon.client() as client:
        again = client.call("job.submit", spec)
        with pytest.raises(IdempotencyConflict):
            submit(client, shell("exit 1", idempotency_key="once"))

    assert (again["id"], again["existing"]) == (job, True)


def test_key_when_an_earlier_version_stored_it_then_the_same_spec_still_has_its_hash() -> None:
    params = {"command": "sha256sum", "args": ["/etc/hosts"], "env": {"A": "b"}, "needs": [3, {"job": 4, "on": "any"}],
            "limits": {"memory_bytes": 1_048_576}, "idempotency_key": "nightly/1"}  # fmt: skip

    assert key_digest(msgspec.convert(params, JobParams)).hex() == "0b48606e0353edbc43b2e9b296c96f23"


def test_key_when_it_stands_twice_in_one_batch_then_one_job_is_stored(client: stoker.Client) -> None:
    spec = shell("exit 0", idempotency_key="batch/1")

    first, second, conflict = submit_many(client, [spec, spec, {**spec, "priority": 1}])

    assert first["id"] == second["id"]
    assert (first["existing"], second["existing"]) == (False, True)
    assert conflict["error"]["data"]["code"] == "idempotency_conflict"


def test_key_when_many_clients_send_it_at_once_then_one_job_is_stored(shared: DaemonProcess) -> None:
    spec = shell("exit 0", idempotency_key="crowd/1")
    answers: list[tuple[int, bool]] = []
    together = threading.Barrier(8)

    def send() -> None:
        with shared.client() as client:
            client.status()
            together.wait()
            answer = client.call("job.submit", spec)
            answers.append((answer["id"], answer["existing"]))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({job for job, _ in answers}) == 1
    assert sorted(existing for _, existing in answers) == [False] + [True] * 7


def test_batch_when_some_jobs_are_wrong_then_each_has_its_own_answer(client: stoker.Client) -> None:
    answers = submit_many(client, [OK, {"command": "/nowhere/at/all"}, {**OK, "queue": "nowhere"}, OK])

    codes = [answer["error"]["data"]["code"] if "error" in answer else "ok" for answer in answers]
    assert codes == ["ok", "invalid_params", "queue_not_found", "ok"]
    assert answers[1]["error"]["data"]["path"] == "jobs[1].command"
    assert answers[2]["error"]["data"]["path"] == "jobs[2].queue"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"command": "/nowhere/at/all"}, InvalidParams),
        ({**OK, "queue": "nowhere"}, QueueNotFound),
        ({**OK, "working_dir": "relative"}, InvalidParams),
    ],
)
def test_batch_when_it_is_atomic_and_one_job_is_wrong_then_nothing_is_stored(
    client: stoker.Client, wrong: dict[str, object], error: type[StokerError]
) -> None:
    before = stored(client)

    with pytest.raises(error) as refused:
        submit_many(client, [OK, wrong, OK], atomic=True)

    assert refused.value.details["path"].startswith("jobs[1].")
    assert stored(client) == before


def test_batch_when_it_is_atomic_and_a_key_stands_twice_then_nothing_is_stored(client: stoker.Client) -> None:
    before = stored(client)
    spec = shell("exit 0", idempotency_key="atomic/1")

    with pytest.raises(InvalidParams):
        submit_many(client, [spec, spec], atomic=True)

    assert stored(client) == before


def test_batch_when_it_is_atomic_and_known_then_it_gives_the_same_jobs(client: stoker.Client) -> None:
    specs = [shell("exit 0", idempotency_key=f"atomic/again/{number}") for number in range(3)]

    first = submit_many(client, specs, atomic=True)
    second = submit_many(client, specs, atomic=True)

    assert [answer["id"] for answer in second] == [answer["id"] for answer in first]
    assert {answer["existing"] for answer in second} == {True}


def test_batch_when_it_is_empty_then_the_answer_is_empty(client: stoker.Client) -> None:
    assert client.call("job.submit_many", {"jobs": []}) == {"jobs": []}


def test_submits_when_pipelined_then_each_is_answered_and_has_its_own_job(shared: DaemonProcess) -> None:
    with RawClient(shared.socket) as raw:
        raw.say(b"".join(request("job.submit", number, command="true") for number in range(200)))
        answers = [raw.hear() for _ in range(200)]

    ids = {answer["id"]: answer["result"]["id"] for answer in answers}
    assert sorted(ids) == list(range(200))
    assert len(set(ids.values())) == 200


def test_submit_when_sent_as_json_rpc_batch_then_there_is_one_array_of_answers(shared: DaemonProcess) -> None:
    calls = [{"jsonrpc": "2.0", "id": number, "method": "job.submit", "params": OK} for number in range(5)]
    with RawClient(shared.socket) as raw:
        raw.say(json.dumps(calls).encode() + b"\n")
        answers = raw.hear()

    assert sorted(answer["id"] for answer in answers) == list(range(5))


def test_submit_when_sent_as_notification_then_it_is_stored_and_nothing_is_answered(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    with RawClient(shared.socket) as raw:
        raw.say(
            json.dumps({"jsonrpc": "2.0", "method": "job.submit", "params": {**OK, "name": "quiet"}}).encode() + b"\n"
        )
        answer = raw.ask("system.health", 7)

    assert answer["id"] == 7
    assert len(client.list(name="quiet")["jobs"]) == 1
