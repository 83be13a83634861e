"""Data that a worker hands on: outputs, the inputs of jobs that need them, and the end of the log of a failure."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import DaemonProcess
from tests.support.flows import chain, flow, flow_end, send, workflow_view
from tests.support.work import attempts_of, end_of, job_view, lines, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    import stoker


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo nonsense > $STOKER_OUTPUT", "line 1: not key=value"),
        ("echo '[1, 2]' > $STOKER_OUTPUT", "not key=value"),
        ("echo '{\"a\": ' > $STOKER_OUTPUT", "not a JSON object"),
        ("printf 'a=\\377' > $STOKER_OUTPUT", "not UTF-8"),
        ("head -c 70000 /dev/zero | tr '\\0' a > $STOKER_OUTPUT", "the limit is 65536"),
        ("rm -f $STOKER_OUTPUT; mkfifo $STOKER_OUTPUT", "not a regular file"),
        ("rm -f $STOKER_OUTPUT; ln -s /etc/passwd $STOKER_OUTPUT", "not a regular file"),
        ("rm -f $STOKER_OUTPUT; mkdir $STOKER_OUTPUT", "not a regular file"),
    ],
)
def test_output_when_it_is_refused_then_the_step_fails_and_every_answer_says_why(
    shared: DaemonProcess, client: stoker.Client, script: str, complaint: str
) -> None:
    answer = send(client, flow({"a": shell(script), "b": {**shell("exit 0"), "needs": ["a"]}}))
    workflow, job = answer["id"], answer["steps"]["a"]

    assert flow_end(client, workflow) == "failed"

    (attempt,) = attempts_of(client, job)
    assert attempt["error"].startswith("STOKER_OUTPUT: ")
    assert complaint in attempt["error"]
    assert (job_view(client, job)["failures"], attempt["exit_code"]) == (1, 0)
    steps = {
        step["name"]: (step["state"], step["reason"], step["error"])
        for step in workflow_view(client, workflow)["steps"]
    }
    assert steps == {"a": ("failed", "output", attempt["error"]), "b": ("skipped", "dependency", None)}
    why = client.call("job.why", {"id": job})["message"]
    assert why == f"failed: its output could not be read, or a file that it produces is missing: {attempt['error']}"
    analysis = client.call("workflow.get", {"id": workflow, "analyse": True})["analysis"]
    assert (analysis["causes"]["output"], attempt["error"] in analysis["message"]) == (["a"], True)
    (event,) = shared.logged("task_failed", job=job)
    assert (event["reason"], event["error"]) == ("output", attempt["error"])


def test_output_when_a_later_try_can_be_taken_then_the_step_succeeds_with_that(client: stoker.Client) -> None:
    script = 'echo "try=$STOKER_ATTEMPT" > $STOKER_OUTPUT; [ $STOKER_ATTEMPT = 2 ] || echo nonsense >> $STOKER_OUTPUT'

    job = submit(client, shell(script, max_attempts=2, base_delay_ms=1))

    assert end_of(client, job) == ("succeeded", "exit")
    assert [attempt["error"] is None for attempt in attempts_of(client, job)] == [False, True]


def test_inputs_when_too_large_for_an_environment_then_the_file_has_them_all(
    client: stoker.Client, tmp_path: Path
) -> None:
    talks = shell("printf a= > $STOKER_OUTPUT; head -c 60000 /dev/zero | tr '\\0' a >> $STOKER_OUTPUT")
    reads = shell(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/file; env > {tmp_path}/env')

    answer = send(client, flow({"a": talks, "b": talks, "c": {**reads, "needs": ["a", "b"]}}))

    assert flow_end(client, answer["id"]) == "succeeded"
    end = {"state": "succeeded", "reason": "exit", "exit_code": 0, "outputs": {"a": "a" * 60_000}}
    assert json.loads((tmp_path / "file").read_text()) == {"a": end, "b": end}
    environ = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert "STOKER_INPUTS" not in environ
    assert (environ["STOKER_WORKFLOW_ID"], environ["STOKER_STEP"]) == (str(answer["id"]), "c")


def test_inputs_when_a_need_has_no_output_then_the_file_says_how_it_ended(
    client: stoker.Client, tmp_path: Path
) -> None:
    reads = shell(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/file; printf %s "$STOKER_INPUTS" > {tmp_path}/variable')
    needs = ["quiet", {"step": "bad", "on": "failed"}]

    answer = send(
        client,
        flow(
            {
                "quiet": shell("exit 0"),
                "bad": {**shell("echo why=disk > $STOKER_OUTPUT; exit 3"), "critical": False},
                "last": {**reads, "needs": needs},
            }
        ),
    )

    assert flow_end(client, answer["id"]) == "succeeded"
    assert json.loads((tmp_path / "file").read_text()) == {
        "quiet": {"state": "succeeded", "reason": "exit", "exit_code": 0, "outputs": {}},
        "bad": {"state": "failed", "reason": "exit", "exit_code": 3, "outputs": {"why": "disk"}},
    }
    assert json.loads((tmp_path / "variable").read_text()) == {"bad": {"why": "disk"}}


def test_inputs_when_many_needs_hand_on_much_then_all_of_them_arrive(client: stoker.Client, tmp_path: Path) -> None:
    talk = shell('printf "a=%02000d" 0 > $STOKER_OUTPUT')
    steps = {f"s{number:04d}": talk for number in range(150)}
    reads = {**shell(f'cp "$STOKER_INPUTS_FILE" {tmp_path}/file'), "needs": list(steps)}

    answer = send(client, flow({**steps, "last": reads}))

    assert flow_end(client, answer["id"]) == "succeeded"
    inputs = json.loads((tmp_path / "file").read_text())
    assert {name: len(end["outputs"]["a"]) for name, end in inputs.items()} == dict.fromkeys(steps, 2_000)


def test_item_when_it_has_the_signs_of_a_shell_then_a_script_reads_it_as_it_is(
    client: stoker.Client, tmp_path: Path
) -> None:
    item = 'it\'s; $(touch /nowhere) "x"\n{{'
    steps = {
        "each": {**shell(f'printf %s "$STOKER_ITEM" > {tmp_path}/item'), "each": [item]},
        "one": shell(f"env > {tmp_path}/env"),
    }

    answer = send(client, flow(steps))

    assert flow_end(client, answer["id"]) == "succeeded"
    assert (tmp_path / "item").read_text() == item
    assert "STOKER_ITEM" not in (tmp_path / "env").read_text()


def test_inputs_when_a_job_needs_nothing_then_its_file_is_there_and_read_only(
    client: stoker.Client, shared: DaemonProcess, tmp_path: Path
) -> None:
    job = submit(client, shell(f'cat "$STOKER_INPUTS_FILE" > {tmp_path}/file; env > {tmp_path}/env'))

    assert end_of(client, job) == ("succeeded", "exit")
    assert (tmp_path / "file").read_text() == "{}\n"
    assert not {"STOKER_WORKFLOW_ID", "STOKER_STEP"} & {line.partition("=")[0] for line in lines(tmp_path / "env")}
    assert (shared.state_dir / "work" / "none").stat().st_mode & 0o777 == 0o400


# --- why a failure failed ----------------------------------------------------------------------------------

TRACEBACK = """
def inner():
    raise ValueError("no such colour")
