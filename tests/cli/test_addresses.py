"""Steps and groups of steps are named as WORKFLOW/STEP by each command that takes a job."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli import main
from stoker.cli.kit.addresses import StepAddress, address
from stoker.core.errors import UsageError
from stoker.rpc.client import Client
from tests.support import flows, work
from tests.support.facts import DEADLINE_S, line_with
from tests.support.flow_files import job_of, sent

if TYPE_CHECKING:
    from pathlib import Path

    from stoker.core.wire_types import StandingShape
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n[queues.shut]\npaused = true\n"
SHUT = {"command": "true", "queue": "shut"}


def shown(daemon: DaemonProcess, *words: str) -> Any:
    done = daemon.cli(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def names_in(daemon: DaemonProcess, workflow: str, group: str) -> dict[str, str]:
    """The states of the steps of a group, by name."""
    with daemon.client() as client:
        steps = client.call("workflow.steps", {"id": int(workflow), "step": group})["steps"]
    return {step["name"]: step["state"] for step in steps}


def test_address_when_it_is_typed_then_it_is_an_id_or_a_step() -> None:
    assert [address(text) for text in ("42", "#42")] == [42, 42]
    assert address("7/build[a/b]/link") == StepAddress((7, "build[a/b]/link"))
    assert address("w7/link") == StepAddress((7, "link"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("x", "'x' is not a job id"), ("x/link", "'x/link' names no step"), ("7/", "'7/' names no step")],
)
def test_address_when_it_is_none_then_the_form_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        address(text)

    assert (refused.value.message, refused.value.hint is None) == (message, False)


def test_step_when_it_is_named_then_the_commands_on_jobs_take_it(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(shared, tmp_path, {"greet": flows.step("echo hello"), "last": flows.step("true", "greet")})
    job = int(job_of(shared, flow, "greet"))

    waited = shared.cli("wait", f"{flow}/greet", f"{flow}/last")
    logged = shared.cli("logs", f"{flow}/greet")
    views = [shown(shared, command, f"{flow}/greet") for command in ("show", "history", "why")]

    assert (waited.returncode, logged.stdout) == (0, "hello\n")
    assert [view["id"] for view in views] == [job, job, job]
    assert shown(shared, "checkpoint", "ls", f"{flow}/greet") == shown(shared, "checkpoint", "ls", "--job", str(job))


def test_group_when_a_command_acts_on_it_then_it_acts_on_its_open_steps(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(
        shared, tmp_path, {"compile": {**SHUT, "each": ["a", "b", "c"]}, "link": {**SHUT, "needs": ["compile"]}}
    )
    first, *_ = names_in(shared, flow, "compile")
    shared.cli("cancel", f"{flow}/{first}")

    held = shown(shared, "hold", f"{flow}/compile")
    cancelled = shared.cli("cancel", f"{flow}/compile")
    again = shared.cli("cancel", f"{flow}/compile")
    several = shared.cli("history", f"{flow}/compile")

    assert [job["state"] for job in held] == ["held", "held"]
    assert (cancelled.returncode, cancelled.stdout.count("cancelled")) == (0, 2)
    assert again.stderr.splitlines()[0] == (
        f"stoker: none of the 3 steps of {flow}/compile is waiting or queued or running or held"
    )
    assert several.stderr.splitlines() == [
        f"stoker: {flow}/compile is a group of 3 steps; name one of them",
        "hint: " + " ".join(f"{flow}/{name}" for name in names_in(shared, flow, "compile")),
    ]


def test_jobs_when_a_workflow_or_its_steps_filter_them_then_only_these_are_listed(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    flow = sent(shared, tmp_path, {"a": {**SHUT, "each": ["x", "y"]}, "ab": SHUT, "old": {**SHUT, "needs": ["a"]}})

    def listed(where: str) -> list[str]:
        return [job["step"] for job in shown(shared, "ls", "--workflow", where)["jobs"]]

    whole, group, one = listed(flow), listed(f"{flow}/a"), listed(f"w{flow}/a[y]")
    missing = [shared.cli("ls", "--workflow", where) for where in ("999", f"{flow}/b", "999/a")]
    cancelled = shared.cli("cancel", "--workflow", f"{flow}/a", "--yes")
    shared.cli("workflow", "cancel", flow)

    assert sorted(whole) == ["a[x]", "a[y]", "ab", "old"]
    assert (sorted(group), one) == (["a[x]", "a[y]"], ["a[y]"])
    assert [done.returncode for done in missing] == [65, 65, 65]
    assert missing[0].stderr == "stoker: there is no workflow 999\nhint: stoker workflow ls\n"
    assert missing[1].stderr.startswith(f"stoker: step: workflow {flow} has no step 'b' (it has: a, ab, old)\n")
    assert cancelled.stdout.count("cancelled") == 2


def test_submit_when_it_is_to_start_after_a_group_then_it_needs_each_step(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    later = {**SHUT, "each": {"step": "list", "output": "files"}}
    flow = sent(shared, tmp_path, {"a": {**SHUT, "each": ["x", "y"]}, "list": SHUT, "later": later})

    job = shared.cli("submit", "--after", f"{flow}/a:any", "--after", f"{flow}/list", "true").stdout.strip()
    needs = shown(shared, "show", job)["needs"]
    refused = shared.cli("submit", "--after", f"{flow}/later", "true")
    shared.cli("workflow", "cancel", flow)

    steps = [int(job_of(shared, flow, name)) for name in ("a[x]", "a[y]", "list")]
    assert needs == [{"job": steps[0], "on": "any"}, {"job": steps[1], "on": "any"}, {"job": steps[2], "on": "ok"}]
    assert refused.returncode == 64
    assert refused.stderr == (
        f"stoker: the steps of {flow}/later are not known yet: their list comes at run time\n"
        f"hint: --wait-for workflow:{flow} starts it after the whole workflow\n"
    )


def test_group_when_its_list_came_at_run_time_then_views_show_its_steps(shared: DaemonProcess, tmp_path: Path) -> None:
    steps = {
        "list": flows.step("""echo 'files=["a", "bb"]' >> $STOKER_OUTPUT"""),
        "compile": flows.step("echo on $STOKER_ITEM; printf '1%%\\r2%%'", each={"step": "list", "output": "files"}),
        "plain": flows.step("echo plain", each=["x", "y"]),
        "shut": {**SHUT, "each": ["x", "y"]},
    }
    flow = sent(shared, tmp_path, steps)

    waited = shared.cli("wait", f"{flow}/compile", f"{flow}/plain")
    logs = {group: shared.cli("logs", f"{flow}/{group}") for group in ("compile", "plain", "shut")}
    pieces = [json.loads(line) for line in shared.cli("logs", f"{flow}/plain", "--json").stdout.splitlines()]
    followed = shared.cli("logs", f"{flow}/compile", "--follow")
    reasons = [shared.cli("why", f"{flow}/{group}").stdout for group in ("compile", "shut")]
    seen = shown(shared, "show", f"{flow}/compile")
    refused = [shared.cli(*command, f"{flow}/compile").stderr for command in (["history"], ["checkpoint", "ls"])]
    shared.cli("workflow", "cancel", flow)

    assert refused == 2 * [
        f"stoker: {flow}/compile is a group of 2 steps; name one of them\nhint: {flow}/compile[a] {flow}/compile[bb]\n"
    ]
    assert waited.returncode == 0
    assert {step["state"] for step in seen["steps"]} == {"succeeded"}
    assert [step["name"] for step in seen["steps"]] == ["compile", "compile[a]", "compile[bb]"]
    assert logs["compile"].stdout.splitlines() == [
        *(f"compile[a]  | {line}" for line in ("on a", "1%", "2%")),
        *(f"compile[bb] | {line}" for line in ("on bb", "1%", "2%")),
    ]
    assert logs["plain"].stdout == "plain[x] | plain\nplain[y] | plain\n"
    assert (logs["shut"].stdout, logs["shut"].stderr) == ("", "stoker: not started: shut[x, y]\n")
    assert [piece["step"] for piece in pieces] == ["plain[x]", "plain[y]"]
    assert sorted(followed.stdout.splitlines()) == sorted(logs["compile"].stdout.splitlines())
    assert reasons[0] == "compile[a, bb]: succeeded (exit 0)\n"
    assert reasons[1].startswith("shut[x, y]: queue 'shut' is paused")
    assert reasons[1].endswith("next: stoker queue resume shut\n")


def test_logs_when_a_group_is_followed_then_all_its_steps_are_at_once(shared: DaemonProcess, tmp_path: Path) -> None:
    gate, list_gate = work.Gate(tmp_path / "gate"), work.Gate(tmp_path / "list")
    listed = f"""read _ < {list_gate.path}; echo 'names=["x", "y"]' >> $STOKER_OUTPUT"""
    steps = {
        "list": flows.step(listed),
        "g": flows.step(f"echo begin; read _ < {gate.path}; printf end", each={"step": "list", "output": "names"}),
    }
    flow = sent(shared, tmp_path, steps)
    command = [str(shared.programs / "stoker"), "logs", "-f", f"{flow}/g"]

    with subprocess.Popen(command, env=shared.client_environ, stdout=subprocess.PIPE, text=True) as process:
        list_gate.open()
        begun = [line_with(process, process.stdout, "begin") for _ in "xy"]
        gate.open()
        ended = [line_with(process, process.stdout, "end") for _ in "xy"]
        process.wait(DEADLINE_S)

    assert sorted(begun) == ["g[x] | begin\n", "g[y] | begin\n"]
    assert sorted(ended) == ["g[x] | end\n", "g[y] | end\n"]
    assert process.returncode == 0


def test_group_when_a_wait_begins_before_its_list_then_it_waits_for_its_steps(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *args = gate.pass_by("echo 'files=[1]' >> $STOKER_OUTPUT")
    of_list = flows.step("exit 3", each={"step": "list", "output": "files"})
    flow = sent(shared, tmp_path, {"list": {"command": command, "args": args}, "compile": of_list})
    asked: list[tuple[int, ...]] = []
    wait = Client.wait

    def opening(self: Client, *jobs: int, **options: Any) -> list[StandingShape]:
        asked.append(jobs)
        gate.open()
        return wait(self, *jobs, **options)

    monkeypatch.setattr(Client, "wait", opening)
    monkeypatch.setenv("STOKER_SOCKET", str(shared.socket))
    status = main.guarded(["wait", f"{flow}/compile"])

    assert [len(jobs) for jobs in asked] == [1, 2]
    assert status == 1


def test_group_when_a_workflow_retries_or_skips_it_then_all_its_steps_are_meant(
    shared: DaemonProcess, tmp_path: Path
) -> None:
    steps = {
        "compile": flows.step("exit 3", each=["a", "b"]),
        "test": flows.step("exit 3", each=["a", "b"]),
        "link": flows.step("true", "compile", "test"),
    }
    flow = sent(shared, tmp_path, steps)
    shared.cli("workflow", "wait", flow)

    retried = shown(shared, "workflow", "retry", flow, "--step", "compile", "--step", "test")
    shared.cli("workflow", "wait", flow)
    skipped = [shown(shared, "workflow", "skip", flow, group) for group in ("compile", "test")]
    ended = shared.cli("workflow", "wait", flow)
    again = shared.cli("workflow", "skip", flow, "test")

    groups = [names_in(shared, flow, group) for group in ("compile", "test")]
    assert retried["reset"] == sorted([*groups[0], *groups[1], "link"])
    assert [answer["skipped"] for answer in skipped] == [list(group) for group in groups]
    assert (ended.returncode, {state for group in groups for state in group.values()}) == (0, {"skipped"})
    assert again.stderr.splitlines()[0] == "stoker: test cannot be skipped: each of its steps is done"


def test_step_when_its_name_is_wrong_then_the_nearest_one_is_named(shared: DaemonProcess, tmp_path: Path) -> None:
    flow = sent(shared, tmp_path, {"compile": {**SHUT, "each": ["a", "b"]}, "link": {**SHUT, "needs": ["compile"]}})

    jobs = [shared.cli(command, f"{flow}/compil") for command in ("logs", "cancel", "wait")]
    whole = [
        shared.cli("workflow", "retry", flow, "--step", "compil"),
        shared.cli("workflow", "resume", flow, "--from", "compil"),
        shared.cli("workflow", "skip", flow, "compil"),
    ]
    shared.cli("workflow", "cancel", flow)

    problem = f"workflow {flow} has no step 'compil' (it has: compile, link)\nhint: did you mean compile?\n"
    assert {done.stderr for done in jobs} == {f"stoker: {problem}"}
    assert all(done.stderr.endswith(problem) for done in whole)


def test_group_when_a_step_of_it_runs_then_a_skip_is_refused(
    shared: DaemonProcess, tmp_path: Path, gate: work.Gate
) -> None:
    command, *args = gate.pass_by()
    steps = {"work": {"command": command, "args": args, "each": ["a", "b"]}}
    flow = sent(shared, tmp_path, steps)
    with shared.client() as client:
        names = list(names_in(shared, flow, "work"))
        for name in names:
            work.running(client, flows.job_of(client, int(flow), name))

    refused = shared.cli("workflow", "skip", flow, "work")
    gate.open()
    ended = shared.cli("workflow", "wait", flow)

    assert refused.stderr.splitlines() == [
        f"stoker: work cannot be skipped: step {names[0]} runs",
        f"hint: stoker cancel {flow}/{names[0]}",
    ]
    assert ended.returncode == 0
