"""Jobs that wait for jobs that are queued behind them: logged once, explained, and ended by a higher limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.facts import until
from tests.support.rpc import RawClient, request
from tests.support.work import Gate, end_of, job_view, running, shell, submit, submit_many

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 3\n"


@pytest.fixture
def program(shared: DaemonProcess) -> str:
    """`stoker`, as a job calls it."""
    return str(shared.programs / "stoker")


def ids(answers: Any) -> list[int]:
    return [answer["id"] for answer in answers]


def queued(client: stoker.Client, name: str) -> list[int]:
    return sorted(job["id"] for job in client.list(states=["queued"], queue=name)["jobs"])


def told(shared: DaemonProcess, **fields: Any) -> list[dict[str, Any]]:
    return [event for event in shared.events("queue_standstill") if fields.items() <= event.items()]


def test_wait_when_all_running_jobs_do_so_then_one_line_is_logged_and_a_slot_ends_it(
    shared: DaemonProcess, client: stoker.Client, program: str, tmp_path: Path
) -> None:
    client.call("queue.set", {"name": "pair", "max_running": 2})
    child = tmp_path / "child.toml"
    child.write_text('name = "child"\n[steps.a]\ncommand = "true"\nqueue = "pair"\n')
    commands = (f"{program} run --queue pair -- true", f"{program} workflow submit --wait {child}")
    first, second = ids(submit_many(client, [shell(command, queue="pair") for command in commands]))

    (event,) = shared.logged("queue_standstill", queue="pair")

    assert event["running"] == 2
    behind = queued(client, "pair")
    why = {job: client.why(job) for job in behind}
    assert {each["code"] for each in why.values()} == {"standstill"}
    (step,) = [job for job in behind if client.get(job)["workflow_id"] is not None]
    (workflow, plain) = client.get(step)["workflow_id"], min(job for job in behind if job != step)
    waits = f"job {first} waits for job {plain}, job {second} waits for workflow {workflow}"
    message = f"all 2 running jobs of queue 'pair' wait for jobs that are queued behind them: {waits}"
    assert {each["message"] for each in why.values()} == {event["why"]} == {message}
    assert message in " ".join(shared.cli("workflow", "show", str(workflow)).stdout.split())

    assert shared.cli("queue", "set", "pair", "--max-running", "3").returncode == 0

    assert [end_of(client, job) for job in (first, second, *behind)] == [("succeeded", "exit")] * 4
    assert len(told(shared, queue="pair")) == 1


def test_wait_when_two_queues_block_each_other_then_one_line_names_both(
    shared: DaemonProcess, client: stoker.Client, program: str, tmp_path: Path
) -> None:
    gates, names = {name: Gate(tmp_path / name) for name in ("left", "right")}, ("left", "right")
    for name in names:
        client.call("queue.set", {"name": name, "max_running": 1})
    parents = [
        submit(client, gates[name].spec(f"{program} run --queue {other} -- true"), queue=name)
        for name, other in (names, names[::-1])
    ]
    for parent in parents:
        running(client, parent)

    for gate in gates.values():
        gate.open()

    event = next(iter(until(lambda: told(shared, running=2, queue="left") + told(shared, running=2, queue="right"))))
    other = "right" if event["queue"] == "left" else "left"
    assert event["why"].startswith(f"all 2 running jobs of queues {event['queue']!r}, {other!r} wait for jobs")
    behind = [*queued(client, "left"), *queued(client, "right")]
    assert [client.why(job)["code"] for job in behind] == ["standstill"] * 2
    client.call("queue.set", {"name": "left", "max_running": 2})
    assert [end_of(client, job)[0] for job in (*parents, *behind)] == ["succeeded"] * 4
    assert len(told(shared, queue="left") + told(shared, queue="right")) == 1


def test_wait_when_it_holds_each_slot_of_the_daemon_then_a_cancel_ends_it(
    shared: DaemonProcess, client: stoker.Client, program: str
) -> None:
    parents = ids(submit_many(client, [shell(f"{program} run -- true")] * 3))

    (event,) = shared.logged("queue_standstill", running=3)

    assert event.get("queue") is None
    assert [client.why(job)["code"] for job in queued(client, "default")] == ["standstill"] * 3
    client.cancel(parents[0])
    assert [end_of(client, job)[0] for job in parents] == ["cancelled", "succeeded", "succeeded"]
    until(lambda: not queued(client, "default"))


def test_wait_when_no_token_proves_its_job_or_it_has_a_limit_then_it_does_not_count(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    client.call("queue.set", {"name": "single", "max_running": 1})
    holder = submit(client, gate.spec(), queue="single")
    running(client, holder)
    behind = submit(client, shell("exit 0"), queue="single")
    token, run_id = token_of(client, holder), client.get(holder)["attempts_list"][0]["run_id"]
    waits: list[dict[str, Any]] = [
        {},
        {"token": run_id},
        {"token": f"{run_id}:{'0' * 32}"},
        {"token": token, "timeout_ms": 600_000},
    ]

    with RawClient(shared.socket) as raw:
        begin_waits(raw, behind, waits)
        assert client.why(behind)["code"] == "queue_full"
        begin_waits(raw, behind, [{"token": token}])
        assert client.why(behind)["code"] == "standstill"

    until(lambda: client.why(behind)["code"] == "queue_full", why="the end of the wait, as its client hung up")
    gate.open()
    assert end_of(client, behind)[0] == "succeeded"


def token_of(client: stoker.Client, job: int) -> str:
    variables = Path(f"/proc/{job_view(client, job)['pid']}/environ").read_text().split("\0")
    return dict(each.split("=", 1) for each in variables if each)["STOKER_TOKEN"]


def begin_waits(raw: RawClient, job: int, waits: list[dict[str, Any]]) -> None:
    for number, options in enumerate(waits):
        raw.say(request("job.wait", number, ids=[job], **options))
    assert raw.ask("queue.list", 99)["id"] == 99  # answered in order: the waits have begun