print("before", flush=True)
try:
    raise KeyError("first")
except KeyError:
    pass
inner()
"""


@pytest.mark.parametrize(
    ("spec", "begins", "ends"),
    [
        (shell("echo one; echo 'disk is full' >&2; exit 3"), "one\n", "disk is full"),
        (shell("echo gone >&2; kill -9 $$"), "gone", "gone"),
        ({"command": sys.executable, "args": ["-c", TRACEBACK]}, "Traceback (most", "ValueError: no such colour"),
        (shell("printf 'a\\377\\000b'; exit 1"), "a\ufffd\ufffdb", "b"),
    ],
    ids=["lines", "signal", "traceback", "binary"],
)
def test_failure_when_a_step_fails_by_itself_then_its_record_has_the_end_of_its_log(
    client: stoker.Client, shared: DaemonProcess, spec: dict[str, Any], begins: str, ends: str
) -> None:
    answer = send(client, flow({"a": spec}))

    assert flow_end(client, answer["id"]) == "failed"

    (end,) = [one for one in chain(client, workflow=answer["id"]) if one["kind"] == "step"]
    error = json.loads(client.checkpoint_data(end["id"]))["error"]
    assert (error[: len(begins)], error[-len(ends) :]) == (begins, ends)
    assert client.history(answer["steps"]["a"])["attempts"][0]["error"] == error
    (event,) = shared.logged("task_failed", job=answer["steps"]["a"])
    assert "error" not in event  # the output of a job may be confidential: it is not for the daemon's own log


def test_failure_when_its_log_is_long_then_its_record_is_bounded(client: stoker.Client) -> None:
    job = submit(client, shell("seq 100000; exit 1"))

    end_of(client, job)

    error = attempts_of(client, job)[0]["error"]
    assert (error[-6:], len(error) <= 2_000) == ("100000", True)


@pytest.mark.parametrize("script", ["echo fine; exit 0", "exit 3"])
def test_failure_when_a_job_succeeds_or_prints_nothing_then_there_is_no_error(
    client: stoker.Client, script: str
) -> None:
    job = submit(client, shell(script))

    end_of(client, job)

    assert attempts_of(client, job)[0]["error"] is None
