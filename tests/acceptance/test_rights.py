"""The rights of a role beside the table of methods: when it is read, the handlers it may use, the jobs it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.peers import NEEDS_ROOT, User, acting_as, answer_of, can_be_others, code_of, result
from tests.support.rpc import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not can_be_others(), reason=NEEDS_ROOT)

MEMBERS, OPERATORS, ADMINS = 70_010, 70_020, 70_030
USERS = {
    "root": User(0),
    "admin": User(70_003, [ADMINS]),
    "operator": User(70_002, [OPERATORS]),
    "member": User(70_004, [MEMBERS]),
}
SETTINGS = f"""
[daemon]
handlers = ["chores"]
[access]
users = "group"
group = "{MEMBERS}"
operator_group = "{OPERATORS}"
admin_group = "{ADMINS}"
"""
CHORES = """
import stoker

@stoker.handler("of-admins")
async def of_admins(call): pass

@stoker.handler("of-operators", role="operator")
async def of_operators(call): pass

@stoker.handler("of-all", role="submitter")
async def of_all(call): pass
"""
HANDLERS = {
    "stoker.tidy": {"root", "admin"},
    "of-admins": {"root", "admin"},
    "of-operators": {"root", "admin", "operator"},
    "of-all": set(USERS),
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    process = DaemonProcess(SETTINGS)
    process.add_module("chores", CHORES)
    with process:
        process.home.chmod(0o711)
        yield process


@pytest.fixture(scope="module")
def clients(daemon: DaemonProcess) -> Iterator[dict[str, RawClient]]:
    connected = {name: user.connect(daemon.socket) for name, user in USERS.items()}
    yield connected
    for client in connected.values():
        client.close()


def in_process(command: str) -> dict[str, Any]:
    return {"command": command, "execution_mode": "in_process"}


def requests(command: str) -> dict[str, dict[str, Any]]:
    """Each method that brings a job, with one for the handler."""
    work = in_process(command)
    return {
        "job.submit": work,
        "workflow.submit": {"flow": {"name": "f", "steps": {"a": work}}},
        "schedule.add": {"name": f"{command}-job", "timing": "0 0 1 1 *", "job": work, "replace": True},
    }


@pytest.mark.parametrize("command", HANDLERS)
def test_handler_when_a_user_submits_it_then_its_role_decides(clients: dict[str, RawClient], command: str) -> None:
    for name, client in clients.items():
        refusals = [answer_of(client, method, params) for method, params in requests(command).items()]
        if name in HANDLERS[command]:
            assert [code_of(answer) for answer in refusals] == ["", "", ""]
            result(client, "schedule.remove", name=f"{command}-job")
            continue
        assert [code_of(answer) for answer in refusals] == ["permission_denied", "flow_invalid", "permission_denied"]
        role = "operator" if name == "operator" else "submitter"
        assert all(f"and your role is {role}" in str(answer) for answer in refusals)


def test_handler_when_it_is_unknown_then_only_those_of_the_role_are_named(clients: dict[str, RawClient]) -> None:
    error = answer_of(clients["member"], "job.submit", in_process("nothing"))["error"]

    assert error["message"] == "command: no in-process handler is called 'nothing' (there are: of-all)"


def test_denied_handler_when_it_is_submitted_then_the_log_has_it(
    clients: dict[str, RawClient], daemon: DaemonProcess
) -> None:
    def denied() -> bool:
        answer_of(clients["member"], "job.submit", in_process("stoker.tidy"))
        return any(line["method"] == "job.submit" for line in daemon.events("access_denied"))

    until(denied, why="a line about the denial")


def test_handler_when_a_late_item_names_it_then_the_group_fails_in_words(clients: dict[str, RawClient]) -> None:
    """The list comes from a job, so the check at the submit cannot see which handlers it names."""
    write = """printf 'files=["of-all", "stoker.tidy"]\\n' >> "$STOKER_OUTPUT" """
    steps = {
        "list": {"command": "/bin/sh", "args": ["-c", write]},
        "each": {**in_process("{{ item }}"), "each": {"step": "list", "output": "files"}},
    }
    member = clients["member"]
    workflow = result(member, "workflow.submit", flow={"name": "late", "steps": steps})["id"]

    until(lambda: result(member, "workflow.get", id=workflow)["state"] in ("failed", "succeeded"), why="its end")
    shown = {step["name"]: step for step in result(member, "workflow.get", id=workflow)["steps"]}

    assert set(shown) == {"list", "each"}
    assert "the in-process handler 'stoker.tidy' is for admins" in shown["each"]["error"]


def test_groups_when_dropped_after_the_connect_then_that_connection_keeps_its_role(daemon: DaemonProcess) -> None:
    """SO_PEERGROUPS is of the moment of connect(2), so a role is one of a connection and not of a process."""
    with acting_as(USERS["operator"]):
        before = RawClient(daemon.socket)
    dropped = User(USERS["operator"].uid, [MEMBERS])
    with before, acting_as(dropped), RawClient(daemon.socket) as after:
        assert result(before, "queue.pause", name="default")["paused"]
        assert not result(before, "queue.resume", name="default")["paused"]
        assert code_of(answer_of(after, "queue.pause", {"name": "default"})) == "permission_denied"
        assert result(after, "system.health")["ok"]


def test_why_when_jobs_of_others_are_in_the_way_then_an_operator_sees_which(clients: dict[str, RawClient]) -> None:
    operator, member = clients["operator"], clients["member"]
    result(clients["root"], "resource.set", name="gpu", capacity=1)
    gpu = {"resources": {"gpu": 1}}
    holder = result(member, "job.submit", command="/bin/sleep", args=["600"], **gpu)["id"]
    until(lambda: result(member, "job.get", id=holder)["state"] == "running", why="the holder runs")
    mine = result(operator, "job.submit", command="/bin/true", **gpu)["id"]

    why = until(lambda: (found := result(operator, "job.why", id=mine))["code"] == "resource" and found, why="it waits")

    assert f"held by job {holder}" in why["message"]
    assert result(operator, "resource.list")["resources"][0]["holders"] == [holder]
    assert code_of(answer_of(operator, "job.why", {"id": holder})) == "job_not_found"
    result(operator, "job.cancel", id=holder)
