"""The rights of users who share a daemon, over the real socket and with real numbers of users and groups."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli import jobs
from stoker.rpc.methods import METHODS
from stoker.rpc.roles import RIGHTS
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.peers import NEEDS_ROOT, User, answer_of, can_be_others, code_of, result
from tests.support.rpc import request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rpc import RawClient

pytestmark = pytest.mark.skipif(not can_be_others(), reason=NEEDS_ROOT)

MEMBERS, OPERATORS, ADMINS, NOBODY = 70_010, 70_020, 70_030, 65_534
USERS = {
    "root": User(0),
    "admin": User(70_003, [ADMINS]),
    "operator": User(70_002, [OPERATORS]),
    "owner": User(70_001, [MEMBERS]),
    "member": User(70_004, [MEMBERS]),
}
OUTSIDE = {
    "stranger": User(70_005),
    "group dropped before": User(70_002, [70_999]),
    "overflow": User(NOBODY, [MEMBERS, ADMINS]),
}
SETTINGS = f"""
[access]
users = "group"
group = "{MEMBERS}"
operator_group = "{OPERATORS}"
admin_group = "{ADMINS}"
[hooks.tell]
on = ["job.failed"]
command = "/bin/true"
"""
FAR = int(time.time() * 1_000) + 10**10
SEEN, HIDDEN = "seen-4f1d", "hidden-9c2e"  # in the names of the owner's things; in what they run
OWNERS_JOB = {"command": "/bin/sleep", "args": ["0", HIDDEN], "env": {"A": HIDDEN}, "name": SEEN, "labels": {"k": SEEN}}
NOT_FOUND = {"job_not_found", "workflow_not_found", "checkpoint_not_found", "schedule_not_found"}


@pytest.fixture(scope="module")
def open_daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess(SETTINGS) as daemon:
        daemon.home.chmod(0o711)
        yield daemon


@pytest.fixture(scope="module")
def clients(open_daemon: DaemonProcess) -> Iterator[dict[str, RawClient]]:
    connected = {name: user.connect(open_daemon.socket) for name, user in USERS.items()}
    yield connected
    for client in connected.values():
        client.close()


@pytest.fixture(scope="module")
def things(clients: dict[str, RawClient]) -> dict[str, dict[str, Any]]:
    """The owner's things, as parameters of each method."""
    owner = clients["owner"]
    job = result(owner, "job.submit", **OWNERS_JOB, run_at=FAR, idempotency_key="k")["id"]
    step = {"command": "/bin/true", "run_at": FAR}
    flow = {"name": SEEN, "steps": {"a": step, "b": {**step, "needs": ["a"]}}}
    workflow = result(owner, "workflow.submit", flow=flow)["id"]
    result(owner, "workflow.cancel", id=workflow)
    kept = until(lambda: result(owner, "checkpoint.list", workflow=workflow)["checkpoints"], why="a checkpoint")
    schedule = {"name": SEEN, "timing": "0 0 1 1 *", "job": {"command": "/bin/true", "args": [HIDDEN]}}
    named = {"name": SEEN}
    return {
        **{key: {} for key in METHODS},
        **{method: {"id": job} for method in METHODS if method.startswith("job.")},
        **{method: {"id": workflow} for method in METHODS if method.startswith("workflow.")},
        **{method: named for method in METHODS if method.startswith("schedule.")},
        "job.submit": {"command": "/bin/true"},
        "job.submit_many": {"jobs": [{"command": "/bin/true"}]},
        "job.find": {"idempotency_key": "k"},
        "job.list": {},
        "job.wait": {"ids": [job], "timeout_ms": 0},
        "worker.get": {"job": job},
        "workflow.submit": {"flow": {"name": "f", "steps": {"a": {"command": "/bin/true"}}}},
        "workflow.list": {},
        "workflow.skip": {"id": workflow, "step": "a"},
        "workflow.rollback": {"id": workflow, "to": "latest"},
        "workflow.add_need": {"id": workflow, "step": "b", "need": "a"},
        "workflow.remove_need": {"id": workflow, "step": "b", "need": "a"},
        "checkpoint.save": {"token": "none", "data": ""},
        "checkpoint.get": {"id": kept[0]["id"]},
        "checkpoint.list": {"workflow": workflow},
        "watch": {"job": job},
        "schedule.add": {**schedule, "replace": True},
        "schedule.list": {},
        "event.emit": {"name": "e"},
        "queue.wait": {"name": "default", "places": 1},
        **{key: {"name": "default"} for key in ("queue.pause", "queue.resume", "queue.set")},
        "resource.set": {"name": "r", "capacity": 1},
        "rate.set": {"key": "x", "rate": "1/s"},
        "rate.remove": {"key": "x"},
        "attempt.list": {"since": 1_000_000_000_000},
        "recovery.get": {"epoch": 1},
        "hook.get": {"name": "tell"},
        "hook.test": {"name": "tell"},
        "system.purge": {"before": 1_000_000_000_000, "dry_run": True},
    }


