"""Resources: all or nothing, others pass, set live, holders shown.

Owns named capacities as the dispatcher takes and frees them. Every test names resources of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import InvalidParams, ResourceNotFound
from stoker.engine.memory.ready_line import LANES_WITH_ROWS
from tests.support.facts import DEADLINE_S, until
from tests.support.flows import flow, send
from tests.support.work import Gate, end_of, running, shell, state, submit, submit_many, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n"
TRUE = shell("exit 0")


def capacity(client: stoker.Client, **amounts: int) -> None:
    for name, amount in amounts.items():
        client.call("resource.set", {"name": name, "capacity": amount})


def resource(client: stoker.Client, name: str) -> dict[str, Any]:
    (row,) = [each for each in client.call("resource.list")["resources"] if each["name"] == name]
    return dict(row)


def test_resource_when_it_is_taken_then_the_next_waits_and_why_names_the_holder(
    client: stoker.Client, gate: Gate
) -> None:
    capacity(client, repo=1)
    holder = submit_running(client, gate.spec(), resources={"repo": 1})
    waits = submit(client, TRUE, resources={"repo": 1})

    blocker = client.why(waits)

    assert blocker["code"] == "resource"
    assert blocker["details"] == {
        "resource": "repo", "wanted": 1, "capacity": 1, "free": 0, "holders": [holder], "reserved": True,
    }  # fmt: skip
    assert resource(client, "repo") == {"name": "repo", "capacity": 1, "used": 1, "holders": [holder]}
    gate.open()
    assert end_of(client, waits) == ("succeeded", "exit")
    assert resource(client, "repo")["used"] == 0


def test_resource_when_one_job_lacks_it_then_others_of_its_queue_pass(client: stoker.Client, gate: Gate) -> None:
    capacity(client, licence=1)
    submit_running(client, gate.spec(), resources={"licence": 1})
    waits = submit(client, TRUE, resources={"licence": 1}, priority=100)

    passes = submit(client, TRUE)

    assert end_of(client, passes) == ("succeeded", "exit")
    assert state(client, waits) == "queued"


def test_resources_when_only_one_of_two_is_free_then_it_is_kept_and_not_taken(
    client: stoker.Client, gate: Gate
) -> None:
    capacity(client, left=1, right=1)
    submit_running(client, gate.spec(), resources={"left": 1})
    both = submit(client, TRUE, resources={"left": 1, "right": 1})

    right = submit(client, TRUE, resources={"right": 1})

    end_of(client, submit(client, TRUE))  # a turn in which something may start
    assert [state(client, job) for job in (both, right)] == ["queued", "queued"]
    assert resource(client, "right")["used"] == 0
    assert client.why(right)["details"]["set_aside_for"] == [both]
    gate.open()
    assert [end_of(client, job) for job in (both, right)] == [("succeeded", "exit")] * 2


def test_resource_when_amounts_are_weighted_then_only_so_much_is_held_at_once(
    client: stoker.Client, tmp_path: Path
) -> None:
    capacity(client, memory=10)
    gates = [Gate(tmp_path / f"gate{number}") for number in range(3)]
    jobs = [submit(client, gate.spec(), resources={"memory": 4}) for gate in gates]
    running(client, *jobs[:2])

    assert resource(client, "memory")["used"] == 8
    assert client.why(jobs[2])["details"]["free"] == 2

    gates[0].open()
    running(client, jobs[2])
    assert resource(client, "memory")["holders"] == jobs[1:]
    for gate in gates:
        gate.open()
    client.wait(*jobs)


def test_resource_when_its_capacity_is_raised_live_then_a_waiting_job_starts(client: stoker.Client, gate: Gate) -> None:
    capacity(client, gpu=1)
    jobs = [submit(client, gate.spec(), resources={"gpu": 1}) for _ in range(2)]
    running(client, jobs[0])

    capacity(client, gpu=2)

    running(client, jobs[1])
    assert resource(client, "gpu")["used"] == 2


def test_resource_when_capacity_sinks_below_use_then_holders_go_on_and_no_job_starts(
    client: stoker.Client, gate: Gate
) -> None:
    capacity(client, seat=2)
    holders = [submit(client, gate.spec(), resources={"seat": 1}) for _ in range(2)]
    running(client, *holders)

    capacity(client, seat=1)
    waits = submit(client, TRUE, resources={"seat": 1})

    assert client.why(waits)["details"]["holders"] == holders
    gate.open()
    assert end_of(client, waits) == ("succeeded", "exit")
    assert {state(client, job) for job in holders} == {"succeeded"}


def test_resource_when_a_job_is_cancelled_then_its_units_are_free(client: stoker.Client, gate: Gate) -> None:
    capacity(client, bench=1)
    holder = submit_running(client, gate.spec(), resources={"bench": 1}, grace_ms=100)

    client.cancel(holder)

    assert end_of(client, submit(client, TRUE, resources={"bench": 1})) == ("succeeded", "exit")


def test_resource_when_it_does_not_exist_then_the_error_names_the_command_for_it(
    client: stoker.Client,
) -> None:
    with pytest.raises(ResourceNotFound) as refused:
        submit(client, TRUE, resources={"nowhere": 1})

    assert refused.value.details["path"] == "resources.nowhere"
    assert refused.value.hint == "stoker resource set nowhere 1"


def test_resource_when_more_is_asked_than_there_is_then_the_submit_is_refused(client: stoker.Client) -> None:
    capacity(client, small=2)

    with pytest.raises(InvalidParams) as refused:
        submit(client, TRUE, resources={"small": 3})

    assert refused.value.details["path"] == "resources.small"


def test_exhaustion_when_jobs_wait_then_the_first_is_logged_once_with_the_holders(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    capacity(client, crane=2)
    holder = submit_running(client, gate.spec(), resources={"crane": 2})

    waiting = [submit(client, TRUE, resources={"crane": 1}) for _ in range(3)]
    for _ in range(5):  # turns in which they are passed over again
        end_of(client, submit(client, TRUE))
    gate.open()
    client.wait(*waiting)

    (event,) = shared.logged("resource_exhausted", job=waiting[0], level="warning")
    assert (event["resources"], event["holders"]) == (["crane"], {"crane": [holder]})
    jobs = [event["job"] for event in shared.events("resource_exhausted")]
    assert len(set(jobs)) == len(jobs)


def test_exhaustion_when_a_step_waited_for_its_width_then_shortage_is_logged_once(
    shared: DaemonProcess, client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    capacity(client, lathe=2)
    first_gate = Gate(tmp_path / "first")
    fan_out = {"each": ["1", "2"], "width": 1, **first_gate.spec(), "resources": {"lathe": 1}}
    first, second = send(client, flow({"turn": fan_out}))["steps"].values()
    running(client, first)
    end_of(client, submit(client, TRUE))  # a turn in which the width alone is missing
    holder = submit_running(client, gate.spec(), resources={"lathe": 1})
    capacity(client, lathe=1)
    first_gate.open()
    until(lambda: exhaustions(shared, second), why="the shortage")
    for _ in range(3):
        end_of(client, submit(client, TRUE))
    gate.open()
    client.wait(second)

    assert [(event["resources"], event["holders"]) for event in exhaustions(shared, second)] == [
        (["lathe"], {"lathe": [holder]})
    ]


def exhaustions(daemon: DaemonProcess, job: int) -> list[dict[str, Any]]:
    return [event for event in daemon.events("resource_exhausted") if event["job"] == job]


def test_resources_when_pairs_are_taken_in_opposite_orders_then_all_end_in_turn(
    client: stoker.Client, tmp_path: Path
) -> None:
    names = ["fork0", "fork1", "fork2", "fork3"]
    capacity(client, **dict.fromkeys(names, 1))
    eat = 'exec 8>>"$1" 9>>"$2"; flock --nonblock 8 && flock --nonblock 9 && sleep 0.01'

    def philosopher(number: int) -> dict[str, Any]:
        pair = [names[number % 4], names[(number + 1) % 4]]
        taken = dict.fromkeys(pair if number % 2 else reversed(pair), 1)
        locks = [str(tmp_path / name) for name in pair]
        return {**shell(eat), "args": ["-c", eat, "sh", *locks], "resources": taken}

    jobs = [answer["id"] for answer in submit_many(client, [philosopher(number) for number in range(40)])]
    steps = send(client, flow({f"s{number}": philosopher(number) for number in range(40)}))

    ends = client.wait(*jobs, *steps["steps"].values(), timeout_s=2 * DEADLINE_S)
    assert {end["state"] for end in ends} == {"succeeded"}
    assert [resource(client, name)["used"] for name in names] == [0, 0, 0, 0]


def test_resource_when_its_capacity_is_taken_away_then_why_names_that_and_no_holder(
    client: stoker.Client, gate: Gate
) -> None:
    capacity(client, lathe=1)
    running(client, submit(client, gate.spec(), resources={"lathe": 1}))
    waits = submit(client, TRUE, resources={"lathe": 1})
    capacity(client, lathe=0)

    blocker = client.why(waits)

    assert blocker["message"] == "needs 1 of resource 'lathe', and its capacity is 0"
    assert blocker["hint"] == "stoker resource set lathe 1"
    gate.open()


def test_resource_when_hundreds_of_jobs_lack_it_then_a_later_job_still_starts(
    client: stoker.Client, gate: Gate
) -> None:
    capacity(client, rare=1)
    submit_running(client, gate.spec(), resources={"rare": 1})
    stuck = submit_many(client, [{"command": "true", "resources": {"rare": 1}}] * 1_100)

    last = submit(client, TRUE)

    assert end_of(client, last) == ("succeeded", "exit")
    gate.open()
    capacity(client, rare=8)
    client.wait(*[answer["id"] for answer in stuck if "error" not in answer])
    until(lambda: resource(client, "rare")["used"] == 0, why="everything given back")


def test_resource_when_hundreds_ask_for_different_amounts_then_all_start_in_turn(
    client: stoker.Client, gate: Gate
) -> None:
    """More lanes than hold whole jobs: the others are read when they start."""
    count = 3 * LANES_WITH_ROWS
    capacity(client, door=1, room=10 * count)
    submit_running(client, gate.spec(), resources={"door": 1})
    jobs = [{"command": "true", "resources": {"door": 1, "room": amount}} for amount in range(1, count + 1)]
    ids = [answer["id"] for answer in submit_many(client, jobs)]

    gate.open()
    client.wait(*ids)

    assert {state(client, job) for job in ids} == {"succeeded"}
    starts = [client.get(job)["attempts_list"][0]["created_at"] for job in ids]
    assert starts == sorted(starts)
    until(lambda: resource(client, "room")["used"] == 0, why="everything given back")


def test_resource_when_a_large_job_is_first_then_no_other_takes_it_before(
    client: stoker.Client, tmp_path: Path
) -> None:
    """Beside a steady stream of small jobs, none of them starts before the large one that is first."""
    capacity(client, furnace=2)
    gates = [Gate(tmp_path / f"gate{number}") for number in range(2)]
    holders = [submit(client, each.spec(), resources={"furnace": 1}) for each in gates]
    running(client, *holders)
    small = [submit(client, TRUE, resources={"furnace": 1}) for _ in range(10)]
    large = submit(client, TRUE, resources={"furnace": 2}, priority=10_000)
    small += [submit(client, TRUE, resources={"furnace": 1}) for _ in range(3)]

    gates[0].open()
    client.wait(holders[0])
    end_of(client, submit(client, TRUE))  # another turn, in which something may start
    blockers = [client.why(small[0]), client.why(large)]
    assert [client.get(job)["state"] for job in (*small, large)] == ["queued"] * 14
    gates[1].open()
    client.wait(*small, large)

    starts = [client.get(job)["attempts_list"][0]["created_at"] for job in small]
    assert client.get(large)["attempts_list"][0]["created_at"] <= min(starts)
    assert f"set aside for job {large}" in blockers[0]["message"]
    assert "units that become free are kept for it" in blockers[1]["message"]
