"""Steps that take over the end of an earlier run: their state, what they hand on, and what becomes of them later."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stoker.core.errors import StokerError, WorkflowNotFound
from stoker.core.workflow.definition import Flow, FlowRequest, StepParams
from stoker.workflows.reuse import wish_of
from tests.support.facts import until
from tests.support.flows import flow, flow_end, job_of, send, sent_flow, settled, step, workflow_view
from tests.support.purges import gone, purge
from tests.support.work import Gate, changes, job_view, running

if TYPE_CHECKING:
    import stoker
    from stoker.store.reader import Reader
    from tests.support.daemon import DaemonProcess

OUTPUT = 'echo "from=$STOKER_JOB_ID" > $STOKER_OUTPUT'
SHOWN = "echo $STOKER_INPUTS"
STEPS = {"get": step(OUTPUT), "compile": step(OUTPUT, "get"), "link": step(SHOWN, "compile")}


def ran(client: stoker.Client, steps: dict[str, Any] = STEPS, **head: Any) -> int:
    """A workflow that has ended."""
    workflow = sent_flow(client, steps, **head)
    settled(client, workflow)
    return workflow


def reused(client: stoker.Client, earlier: int, steps: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The answer to the same flow, which reuses an earlier run."""
    return send(client, flow(steps), reuse=earlier, **options)


def steps_of(client: stoker.Client, workflow: int) -> dict[str, Any]:
    return {one["name"]: one for one in workflow_view(client, workflow)["steps"]}


def text_of(client: stoker.Client, job: int) -> str:
    return b"".join(client.logs(job)).decode().strip()


def test_reuse_when_the_last_step_changed_then_only_it_runs_with_the_earlier_outputs(client: stoker.Client) -> None:
    earlier = ran(client)
    changed = STEPS | {"link": step(f"{SHOWN}; true", "compile")}

    answer = reused(client, earlier, changed)

    assert flow_end(client, answer["id"]) == "succeeded"
    steps = steps_of(client, answer["id"])
    assert {name: one["attempts"] for name, one in steps.items()} == {"get": 0, "compile": 0, "link": 1}
    assert (steps["compile"]["state"], steps["compile"]["reason"]) == ("succeeded", "reused")
    assert (steps["compile"]["reused"], steps["link"]["reused"]) == (f"{earlier}/compile", None)
    made_by = job_of(client, earlier, "compile")
    assert text_of(client, steps["link"]["job"]) == f'{{"compile":{{"from":"{made_by}"}}}}'
    assert answer["reuse"] == {
        "workflow": earlier,
        "steps": [
            {"step": "get", "reused": True, "why": "same command", "later": False},
            {"step": "compile", "reused": True, "why": "same command and inputs", "later": False},
            {"step": "link", "reused": False, "why": "args changed", "later": False},
        ],
    }


def test_reuse_when_a_step_is_taken_over_then_its_history_says_from_where(client: stoker.Client) -> None:
    earlier = ran(client)

    job = job_of(client, reused(client, earlier, STEPS)["id"], "compile")

    source = job_of(client, earlier, "compile")
    (change,) = changes(client, job, "reused")
    assert (change["from"], change["to"], change["note"]) == ("queued", "succeeded", f"from {earlier}/compile")
    assert client.why(job)["message"] == f"succeeded: reused from {earlier}/compile (job {source})"
    view = job_view(client, job)
    assert (view["reused"], view["attempts_list"]) == ({"workflow": earlier, "step": "compile", "job": source}, [])


def test_reuse_when_nothing_changed_then_the_workflow_ends_without_an_attempt(client: stoker.Client) -> None:
    first = reused(client, ran(client), STEPS)["id"]
    settled(client, first)

    second = reused(client, first, STEPS)["id"]

    assert flow_end(client, second) == "succeeded"
    assert {one["attempts"] for one in steps_of(client, second).values()} == {0}
    assert steps_of(client, second)["get"]["reused"] == f"{first}/get"


def test_reuse_when_the_earlier_run_is_purged_then_its_outputs_stay(client: stoker.Client) -> None:
    earlier = ran(client)
    source = job_of(client, earlier, "compile")
    client.call("queue.set", {"name": "later"})
    client.call("queue.pause", {"name": "later"})
    answer = reused(client, earlier, STEPS | {"link": step(f"{SHOWN}; true", "compile", queue="later")})

    purge(client)
    until(lambda: gone(client, source), why="the end of the purge")
    client.call("queue.resume", {"name": "later"})

    assert flow_end(client, answer["id"]) == "succeeded"
    assert text_of(client, answer["steps"]["link"]) == f'{{"compile":{{"from":"{source}"}}}}'