# The columns are those of USERS. +: the method is carried out (it may fail for another reason); 0: there is no such
# thing; -: the role is too low.
EXPECTED = {
    "job.submit":           "+ + + + +",
    "job.submit_many":      "+ + + + +",
    "job.get":              "+ + + + 0",
    "job.find":             "0 0 0 + 0",
    "job.list":             "+ + + + +",
    "job.edit":             "+ + 0 + 0",
    "job.cancel":           "+ + + + 0",
    "job.retry":            "+ + 0 + 0",
    "job.skip":             "+ + 0 + 0",
    "job.hold":             "+ + + + 0",
    "job.release":          "+ + + + 0",
    "job.restart":          "+ + 0 + 0",
    "job.wait":             "+ + 0 + 0",
    "job.logs":             "+ + 0 + 0",
    "job.why":              "+ + 0 + 0",
    "job.environment":      "+ + 0 + 0",
    "job.history":          "+ + 0 + 0",
    "worker.get":           "+ + 0 + 0",
    "workflow.submit":      "+ + + + +",
    "workflow.get":         "+ + 0 + 0",
    "workflow.steps":       "+ + 0 + 0",
    "workflow.list":        "+ + + + +",
    "workflow.pause":       "+ + + + 0",
    "workflow.cancel":      "+ + + + 0",
    "workflow.resume":      "+ + 0 + 0",
    "workflow.retry":       "+ + 0 + 0",
    "workflow.skip":        "+ + 0 + 0",
    "workflow.add_need":    "+ + 0 + 0",
    "workflow.remove_need": "+ + 0 + 0",
    "workflow.rollback":    "+ + 0 + 0",
    "checkpoint.save":      "+ + + + +",
    "checkpoint.get":       "+ + 0 + 0",
    "checkpoint.list":      "+ + 0 + 0",
    "schedule.add":         "+ + x + x",
    "schedule.list":        "+ + + + +",
    "schedule.get":         "+ + 0 + 0",
    "schedule.next":        "+ + 0 + 0",
    "schedule.pause":       "+ + 0 + 0",
    "schedule.resume":      "+ + 0 + 0",
    "schedule.run":         "+ + 0 + 0",
    "schedule.remove":      "+ + 0 + 0",
    "event.emit":           "+ + + + +",
    "event.list":           "+ + + + +",
    "watch":                "+ + 0 + 0",
    "queue.list":           "+ + + + +",
    "queue.wait":           "+ + + + +",
    "queue.pause":          "+ + + - -",
    "queue.resume":         "+ + + - -",
    "queue.set":            "+ + - - -",
    "resource.list":        "+ + + + +",
    "resource.set":         "+ + - - -",
    "rate.list":            "+ + + + +",
    "rate.set":             "+ + - - -",
    "rate.remove":          "+ + - - -",
    "attempt.list":         "+ + + + +",
    "system.overview":      "+ + + + +",
    "system.load":          "+ + + + +",
    "system.limits":        "+ + + + +",
    "system.users":         "+ + + - -",
    "system.status":        "+ + + + +",
    "system.health":        "+ + + + +",
    "system.settings":      "+ + - - -",
    "system.reload":        "+ + - - -",
    "system.backup":        "+ + - - -",
    "system.backups":       "+ + - - -",
    "system.purge":         "+ + - - -",
    "recovery.list":        "+ + - - -",
    "recovery.get":         "+ + - - -",
    "hook.list":            "+ + - - -",
    "hook.get":             "+ + - - -",
    "hook.test":            "+ + - - -",
    "system.drain":         "+ + - - -",
}  # fmt: skip
MARKS = {"permission_denied": "-", **dict.fromkeys(NOT_FOUND, "0"), "schedule_exists": "x"}


def test_table_when_compared_with_the_methods_then_each_has_its_row() -> None:
    assert set(RIGHTS) == set(METHODS) == set(EXPECTED)


def test_connection_when_the_user_may_not_use_the_daemon_then_it_ends(open_daemon: DaemonProcess) -> None:
    for user in OUTSIDE.values():
        with user.connect(open_daemon.socket) as client:
            refusal = client.hear()
            assert code_of(refusal) == "permission_denied"
            assert f"uid {user.uid} may not use this daemon" in refusal["error"]["message"]
            unknown = "the kernel shows this uid" in refusal["error"]["data"]["hint"]
            assert unknown == (user.uid == NOBODY), refusal
            assert client.hear() is None


