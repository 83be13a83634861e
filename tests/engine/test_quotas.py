"""The limits of users over the real socket, and the turns of users who share a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.peers import NEEDS_ROOT, User, answer_of, can_be_others

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.rpc import RawClient

pytestmark = pytest.mark.skipif(not can_be_others(), reason=NEEDS_ROOT)

ANN, BEN, EVE, FAY, GUS, HAL, IVY, JOY = (User(uid) for uid in range(70_001, 70_009))
SETTINGS = """
[access]
users = "everyone"
[daemon]
max_running = 8
[cpu]
throttle_threshold = 100
[quotas]
max_queued = 3
max_workflows = 1
max_schedules = 1
[quotas.users.70002]
max_running = 1
max_queued = 0
[quotas.users.70004]
max_submits_per_s = 1
max_queued = 0
[quotas.users.70005]
max_queued = 0
max_workflows = 0
max_stored_bytes = 60_000
[quotas.users.70006]
max_queued = 0
max_stored_bytes = 60_000
max_log_bytes = 4
[quotas.users.70007]
max_submits_per_s = 1
max_queued = 0
[quotas.users.70008]
max_submits_per_s = 1
max_queued = 0
[queues.stopped]
paused = true
[queues.narrow]
max_running = 1
"""
NEVER = "0 0 1 1 *"
STARTS = """
SELECT jobs.id FROM changes JOIN jobs ON jobs.id = changes.job_id
WHERE queue = 'narrow' AND to_state = 'running' ORDER BY seq
"""


@pytest.fixture(scope="module")
def open_daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess(SETTINGS) as daemon:
        daemon.home.chmod(0o711)
        yield daemon


@pytest.fixture
def ann(open_daemon: DaemonProcess) -> Iterator[RawClient]:
    yield from connected(open_daemon, ANN)


@pytest.fixture
def ben(open_daemon: DaemonProcess) -> Iterator[RawClient]:
    yield from connected(open_daemon, BEN)


def connected(daemon: DaemonProcess, user: User) -> Iterator[RawClient]:
    """A connection of a user, whose jobs and schedules are removed afterwards."""
    client = user.connect(daemon.socket)
    yield client
    for job in result(client, "job.list", states=["waiting", "queued", "held", "running"])["jobs"]:
        answer_of(client, "job.cancel", {"id": job["id"]})
    until(lambda: used(client, "max_queued", "max_running") == [0, 0], why="the end of all jobs")
    for schedule in result(client, "schedule.list")["schedules"]:
        result(client, "schedule.remove", name=schedule["name"])
    client.close()


def result(client: RawClient, method: str, **params: Any) -> Any:
    answer = answer_of(client, method, params)
    assert "result" in answer, answer
    return answer["result"]


def refusal(client: RawClient, method: str, **params: Any) -> tuple[str, str]:
    """The code and the message of an error."""
    error = answer_of(client, method, params)["error"]
    assert "stoker limits" in error["data"]["hint"]
    return error["data"]["code"], error["message"]


def used(client: RawClient, *names: str) -> list[int]:
    """How much of these limits its user has in use."""
    limits = {one["name"]: one["used"] for one in result(client, "system.limits")["limits"]}
    return [limits[name] for name in names]


def stopped(**fields: Any) -> dict[str, Any]:
    return {"command": "/bin/true", "working_dir": "/", "queue": "stopped", **fields}


def flow(name: str) -> dict[str, Any]:
    return {"name": name, "steps": {"a": stopped()}}


def test_submit_when_a_user_has_its_limit_then_it_is_refused_and_others_go_on(ann: RawClient, ben: RawClient) -> None:
    first = result(ann, "job.submit", **stopped())["id"]
    result(ann, "job.submit", **stopped())
    result(ann, "job.hold", id=first)
    result(ann, "job.submit", **stopped())

    code, message = refusal(ann, "job.submit", **stopped())

    assert code == "quota_reached"
    assert message.startswith("uid 70001 has 3 of at most 3 jobs that are waiting, queued or held (max_queued")
    assert used(ann, "max_queued") == [3]
    for _ in range(5):
        result(ben, "job.submit", **stopped())


def test_batch_when_part_of_it_fits_then_each_job_has_its_answer(ann: RawClient) -> None:
    jobs = [stopped() for _ in range(4)]

    whole = answer_of(ann, "job.submit_many", {"jobs": jobs, "atomic": True})
    answers = result(ann, "job.submit_many", jobs=jobs)["jobs"]

    assert whole["error"]["data"]["code"] == "quota_reached"
    assert whole["error"]["message"].startswith("jobs[3]: uid 70001 has 3 of at most 3 jobs")
    assert ["error" in answer for answer in answers] == [False, False, False, True]


def test_workflow_when_a_user_has_its_limit_then_it_is_refused(ann: RawClient) -> None:
    large = {"name": "large", "steps": {f"s{number}": stopped() for number in range(4)}}
    error = answer_of(ann, "workflow.submit", {"flow": large})["error"]
    assert "4 steps never fit: the limit max_queued of [quotas] for uid 70001 is 3" in str(error)

    ident = result(ann, "workflow.submit", flow=flow("one"))["id"]
    code, message = refusal(ann, "workflow.submit", flow=flow("two"))

    assert code == "quota_reached"
    assert message == "uid 70001 has 1 of at most 1 workflows that have not ended (max_workflows in [quotas])"
    result(ann, "workflow.cancel", id=ident)
    until(lambda: used(ann, "max_workflows") == [0], why="the end of the workflow")
    result(ann, "workflow.submit", flow=flow("three"))


def test_schedule_when_a_user_has_its_limit_then_only_its_own_can_be_replaced(ann: RawClient) -> None:
    job = {"command": "/bin/true"}
    result(ann, "schedule.add", name="first", timing=NEVER, job=job)

    code, message = refusal(ann, "schedule.add", name="second", timing=NEVER, job=job)

    assert (code, message) == ("quota_reached", "uid 70001 has 1 of at most 1 schedules (max_schedules in [quotas])")
    result(ann, "schedule.add", name="first", timing=NEVER, job=job, replace=True)


def test_start_when_a_user_runs_its_limit_then_its_other_jobs_wait(ann: RawClient, ben: RawClient) -> None:
    running, waiting = (result(ben, "job.submit", command="/bin/sleep", args=["600"])["id"] for _ in range(2))
    until(lambda: result(ben, "job.get", id=running)["state"] == "running", why="the first job to run")
    others = [result(ann, "job.submit", command="/bin/true")["id"] for _ in range(2)]
    until(lambda: all(result(ann, "job.get", id=job)["finished_at"] for job in others), why="the jobs of another user")

    reason = result(ben, "job.why", id=waiting)

    assert (reason["code"], reason["details"]) == ("quota", {"running": 1, "limit": 1})
    result(ben, "job.cancel", id=running)
    until(lambda: result(ben, "job.get", id=waiting)["state"] == "running", why="the second job to run")


def test_turns_when_users_share_a_queue_then_who_comes_late_is_not_behind_the_crowd(
    ann: RawClient, ben: RawClient, open_daemon: DaemonProcess
) -> None:
    with open_daemon.client() as root:
        root.call("queue.pause", {"name": "narrow"})
        crowd = [result(ben, "job.submit", command="/bin/true", queue="narrow")["id"] for _ in range(8)]
        late = [result(ann, "job.submit", command="/bin/true", queue="narrow")["id"] for _ in range(2)]
        root.call("queue.resume", {"name": "narrow"})
    until(lambda: all(result(ben, "job.get", id=job)["finished_at"] for job in crowd), why="the end of all jobs")

    order = [job for (job,) in open_daemon.rows(STARTS)]

    assert [order.index(job) for job in late] in ([0, 2], [1, 3])


def test_users_when_an_operator_asks_then_each_user_has_its_jobs_and_limits(
    ann: RawClient, open_daemon: DaemonProcess, tmp_path: Path
) -> None:
    result(ann, "job.submit", **stopped())

    table = open_daemon.cli("status", "--users").stdout.splitlines()

    assert table[0].split()[:5] == ["USER", "RUNNING", "QUEUED", "WAITING", "HELD"]
    (row,) = [line.split() for line in table if line.startswith("uid 70001")]
    assert row[:-2] == ["uid", "70001", "0", "1", "0", "0", "-", "3", "0", "of", "1", "0", "of", "1"]
    denied = answer_of(ann, "system.users", {})["error"]
    assert denied["data"]["code"] == "permission_denied"


def test_limits_when_a_client_asks_then_it_sees_its_own(open_daemon: DaemonProcess, ann: RawClient) -> None:
    second = ANN.connect(open_daemon.socket)
    result(second, "system.limits")
    shown = result(ann, "system.limits")
    second.close()

    assert (shown["uid"], shown["role"]) == (70_001, "submitter")
    assert {"name": "max_connections_per_uid", "limit": 4_096, "used": 2} in shown["limits"]
    assert open_daemon.cli("limits").stdout.startswith("user  root, admin\n")


def test_reload_when_a_limit_changes_then_it_is_in_force_at_once(open_daemon: DaemonProcess) -> None:
    eve = EVE.connect(open_daemon.socket)
    open_daemon.config.write_text(SETTINGS + "[quotas.users.70003]\nmax_queued = 1\n")

    changed = open_daemon.cli("config", "reload").stdout

    assert changed == "changed: quotas.users\n"
    job = result(eve, "job.submit", **stopped())["id"]
    assert refusal(eve, "job.submit", **stopped())[0] == "quota_reached"
    result(eve, "job.cancel", id=job)
    eve.close()


def test_submit_when_a_user_is_too_fast_then_only_repeats_are_answered(
    open_daemon: DaemonProcess,
) -> None:
    """One job a second: a batch of 600 is paid for after ten minutes."""
    fay = FAY.connect(open_daemon.socket)
    jobs = [stopped(idempotency_key=f"k{number}") for number in range(600)]
    first = result(fay, "job.submit_many", jobs=jobs)["jobs"]

    code, message = refusal(fay, "job.submit", **stopped())
    flow_code, _ = refusal(fay, "workflow.submit", flow=flow("soon"))

    assert (code, flow_code) == ("quota_reached", "quota_reached")
    assert message == "uid 70004 submits faster than 1 job a second (max_submits_per_s in [quotas])"
    assert result(fay, "job.submit_many", jobs=jobs)["jobs"] == [{**one, "existing": True} for one in first]
    assert result(fay, "workflow.submit", flow=flow("soon"), dry_run=True)["id"] is None
    assert 1 < used(fay, "max_submits_per_s")[0] <= 600
    fay.close()


def test_submit_when_an_earlier_one_was_refused_then_only_accepted_jobs_count(open_daemon: DaemonProcess) -> None:
    ivy = IVY.connect(open_daemon.socket)
    jobs = [stopped()] * 600
    wrong = {"name": "soon", "steps": {"a": {"command": "/bin/true", "queue": "nowhere"}}}

    for method, params in (
        ("job.submit_many", {"jobs": [*jobs, stopped(queue="nowhere")], "atomic": True}),
        ("job.submit_many", {"jobs": [stopped(queue="nowhere")] * 600}),
        ("workflow.submit", {"flow": wrong}),
    ):
        assert "nowhere" in str(answer_of(ivy, method, params))

    assert used(ivy, "max_submits_per_s") == [0]
    result(ivy, "job.submit_many", jobs=jobs)
    ivy.close()


def test_submit_when_the_pace_of_its_user_is_raised_then_the_old_one_holds_no_longer(
    open_daemon: DaemonProcess,
) -> None:
    joy = JOY.connect(open_daemon.socket)
    slow, fast = "[quotas.users.70008]\nmax_submits_per_s = 1\n", "[quotas.users.70008]\nmax_submits_per_s = 1_000\n"
    result(joy, "job.submit_many", jobs=[stopped()] * 600)
    assert refusal(joy, "job.submit", **stopped())[0] == "quota_reached"
    open_daemon.config.write_text(SETTINGS.replace(slow, fast))

    open_daemon.cli("config", "reload")

    result(joy, "job.submit", **stopped())
    joy.close()


def bytes_of(client: RawClient) -> list[int]:
    return used(client, "max_stored_bytes", "max_log_bytes")


def test_bytes_when_a_daemon_starts_then_it_measures_what_was_added(open_daemon: DaemonProcess) -> None:
    """Specs, outputs and checkpoints of jobs and of workflows, and logs."""
    open_daemon.kill_and_start()  # a reload of an earlier test began a measurement, too, whose end is not seen
    gus = GUS.connect(open_daemon.socket)
    until(lambda: None not in bytes_of(gus), why="the measurement: what is added meanwhile may count twice")
    prints = "echo hi; echo '{}' > $STOKER_OUTPUT"
    step = {"command": "/bin/sh", "args": ["-c", prints], "working_dir": "/", "stdin": "é", "env": {"NAME": "é"}}
    ident = result(gus, "workflow.submit", flow={"name": "both", "steps": {"a": step}})["id"]
    until(lambda: result(gus, "workflow.get", id=ident)["state"] == "succeeded", why="the end of the workflow")
    result(gus, "job.submit", **stopped())  # its turn comes after that of the end
    before = bytes_of(gus)
    gus.close()

    open_daemon.kill_and_start()

    gus = GUS.connect(open_daemon.socket)
    until(lambda: bytes_of(gus) == before, why="the same sums")
    assert before[0] > 1_000
    assert before[1] >= len("hi\n")
    gus.close()


def test_bytes_when_a_user_has_its_limit_then_submits_are_refused(open_daemon: DaemonProcess) -> None:
    hal = HAL.connect(open_daemon.socket)
    until(lambda: None not in bytes_of(hal), why="the measurement")
    printing = result(hal, "job.submit", command="/bin/echo", args=["hello"], working_dir="/")["id"]
    until(lambda: result(hal, "job.get", id=printing)["finished_at"], why="the end of the job")

    by_logs = refusal(hal, "job.submit", **stopped())
    table_of_ended = open_daemon.cli("status", "--users").stdout
    open_daemon.config.write_text(SETTINGS.replace("max_log_bytes = 4", "max_log_bytes = 0"))
    open_daemon.cli("config", "reload")
    result(hal, "job.submit", **stopped(stdin="x" * 60_000))
    by_specs = refusal(hal, "job.submit", **stopped())

    assert by_logs == ("quota_reached", "uid 70006 has 6 of at most 4 bytes of logs (max_log_bytes in [quotas])")
    assert "uid 70006" in table_of_ended
    assert by_specs[1].endswith(
        "of at most 60000 bytes of specs, checkpoints and outputs (max_stored_bytes in [quotas])"
    )
    (row,) = [line for line in open_daemon.cli("status", "--users").stdout.splitlines() if "uid 70006" in line]
    assert row.split()[-3:] == ["of", "58.6K", "6B"]
    hal.close()