def test_reuse_when_a_person_retries_a_reused_step_then_it_runs_itself(client: stoker.Client) -> None:
    later = reused(client, ran(client), STEPS)["id"]
    settled(client, later)

    client.call("workflow.retry", {"id": later, "step": "compile"})

    assert flow_end(client, later) == "succeeded"
    compiled, link = steps_of(client, later)["compile"], steps_of(client, later)["link"]
    assert (compiled["attempts"], compiled["reason"], compiled["reused"]) == (1, "exit", None)
    assert text_of(client, link["job"]) == f'{{"compile":{{"from":"{compiled["job"]}"}}}}'


def test_reuse_when_a_resume_verifies_then_a_reused_step_is_kept(client: stoker.Client) -> None:
    steps = STEPS | {"link": step("exit 1", "compile")}
    later = send(client, flow(steps, verify=True), reuse=ran(client, steps))["id"]
    settled(client, later)

    plan = client.call("workflow.resume", {"id": later, "explain": True})["steps"]

    assert {one["step"]: one["action"] for one in plan} == {"get": "keep", "compile": "keep", "link": "from_checkpoint"}
    assert plan[0]["why"] == "it was completed, and its fingerprint has not changed"


def test_reuse_when_latest_is_asked_then_it_is_the_newest_of_that_name(client: stoker.Client) -> None:
    fresh = send(client, {"name": "never-before", "steps": STEPS}, reuse="latest")
    settled(client, fresh["id"])
    again = send(client, {"name": "never-before", "steps": STEPS}, reuse="latest", dry_run=True)

    assert fresh["reuse"]["workflow"] is None
    assert {one["why"] for one in fresh["reuse"]["steps"]} == {"there is no earlier run"}
    assert again["reuse"]["workflow"] == fresh["id"]
    assert {one["reused"] for one in again["reuse"]["steps"]} == {True}


def test_reuse_when_the_part_begins_in_the_middle_then_what_is_outside_hands_on(client: stoker.Client) -> None:
    earlier = ran(client)

    answer = reused(client, earlier, STEPS, **{"from": ["link"]})

    assert flow_end(client, answer["id"]) == "succeeded"
    assert (answer["met"], set(answer["steps"])) == ([], {"compile", "link"})
    source = job_of(client, earlier, "compile")
    assert text_of(client, answer["steps"]["link"]) == f'{{"compile":{{"from":"{source}"}}}}'


def listing(names: str) -> str:
    return f'printf "files=[{names}]\\n" >> "$STOKER_OUTPUT"'


def by_list(names: str, work: str = OUTPUT) -> dict[str, Any]:
    return {
        "list": step(listing(names)),
        "work": step(work, each={"step": "list", "output": "files"}),
        "sum": step(SHOWN, "work"),
        "end": step("exit 0", "sum"),
    }


def test_reuse_when_a_list_is_the_same_then_nothing_made_of_it_runs(client: stoker.Client) -> None:
    earlier = ran(client, by_list("1, 2"))

    answer = reused(client, earlier, by_list("1, 2"))

    assert flow_end(client, answer["id"]) == "succeeded"
    steps = steps_of(client, answer["id"])
    assert {name: one["reused"] for name, one in steps.items() if name != "work"} == {
        name: f"{earlier}/{name}" for name in ("list", "work[1]", "work[2]", "sum", "end")
    }
    assert [one["why"] for one in answer["reuse"]["steps"]] == [
        "same command",
        "it adds steps to the workflow, and each is compared then",
        *["it is compared once work has added its steps"] * 2,
    ]


def test_reuse_when_a_new_list_has_one_more_item_then_only_that_runs(client: stoker.Client) -> None:
    earlier = ran(client, by_list("1, 2"))

    workflow = reused(client, earlier, by_list("1, 2, 3"))["id"]

    assert flow_end(client, workflow) == "succeeded"
    steps = steps_of(client, workflow)
    assert {name for name, one in steps.items() if one["reused"]} == {"work[1]", "work[2]"}
    made = {f"work[{n}]": job_of(client, earlier if n < 3 else workflow, f"work[{n}]") for n in (1, 2, 3)}
    text = text_of(client, steps["sum"]["job"])
    assert msgspec.json.decode(text) == {name: {"from": str(job)} for name, job in made.items()}
    why = {name: changes(client, one["job"], "not_reused") for name, one in steps.items() if one["reused"] is None}
    assert {name: told[0]["details"]["why"] for name, told in why.items() if told} == {
        "work[3]": f"workflow {earlier} has no such step",
        "sum": "its need work[3] runs",
        "end": "its need sum runs",
    }