def test_foreign_thing_when_asked_for_then_the_answer_is_that_for_a_missing_one(
    clients: dict[str, RawClient], things: dict[str, dict[str, Any]]
) -> None:
    missing = 987_654
    compared = 0
    for method, marks in EXPECTED.items():
        ids = [(key, value) for key, value in things[method].items() if key in ("id", "job", "workflow", "ids")]
        for key, value in ids if marks.endswith("0") else ():
            foreign = answer_of(clients["member"], method, things[method])
            other = {**things[method], key: [missing] if key == "ids" else missing}
            absent = answer_of(clients["member"], method, other)
            number = value[0] if key == "ids" else value
            assert json.dumps(foreign).replace(f" {number}", f" {missing}") == json.dumps(absent)
            assert code_of(absent) in NOT_FOUND
            compared += 1
    assert compared > 20


def answers_with_lists(client: RawClient) -> str:
    """All that a user is shown without naming a thing."""
    asked: dict[str, dict[str, Any]] = {"attempt.list": {"since": 1_000_000_000_000}}
    methods = ["job.list", "workflow.list", "schedule.list", "event.list", "resource.list", "rate.list", "queue.list"]
    methods += ["attempt.list", "system.overview", "system.status", "system.load", "system.health"]
    return json.dumps([result(client, method, **asked.get(method, {})) for method in methods])


def test_lists_when_asked_by_others_then_they_show_what_the_role_may_see(
    clients: dict[str, RawClient], things: dict[str, dict[str, Any]]
) -> None:
    own, operators, members = (answers_with_lists(clients[name]) for name in ("owner", "operator", "member"))
    details = json.dumps(result(clients["operator"], "job.get", **things["job.get"]))

    assert SEEN in own
    assert HIDDEN in own
    assert SEEN in operators
    assert SEEN in details
    assert HIDDEN not in operators + details
    assert SEEN not in members
    assert HIDDEN not in members
    assert not result(clients["operator"], "job.list", search=HIDDEN)["jobs"]
    of_workflow = {"workflow": things["workflow.get"]["id"]}
    assert len(result(clients["operator"], "job.list", **of_workflow)["jobs"]) == 2
    assert code_of(answer_of(clients["member"], "job.list", of_workflow)) == "workflow_not_found"


def test_show_when_the_job_is_of_another_user_then_its_log_is_hidden_too(
    clients: dict[str, RawClient], things: dict[str, dict[str, Any]]
) -> None:
    job = result(clients["operator"], "job.get", **things["job.get"])
    job["attempts"] = 1
    shown = dict(jobs.facts(job))

    assert (shown["command"], shown["log"]) == ("(hidden)", "(hidden)")
    assert jobs.title(job) == f"{SEEN}: (hidden)"


def test_denial_when_the_role_is_too_low_then_it_names_both_roles(clients: dict[str, RawClient]) -> None:
    error = answer_of(clients["operator"], "system.drain", {})["error"]

    assert error["message"] == "system.drain is for admins, and the role of uid 70002 is operator"


def test_watch_when_it_is_of_everything_then_a_user_gets_only_its_own(
    clients: dict[str, RawClient], open_daemon: DaemonProcess
) -> None:
    with USERS["member"].connect(open_daemon.socket) as watching:
        result(watching, "watch", after=0)
        theirs = result(clients["owner"], "job.submit", command="/bin/true", run_at=FAR)["id"]
        mine = result(clients["member"], "job.submit", command="/bin/true", run_at=FAR)["id"]
        seen: list[int] = []
        while mine not in seen:
            seen += [change["job"] for change in watching.hear()["params"]["changes"]]

    assert theirs not in seen


def test_why_when_jobs_of_others_are_in_the_way_then_they_are_only_counted(
    clients: dict[str, RawClient], open_daemon: DaemonProcess
) -> None:
    result(clients["root"], "resource.set", name="gpu", capacity=1)
    gpu = {"resources": {"gpu": 1}}
    holder = result(clients["owner"], "job.submit", command="/bin/sleep", args=["600"], **gpu)["id"]
    until(lambda: result(clients["owner"], "job.get", id=holder)["state"] == "running", why="the holder runs")
    mine = result(clients["member"], "job.submit", command="/bin/true", **gpu)["id"]

    why = until(
        lambda: (found := result(clients["member"], "job.why", id=mine))["code"] == "resource" and found, why="it waits"
    )
    views = result(clients["member"], "resource.list")["resources"]

    assert "held by 1 job of other users" in why["message"]
    assert (why["details"]["holders"], why["details"]["others"]) == ([], 1)
    assert (views[0]["used"], views[0]["holders"]) == (1, [])
    assert f"held by job {holder}" in result(clients["admin"], "job.why", id=mine)["message"]
    result(clients["owner"], "job.cancel", id=holder)
    assert open_daemon.pid