@pytest.mark.parametrize("items", ["1", ""])
def test_reuse_when_a_person_runs_a_list_again_then_its_steps_run_again(client: stoker.Client, items: str) -> None:
    workflow = reused(client, ran(client, by_list(items)), by_list(items))["id"]
    settled(client, workflow)
    assert steps_of(client, workflow)["end"]["reused"]

    client.call("workflow.retry", {"id": workflow, "step": "list"})

    assert flow_end(client, workflow) == "succeeded"
    assert {one["reused"] for one in steps_of(client, workflow).values()} == {None}


def nested(outputs: str = "{{link.from}}", **link: Any) -> dict[str, Any]:
    inner = {"list": step(listing("1")), "work": step(OUTPUT, each={"step": "list", "output": "files"})}
    inner["link"] = step(OUTPUT, "work", **link)
    child = {"name": "child", "steps": inner, "outputs": {"made": outputs}}
    return {"get": step("exit 0"), "build": {"workflow": child, "needs": ["get"]}, "use": step(SHOWN, "build")}


def test_reuse_when_a_nested_flow_is_the_same_then_its_end_is_taken_over(client: stoker.Client) -> None:
    earlier = ran(client, nested())

    same, other = reused(client, earlier, nested())["id"], reused(client, earlier, nested("x{{link.from}}"))["id"]

    assert [flow_end(client, one) for one in (same, other)] == ["succeeded", "succeeded"]
    runs = {name for name, one in steps_of(client, same).items() if one["reused"] is None}
    assert runs == {"build/work"}  # it adds the steps
    more = {name for name, one in steps_of(client, other).items() if one["reused"] is None}
    assert more == {"build/work", "build", "use"}
    link = job_of(client, earlier, "build/link")
    assert text_of(client, steps_of(client, other)["use"]["job"]) == f'{{"build":{{"made":"x{link}"}}}}'


def test_reuse_when_the_daemon_is_killed_then_what_was_reused_stays_so(daemon: DaemonProcess, gate: Gate) -> None:
    with daemon.client() as client:
        earlier = ran(client)
        changed = STEPS | {"link": {**gate.spec(SHOWN), "needs": ["compile"], "on_orphan": "requeue"}}
        answer = reused(client, earlier, changed)
        running(client, answer["steps"]["link"])
        source = job_of(client, earlier, "compile")

    daemon.kill_and_start()
    gate.open()

    with daemon.client() as client:
        assert flow_end(client, answer["id"]) == "succeeded"
        steps = steps_of(client, answer["id"])
        assert {name: one["reason"] for name, one in steps.items() if name != "link"} == dict.fromkeys(
            ["get", "compile"], "reused"
        )
        shown = text_of(client, steps["link"]["job"]).splitlines()  # the shell may say first that the gate is gone
        assert shown[-1] == f'{{"compile":{{"from":"{source}"}}}}'


@pytest.mark.parametrize(
    ("reuse", "words"),
    [(99_999, "there is no workflow 99999"), (0, "reuse: 0 is less than 1"), ("newest", "reuse")],
)
def test_reuse_when_the_run_is_none_then_it_is_refused_and_nothing_is_stored(
    client: stoker.Client, reuse: Any, words: str
) -> None:
    before = client.call("workflow.list", {})["workflows"]

    with pytest.raises(StokerError) as refused:
        send(client, flow(STEPS), reuse=reuse)

    assert words in str(refused.value)
    assert refused.value.details["path"] == "reuse"
    assert client.call("workflow.list", {})["workflows"] == before


def test_reuse_when_the_run_is_of_another_user_then_it_is_refused(shared: DaemonProcess, client: stoker.Client) -> None:
    earlier = ran(client)
    request = FlowRequest(
        flow=Flow(name="flow", steps={"a": StepParams(command="true")}), raw=msgspec.Raw(b"{}"), reuse=earlier
    )

    with pytest.raises(WorkflowNotFound, match="of yours"):
        asyncio.run(wish_of(rows_of(shared), request, 64_242))


def rows_of(shared: DaemonProcess) -> Reader:
    """The rows of a daemon, read by the test."""

    class Rows:
        async def run(self, function: Callable[..., Any], *args: Any) -> Any:
            with sqlite3.connect(f"file:{shared.state_dir}/stoker.db?mode=ro", uri=True) as connection:
                return function(connection, *args)

    return Rows()  # type: ignore[return-value]