def test_submit_when_it_needs_the_jobs_of_others_then_they_are_as_good_as_missing(
    clients: dict[str, RawClient], things: dict[str, dict[str, Any]]
) -> None:
    job, workflow = things["job.get"]["id"], things["workflow.get"]["id"]
    flow = {"name": SEEN, "steps": {"a": {"command": "/bin/true"}}}
    for missing in (False, True):
        job, workflow = (987_654, 987_655) if missing else (job, workflow)
        for extra in ({"needs": [job]}, {"wait_for": f"job:{job}"}, {"wait_for": f"workflow:{workflow}"}):
            answer = answer_of(clients["member"], "job.submit", {"command": "/bin/true", **extra})
            assert answer["error"]["message"].endswith(f"{workflow if 'workflow' in str(extra) else job} of yours")
        reused = answer_of(clients["member"], "workflow.submit", {"flow": flow, "reuse": workflow})
        assert reused["error"]["message"] == f"reuse: there is no workflow {workflow} of yours"
    assert result(clients["member"], "workflow.submit", flow=flow, reuse="latest")["id"]


def test_requests_when_pipelined_then_each_is_carried_out_in_order(clients: dict[str, RawClient]) -> None:
    """Only that of a job that is named waits for a check."""
    member = clients["member"]
    held = result(member, "job.submit", command="/bin/true", run_at=FAR)["id"]
    member.say(request("job.hold", 1, id=held) + request("job.submit", 2, command="/bin/true", run_at=FAR))

    by_id = {answer["id"]: answer["result"]["id"] for answer in (member.hear(), member.hear())}
    (_, hold), (submit, *_) = (result(member, "job.history", id=by_id[one])["changes"] for one in (1, 2))

    assert hold["cause"] == "hold"
    assert hold["seq"] < submit["seq"]


def test_denials_when_they_come_fast_then_the_log_has_a_line_and_their_number(
    clients: dict[str, RawClient], open_daemon: DaemonProcess
) -> None:
    asked = 0

    def denied_and_logged() -> list[dict[str, Any]]:
        nonlocal asked
        for _ in range(20):
            assert code_of(answer_of(clients["member"], "system.settings", {})) == "permission_denied"
            asked += 1
        return [line for line in open_daemon.events("access_denied") if line["method"] == "system.settings"]

    (line, *_) = until(denied_and_logged, why="a line about a denial")
    assert (line["uid"], line["role"]) == (USERS["member"].uid, "submitter")
    assert len(denied_and_logged()) < asked


@pytest.mark.parametrize("name", USERS)
def test_method_when_a_user_calls_it_then_the_answer_is_that_of_its_role(
    clients: dict[str, RawClient], things: dict[str, dict[str, Any]], name: str
) -> None:
    column = list(USERS).index(name)
    got = {}
    for method in EXPECTED:
        if method == "system.drain" and name in ("root", "admin"):
            got[method] = "+"  # test_roles_drain.py: this daemon is still needed
            continue
        answer_of(clients["root"], "schedule.remove", {"name": SEEN})
        result(clients["owner"], "schedule.add", **things["schedule.add"])
        got[method] = MARKS.get(code_of(answer_of(clients[name], method, things[method])), "+")

    assert got == {method: marks.split()[column] for method, marks in EXPECTED.items()}


def test_rights_when_a_reload_takes_them_away_then_open_connections_end(open_daemon: DaemonProcess) -> None:
    with (
        USERS["operator"].connect(open_daemon.socket) as operator,
        USERS["member"].connect(open_daemon.socket) as member,
    ):
        result(operator, "watch")
        result(member, "watch")
        open_daemon.config.write_text(SETTINGS.replace(f'operator_group = "{OPERATORS}"', ""))
        assert open_daemon.cli("config", "reload").returncode == 0

        refusal = operator.hear()
        while "method" in refusal:
            refusal = operator.hear()
        assert f"uid {USERS['operator'].uid} may not use this daemon any more" in refusal["error"]["message"]
        assert operator.hear() is None
        assert result(member, "system.health")["ok"]


def test_drain_when_an_admin_asks_then_the_daemon_ends(open_daemon: DaemonProcess) -> None:
    with USERS["admin"].connect(open_daemon.socket) as admin:
        assert result(admin, "system.drain", stop=True)["draining"]

    assert open_daemon.wait() == 0
